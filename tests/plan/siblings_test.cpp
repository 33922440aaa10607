// Convolutions of one image side by side: what is merged, what is refused and why, NaN, and kept values.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>

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
constexpr ft::Conv2dOptions strided{.stride = {2, 2}, .padding = {1, 1}};

Tensor drawn(const Shape& shape, DType dtype = DType::f32) {
  const Tensor tensor = ft::variable(ft::cast(ft::randn(shape), dtype).detach());
  ft::materialize({tensor});
  return tensor;
}

bool half_empty_vectors() { return has_avx512(); }

/// Every result as the CPU, fused, and as the reference has it.
void check_against_reference(const std::function<std::vector<Tensor>()>& program, double tolerance) {
  const auto numbers = [&](const char* name) {
    const OnBackend backend(name);
    const std::vector<Tensor> results = program();
    ft::materialize();
    std::vector<Numbers> all;
    for (const Tensor& result : results) all.push_back(result.to_vector<double>());
    return all;
  };
  const std::vector<Numbers> got = numbers("cpu"), expected = numbers("reference");
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(difference(got[i], expected[i]) <= tolerance);
  }
}

}  // namespace

TEST_CASE("siblings are one group, whatever directly follows each") {
  const OnBackend backend("null");
  const Tensor x = drawn({2, 6, 6, 8}), z = drawn({2, 6, 6, 8}), b = drawn({8});
  const Tensor w[] = {drawn({8, 3, 3, 8}), drawn({8, 3, 3, 8}), drawn({8, 3, 3, 8})};
  const Tensor smaller = drawn({4, 3, 3, 8});
  const auto conv = [&](int i) { return ft::conv2d(x, w[i], same); };
  const std::pair<const char*, std::function<std::vector<Tensor>()>> cases[] = {
      {"conv2d&conv2d; ",
       [&] {
         return std::vector{conv(0), conv(1)};
       }},
      {"conv2d&conv2d&conv2d; ",
       [&] {
         return std::vector{conv(0), conv(1), conv(2)};
       }},
      {"conv2d+bias+relu&conv2d+relu; ",
       [&] {
         return std::vector{ft::relu(ft::conv2d(x, w[0], b, same)), ft::relu(conv(1))};
       }},
      {"conv2d&conv2d+bias; add+relu; ",
       [&] {
         return std::vector{ft::relu(conv(0) + z), ft::conv2d(x, w[1], b, same)};
       }},
      // Other shapes, attributes and images stay apart.
      {"conv2d; conv2d; ",
       [&] {
         return std::vector{conv(0), ft::conv2d(x, smaller, same)};
       }},
      {"conv2d; conv2d; ",
       [&] {
         return std::vector{conv(0), ft::conv2d(x, w[1], strided)};
       }},
      {"conv2d; conv2d; ",
       [&] {
         return std::vector{conv(0), ft::conv2d(z, w[1], same)};
       }},
  };
  for (const auto& [name, program] : cases) {
    const std::vector<Tensor> results = program();
    ft::materialize();
    CHECK(group_names() == name);
  }
}

TEST_CASE("a value inside that a handle keeps ends its sibling there") {
  const OnBackend backend("null");
  const Tensor x = drawn({2, 6, 6, 8}), w = drawn({8, 3, 3, 8}), v = drawn({8, 3, 3, 8}), b = drawn({8});
  const Tensor before = ft::conv2d(x, w, b, same), y = ft::relu(before);
  const Tensor other = ft::relu(ft::conv2d(x, v, b, same));
  ft::materialize({y, other});
  CHECK(group_names() == "conv2d+bias&conv2d+bias+relu; relu; ");
  check_against_reference(
      [&] {
        const Tensor kept = ft::conv2d(x, w, b, same);
        return std::vector{kept, ft::relu(kept), ft::relu(ft::conv2d(x, v, b, same))};
      },
      2e-6);
}

