// The convolution's epilogues: what may be one kernel, NaN, and how exactly a batch norm is folded.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <utility>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Shape;
using ft::Tensor;

namespace {

constexpr ft::Conv2dOptions same{.padding = {1, 1}};

struct Parts {
  Tensor x, w, bias, z, gamma, beta, mean, var;
};

Parts parts(const Shape& image, std::int64_t out, DType dtype = DType::f32) {
  const auto drawn = [dtype](const Shape& shape) { return ft::cast(ft::randn(shape), dtype); };
  const auto positive = [](const Shape& shape) { return ft::rand(shape) + 0.5; };
  Parts p{drawn(image),     drawn({out, 3, 3, image[3]}),
          drawn({out}),     drawn({image[0], image[1], image[2], out}),
          positive({out}),  ft::randn({out}),
          ft::randn({out}), positive({out})};
  ft::materialize({p.x, p.w, p.bias, p.z, p.gamma, p.beta, p.mean, p.var});
  return p;
}

Tensor norm(Tensor y, const Parts& p) {
  return ft::batch_norm_inference(std::move(y), p.gamma, p.beta, p.mean, p.var);
}

}  // namespace

TEST_CASE("a convolution's epilogues are one kernel each") {
  const OnBackend backend("null");
  const Parts p = parts({2, 6, 6, 8}, 24);
  const auto plain = [&] { return ft::conv2d(p.x, p.w, same); };
  const auto biased = [&] { return ft::conv2d(p.x, p.w, p.bias, same); };
  const std::pair<const char*, std::function<Tensor()>> cases[] = {
      {"conv2d+relu; ", [&] { return ft::relu(plain()); }},
      {"conv2d+bias; ", [&] { return biased(); }},
      {"conv2d+bias+relu; ", [&] { return ft::relu(biased()); }},
      {"conv2d+add; ", [&] { return plain() + p.z; }},
      {"conv2d+bias+add; ", [&] { return p.z + biased(); }},
      {"conv2d+add+relu; ", [&] { return ft::relu(plain() + p.z); }},
      {"conv2d+bias+add+relu; ", [&] { return ft::relu(p.z + biased()); }},
      {"conv2d+batch_norm_inference; ", [&] { return norm(plain(), p); }},
      {"conv2d+bias+batch_norm_inference; ", [&] { return norm(biased(), p); }},
      {"conv2d+batch_norm_inference+relu; ", [&] { return ft::relu(norm(plain(), p)); }},
      {"conv2d+batch_norm_inference+add; ", [&] { return norm(plain(), p) + p.z; }},
      {"conv2d+bias+batch_norm_inference+add+relu; ", [&] { return ft::relu(norm(biased(), p) + p.z); }},
  };
  for (const auto& [name, y] : cases) {
    const Tensor result = y();
    ft::materialize({result});
    CHECK(group_names() == name);
  }
}

TEST_CASE("a value inside that is read elsewhere: what is fused instead, and why") {
  const OnBackend backend("cpu");
  const Parts p = parts({2, 6, 6, 8}, 24);
  struct Case {
    const char *rule, *group, *says;
    std::function<Tensor()> before_relu;
  };
  const Case cases[] = {
      {"conv2d+bias+relu", "conv2d+bias; relu; ", "conv2d+bias is fused, and the ReLU runs apart",
       [&] { return ft::conv2d(p.x, p.w, p.bias, same); }},
      {"conv2d+bias+relu", "conv2d; relu; ", "the convolution and the ReLU run apart",
       [&] { return ft::conv2d(p.x, p.w, same); }},
      {"conv2d+add+relu", "conv2d+bias+add; relu; ", "conv2d+bias+add is fused, and the ReLU runs apart",
       [&] { return ft::conv2d(p.x, p.w, p.bias, same) + p.z; }},
      {"conv2d+batch_norm_inference+relu", "conv2d+batch_norm_inference; relu; ",
       "conv2d+batch_norm_inference is fused, and the ReLU runs apart",
       [&] { return norm(ft::conv2d(p.x, p.w, same), p); }},
  };
  for (const Case& c : cases) {
    const Tensor before = c.before_relu(), y = ft::relu(before);
    ft::materialize({y});
    CHECK(group_names() == c.group);
    CHECK(contains(refusal_of(c.rule), c.says));
  }
  const Tensor convolved = ft::conv2d(p.x, p.w, same), y = norm(convolved, p);
  ft::materialize({y});
  CHECK(group_names() == "conv2d; batch_norm_inference; ");
  CHECK(contains(refusal_of("conv2d+batch_norm_inference"), "the output of conv2d is kept by a live handle"));
}

TEST_CASE("a sum is not taken where oneDNN is slower with it") {
  const OnBackend backend("cpu");
  const Parts p = parts({1, 4, 30, 8}, 16);
  const Tensor y = ft::relu(ft::conv2d(p.x, p.w, same) + p.z);
  ft::materialize({y});
  CHECK(group_names() == "conv2d; add+relu; ");
  CHECK(contains(refusal_of("conv2d+add+relu"), "slower than the convolution and the add apart"));

  const Tensor x = ft::variable(p.x), g = ft::ones({1, 2, 15, 16});
  const Tensor strided = ft::conv2d(x, p.w, {.stride = {2, 2}, .padding = {1, 1}});
  const Tensor dx = ft::grad({strided, x * 2}, {x}, {g, p.x})[0];
  ft::materialize({dx});
  CHECK(contains(refusal_of("conv2d_grad_input+add"), "slower than the two apart"));
}