TEST_CASE("siblings of which one needs the other are none") {
  for (const char* name : {"null", "cpu"}) {
    const OnBackend backend(name);
    const Tensor x = drawn({8, 3, 3, 8}), w = drawn({8, 3, 3, 8});
    {  // y is the other's filters
      const Tensor y = ft::conv2d(x, w, same), z = ft::conv2d(x, y, same);
      ft::materialize({y, z});
      CHECK(group_names() == "conv2d; conv2d; ");
      CHECK(contains(refusal_of("conv2d&conv2d"), "one of the convolutions reads what another makes"));
    }
    {  // by way of another op
      const Tensor y = ft::conv2d(x, w, same), z = ft::conv2d(x, y * 0.5, same);
      ft::materialize({y, z});
      CHECK(group_names() == "conv2d; mul; conv2d; ");
    }
    {  // a bias of the first reads the second
      const Tensor first = ft::conv2d(x, w, same), second = ft::conv2d(x, w * 2, same);
      const Tensor y = ft::bias_add(first, ft::sum(second, {0, 1, 2}));
      ft::materialize({y});
      CHECK(ft::explain().kernels >= 3);
    }
  }
  const Tensor x = drawn({8, 3, 3, 8}), w = drawn({8, 3, 3, 8});
  check_against_reference(
      [&] {
        const Tensor first = ft::conv2d(x, w, same), second = ft::conv2d(x, w * 2, same);
        const Tensor scaled = ft::conv2d(x, second * 0.1, same);
        return std::vector{ft::bias_add(first, ft::sum(second, {0, 1, 2})), scaled};
      },
      1e-5);
}

TEST_CASE("what does not pay is refused with what was measured") {
  if (!half_empty_vectors()) return;
  const OnBackend backend("cpu");
  struct Case {
    std::int64_t out, extent, channels;
    const char* says;
  };
  for (const Case& c : {Case{16, 3, 8, "4 or 8 outputs leave half of a vector unused, not 16"},
                        Case{8, 1, 8, "filters under 3x3 compute too little"},
                        Case{8, 3, 2, "with 2 input channels there is too little to compute"}}) {
    const Tensor x = drawn({2, 6, 6, c.channels});
    const Shape w{c.out, c.extent, c.extent, c.channels};
    const Tensor first = drawn(w), second = drawn(w);
    const Tensor y = ft::conv2d(x, first), z = ft::conv2d(x, second);
    ft::materialize({y, z});
    CHECK(group_names() == "conv2d; conv2d; ");
    CHECK(contains(refusal_of("conv2d&conv2d"), c.says));
  }
}

TEST_CASE("a step of bf16 siblings with f32 weights, forward and backward") {
  const OnBackend backend(half_empty_vectors() ? "cpu" : "null");
  const Tensor x = drawn({2, 8, 8, 16}, DType::bf16), w = drawn({8, 3, 3, 16}), v = drawn({8, 3, 3, 16});
  const auto gradients = [&] {
    const Tensor y = ft::conv2d(x, ft::cast(w, DType::bf16), strided);
    const Tensor z = ft::conv2d(x, ft::cast(v, DType::bf16), strided);
    return ft::grad({y, z}, {x, w, v}, {ft::ones(y.shape(), DType::bf16), ft::ones(z.shape(), DType::bf16)});
  };
  const std::vector<Tensor> results = gradients();
  ft::materialize();
  for (const char* group :
       {"conv2d_grad_weight+cast&conv2d_grad_weight+cast; ", "conv2d_grad_input&conv2d_grad_input+add; "}) {
    CHECK(contains(group_names(), group));
  }
  check_against_reference(gradients, 0.02);
}

TEST_CASE("one sibling's NaN stays its own, and passes its ReLU") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor x = drawn({2, 5, 4, 8}, dtype), w = drawn({8, 3, 3, 8}, dtype), b = drawn({8}, dtype);
    Numbers spoiled = w.to_vector<double>();
    spoiled[100] = std::nan("");
    const Tensor v = ft::from_doubles(spoiled, w.shape(), dtype);
    check_against_reference(
        [&] {
          return std::vector{ft::relu(ft::conv2d(x, v, b, same)), ft::relu(ft::conv2d(x, w, b, same)),
                             ft::conv2d(x, w * 0.5, same)};
        },
        dtype == DType::f32 ? 1e-6 : 0.02);
  }
}