TEST_CASE("a sum has the same bits in its summand's buffer and beside it") {
  const OnBackend backend("cpu");
  const ConvBy direct(ft::ConvAlgorithm::direct);
  for (const Shape& image : {Shape{1, 1, 1, 4}, Shape{2, 5, 6, 3}, Shape{2, 9, 7, 16}, Shape{1, 30, 30, 8}}) {
    for (const std::int64_t out : {4, 17, 24}) {
      CAPTURE(to_string(image));
      CAPTURE(out);
      const Parts p = parts(image, out);
      Tensor summand = p.z * 1.5;
      const Tensor lent = ft::conv2d(p.x, p.w, same) + std::move(summand);
      ft::materialize({lent});
      CHECK(group_names() == "mul; conv2d+add; ");
      summand = p.z * 1.5;
      const Tensor beside = ft::conv2d(p.x, p.w, same) + summand;
      ft::materialize({beside});
      CHECK(lent.to_vector() == beside.to_vector());
    }
  }
}

TEST_CASE("every epilogue keeps the NaN of x, z and bias, and changes nothing else") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool wide : {false, true}) {
      Parts p = parts(wide ? Shape{1, 3, 40, 5} : Shape{2, 5, 4, 8}, 20, dtype);
      const auto spoiled = [&](const Tensor& of, std::size_t at) {
        Numbers data = of.to_vector<double>();
        data[at] = std::nan("");
        return ft::from_doubles(data, of.shape(), dtype);
      };
      const Tensor clean_x = p.x, clean_z = p.z, clean_bias = p.bias;
      for (int part = 0; part < 3; ++part) {
        p.x = part == 0 ? spoiled(clean_x, 7) : clean_x;
        p.z = part == 1 ? spoiled(clean_z, 11) : clean_z;
        p.bias = part == 2 ? spoiled(clean_bias, 3) : clean_bias;
        const auto conv = [&] { return ft::conv2d(p.x, p.w, p.bias, same); };
        const std::function<Tensor()> epilogues[] = {
            [&] { return ft::relu(conv()); },
            [&] { return ft::relu(conv() + p.z); },
            [&] { return conv() + p.z; },
            [&] { return conv() + p.z * 2; },
            [&] { return ft::relu(norm(conv(), p)); },
            [&] { return ft::relu(norm(conv(), p) + p.z); },
        };
        // One by one: side by side they would share the convolution.
        const auto results = [&](const char* name) {
          const OnBackend backend(name);
          std::vector<Numbers> all;
          for (const auto& epilogue : epilogues) all.push_back(epilogue().to_vector<double>());
          return all;
        };
        const std::vector<Numbers> got = results("cpu"), expected = results("reference");
        for (std::size_t i = 0; i < got.size(); ++i) {
          CAPTURE(part);
          CAPTURE(i);
          CHECK(difference(got[i], expected[i]) <= (dtype == DType::f32 ? 1e-6 : 0.02));
        }
      }
    }
  }
}

TEST_CASE("a folded batch norm keeps any NaN of its parameters, whatever its bits") {
  const float all_ones = std::bit_cast<float>(0x7fffffffu);
  for (const ft::ConvAlgorithm algorithm : {ft::ConvAlgorithm::direct, ft::ConvAlgorithm::winograd}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const OnBackend backend("cpu");
      const ConvBy by(algorithm);
      Parts p = parts({1, 8, 8, 16}, 20, dtype);
      std::vector<float> gamma(20, 1.0f);
      gamma[3] = gamma[17] = all_ones;
      p.gamma = ft::from_vector(gamma, {20});
      const Numbers y = norm(ft::conv2d(p.x, p.w, same), p).to_vector<double>();
      CHECK(group_names() == "conv2d+batch_norm_inference; ");
      for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i % 20 == 3 || i % 20 == 17));
    }
  }
}

TEST_CASE("a folded batch norm errs by less than 5e-7 of the largest value") {
  // A 7×7 convolution with stride 2, as ImageNet networks begin.
  const auto generator_numbers = [] {
    Parts p = parts({1, 64, 64, 3}, 64);
    p.w = ft::randn({64, 7, 7, 3}) * std::sqrt(2.0 / (7 * 7 * 3));
    ft::materialize({p.w});
    return p;
  };
  const auto result = [&](const Parts& p) {
    return norm(ft::conv2d(p.x, p.w, {.stride = {2, 2}, .padding = {3, 3}}), p).to_vector<double>();
  };
  Parts p;
  Numbers got;
  {
    const OnBackend cpu("cpu");
    p = generator_numbers();
    got = result(p);
    CHECK(group_names() == "conv2d+batch_norm_inference; ");
    CHECK(contains(ft::explain().groups[0].kernel, "in 2 parts"));
  }
  const OnBackend reference("reference");
  for (Tensor* t : {&p.x, &p.w, &p.gamma, &p.beta, &p.mean, &p.var}) {
    *t = ft::from_doubles(t->to_vector<double>(), t->shape(), DType::f64);
  }
  CHECK(difference(got, result(p), 0) <= 5e-7);
}
