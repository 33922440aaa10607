// The worked examples of the texts that the project started from: convolution and its gradients, bias, ReLU
// by y, the fused forms against their unfused graphs, and a convolution with its batch norm folded in.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "fusetape/fusetape.hpp"

namespace ft = fusetape;
using ft::Shape;
using ft::Tensor;

namespace {

constexpr std::string_view backends[] = {"reference", "cpu"};

/// One backend and one fusion setting, for a scope.
class Setting {
 public:
  Setting(std::string_view backend, bool fusion)
      : backend_(ft::backend_name()), fusion_(ft::fusion_enabled()) {
    ft::set_backend(backend);
    ft::set_fusion(fusion);
  }
  ~Setting() {
    ft::set_backend(backend_);
    ft::set_fusion(fusion_);
  }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  std::string backend_;
  bool fusion_;
};

void check_close(const Tensor& got, const std::vector<float>& expected, double tolerance = 0) {
  const std::vector<float> values = got.to_vector();
  REQUIRE(values.size() == expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    CAPTURE(i);
    const double allowed = tolerance * std::max(1.0, std::abs(static_cast<double>(expected[i])));
    CHECK(std::abs(static_cast<double>(values[i]) - static_cast<double>(expected[i])) <= allowed);
  }
}

/// ‖a − b‖ / ‖b‖.
double relative_error(const Tensor& a, const Tensor& b) {
  const std::vector<double> got = a.to_vector<double>(), expected = b.to_vector<double>();
  REQUIRE(got.size() == expected.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

/// Numbers of both signs, none of them 0, that repeat only after 97 elements.
Tensor pattern(Shape shape, int start = 0, ft::DType dtype = ft::DType::f32) {
  std::vector<double> values(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const int place = (static_cast<int>(i) * 37 + start) % 97;
    values[i] = (place - 48.25) / 40.0;
  }
  return ft::from_doubles(values, shape, dtype);
}

Tensor three_by_three() { return ft::arange(9).reshape({1, 3, 3, 1}); }

using Function = std::function<Tensor(const std::vector<Tensor>&)>;

/// y, and the gradients of Σ y·weight by every input.
std::vector<Tensor> forward_and_gradients(const Function& f, const std::vector<Tensor>& inputs) {
  std::vector<Tensor> variables;
  for (const Tensor& input : inputs) variables.push_back(ft::variable(input));
  const Tensor y = f(variables);
  const Tensor weight = pattern(y.shape(), 11, y.dtype());
  std::vector<Tensor> results = ft::grad({y}, variables, {weight});
  results.insert(results.begin(), y);
  ft::materialize();
  return results;
}

bool ran_group(std::string_view name) {
  const std::vector<ft::GroupReport>& groups = ft::explain().groups;
  return std::any_of(groups.begin(), groups.end(),
                     [&](const ft::GroupReport& group) { return group.name == name; });
}

/// The function on `backend`, fused, gives what its unfused graph gives, forward and backward.
void check_fused_against_unfused(const Function& f, const std::vector<Tensor>& inputs,
                                 const std::vector<std::string>& groups) {
  std::vector<Tensor> expected;
  {
    const Setting setting("reference", false);
    expected = forward_and_gradients(f, inputs);
    for (const std::string& group : groups) CHECK_FALSE(ran_group(group));
  }
  for (const std::string_view backend : backends) {
    CAPTURE(backend);
    for (const bool fusion : {false, true}) {
      CAPTURE(fusion);
      const Setting setting(backend, fusion);
      const std::vector<Tensor> got = forward_and_gradients(f, inputs);
      if (fusion) {
        for (const std::string& group : groups)
          CHECK_MESSAGE(ran_group(group), group, " in\n", ft::explain());
      }
      for (std::size_t i = 0; i < got.size(); ++i) {
        CAPTURE(i);
        CHECK(relative_error(got[i], expected[i]) <= 2e-6);
      }
    }
  }
}

}  // namespace

// ---- conv-bias-relu.md: a 3×3 image, a 2×2 kernel
// ----------------------------------------------------------------------

TEST_CASE("convolution of a 3x3 image with 2x2 ones") {
  for (const std::string_view backend : backends) {
    CAPTURE(backend);
    const Setting setting(backend, true);
    const Tensor y = ft::conv2d(three_by_three(), ft::ones({1, 2, 2, 1}));
    CHECK(y.shape() == Shape{1, 2, 2, 1});
    check_close(y, {8, 12, 20, 24});
  }
}

TEST_CASE("each output is the four products of its equation") {
  const Setting setting("reference", true);
  const std::vector<float> x{2, -3, 5, 7, -11, 13, 17, -19, 23}, w{29, -31, 37, 41};
  const auto at = [&](std::size_t row, std::size_t column) {
    return w[0] * x[3 * row + column] + w[1] * x[3 * row + column + 1] + w[2] * x[3 * (row + 1) + column] +
           w[3] * x[3 * (row + 1) + column + 1];
  };
  check_close(ft::conv2d(ft::from_vector(x, {1, 3, 3, 1}), ft::from_vector(w, {1, 2, 2, 1})),
              {at(0, 0), at(0, 1), at(1, 0), at(1, 1)});
}

TEST_CASE("the weight gradient, and the same as a convolution of x with dy") {
  for (const std::string_view backend : backends) {
    CAPTURE(backend);
    const Setting setting(backend, true);
    ft::Parameter w(ft::ones({1, 2, 2, 1}), "w");
    const Tensor x = three_by_three();
    ft::sum(ft::conv2d(x, w)).backward();  // dy: ones
    check_close(w.grad(), {8, 12, 20, 24});
    const Tensor dy = ft::ones({1, 2, 2, 1});
    check_close(ft::conv2d(x, dy), {8, 12, 20, 24});
  }
}

TEST_CASE("the input gradient, and the same as a convolution of padded dy with reversed w") {
  for (const std::string_view backend : backends) {
    CAPTURE(backend);
    const Setting setting(backend, true);
    const Tensor w = ft::arange(4).reshape({1, 2, 2, 1});
    const Tensor x = ft::variable(three_by_three());
    const Tensor dy = ft::ones({1, 2, 2, 1});
    const std::vector<float> expected{0, 1, 1, 2, 6, 4, 2, 5, 3};
    check_close(ft::grad({ft::conv2d(x, w)}, {x}, {dy})[0], expected);

    const Tensor padded = ft::pad(dy, {{0, 0}, {1, 1}, {1, 1}, {0, 0}});
    check_close(padded, {0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0});
    const Tensor reversed = ft::from_vector({3, 2, 1, 0}, {1, 2, 2, 1});
    check_close(ft::conv2d(padded, reversed), expected);
    check_close(ft::conv2d(dy, reversed, {.padding = {1, 1}}), expected);
    check_close(ft::conv_transpose2d(dy, w), expected);
  }
}

TEST_CASE("the bias and its gradient") {
  for (const std::string_view backend : backends) {
    CAPTURE(backend);
    const Setting setting(backend, true);
    const Tensor x = ft::variable(ft::arange(8).reshape({1, 2, 2, 2})),
                 b = ft::variable(ft::from_vector({10, 20}, {2}));
    const Tensor y = ft::bias_add(x, b), dy = ft::from_vector({1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 2, 2});
    const std::vector<Tensor> gradients = ft::grad({y}, {x, b}, {dy});
    check_close(y, {10, 21, 12, 23, 14, 25, 16, 27});
    check_close(gradients[0], {1, 2, 3, 4, 5, 6, 7, 8});  // dx = dy
    check_close(gradients[1], {16, 20});                  // db = Σ dy
  }
}

TEST_CASE("ReLU, and its gradient from y") {
  for (const std::string_view backend : backends) {
    CAPTURE(backend);
    const Setting setting(backend, true);
    const Tensor x = ft::variable(ft::from_vector({-2, -0.5, 0, 0.5, 2}, {5}));
    const Tensor y = ft::relu(x), dy = ft::from_vector({1, 2, 3, 4, 5}, {5});
    const Tensor dx = ft::grad({y}, {x}, {dy})[0];
    check_close(y, {0, 0, 0, 0.5, 2});
    check_close(dx, {0, 0, 0, 4, 5});
  }
}

// ---- conv-gradients.md: the sums by index, with strides and channels
// ---------------------------------------------------

TEST_CASE("the gradients of a strided convolution are the sums over the outputs") {
  const Shape x_shape{2, 5, 6, 3}, w_shape{4, 3, 2, 3}, y_shape{2, 2, 3, 4};
  const std::int64_t stride = 2;
  const Tensor x = pattern(x_shape), w = pattern(w_shape, 5), dy = pattern(y_shape, 7), b = pattern({4}, 9);
  const std::vector<float> xs = x.to_vector(), ws = w.to_vector(), gs = dy.to_vector();
  std::vector<float> dx(xs.size()), dw(ws.size()), db(4);
  const auto offset = [](const Shape& s, std::int64_t i, std::int64_t j, std::int64_t k, std::int64_t l) {
    return static_cast<std::size_t>(((i * s[1] + j) * s[2] + k) * s[3] + l);
  };
  for (std::int64_t n = 0; n < y_shape[0]; ++n) {
    for (std::int64_t h = 0; h < y_shape[1]; ++h) {
      for (std::int64_t v = 0; v < y_shape[2]; ++v) {
        for (std::int64_t o = 0; o < y_shape[3]; ++o) {
          const float g = gs[offset(y_shape, n, h, v, o)];
          db[static_cast<std::size_t>(o)] += g;
          for (std::int64_t i = 0; i < w_shape[1]; ++i) {
            for (std::int64_t j = 0; j < w_shape[2]; ++j) {
              for (std::int64_t c = 0; c < w_shape[3]; ++c) {
                const std::size_t xi = offset(x_shape, n, stride * h + i, stride * v + j, c);
                const std::size_t wi = offset(w_shape, o, i, j, c);
                dx[xi] += g * ws[wi];
                dw[wi] += g * xs[xi];
              }
            }
          }
        }
      }
    }
  }
  for (const std::string_view backend : backends) {
    CAPTURE(backend);
    const Setting setting(backend, true);
    const Tensor vx = ft::variable(x), vw = ft::variable(w), vb = ft::variable(b);
    const Tensor y = ft::conv2d(vx, vw, vb, {.stride = {stride, stride}});
    CHECK(y.shape() == y_shape);
    const std::vector<Tensor> gradients = ft::grad({y}, {vx, vw, vb}, {dy});
    check_close(gradients[0], dx, 1e-5);
    check_close(gradients[1], dw, 1e-5);
    check_close(gradients[2], db, 1e-5);
  }
}

// ---- the fused forms
// --------------------------------------------------------------------------------------------------

TEST_CASE("conv+bias+relu equals its unfused graph, forward and backward") {
  const Function f = [](const std::vector<Tensor>& in) {
    return ft::relu(ft::conv2d(in[0], in[1], in[2], {.padding = {1, 1}}));
  };
  check_fused_against_unfused(f, {pattern({4, 8, 8, 16}), pattern({32, 3, 3, 16}, 5), pattern({32}, 9)},
                              {"conv2d+bias+relu", "relu_grad+bias_grad"});
}

TEST_CASE("batch_norm+add+relu equals its unfused graph, forward and backward") {
  const Function f = [](const std::vector<Tensor>& in) {
    return ft::relu(ft::batch_norm(in[0], in[1], in[2]) + in[3]);
  };
  const Shape image{4, 8, 8, 16};
  check_fused_against_unfused(f, {pattern(image), pattern({16}, 3), pattern({16}, 6), pattern(image, 50)},
                              {"batch_norm+add+relu", "relu_grad+batch_norm_grad"});
}

// ---- conv-bn-folding.md
// -----------------------------------------------------------------------------------------------

TEST_CASE("a convolution with its batch norm folded in") {
  const Setting setting("reference", true);
  const ft::DType f64 = ft::DType::f64;
  const double eps = 1e-5;
  const ft::Conv2dOptions options{.stride = {2, 2}, .padding = {3, 3}};
  const Tensor x = pattern({2, 24, 24, 3}, 1, f64), w = pattern({8, 7, 7, 3}, 2, f64),
               b = pattern({8}, 3, f64);
  const Tensor gamma = pattern({8}, 4, f64), beta = pattern({8}, 5, f64), mean = pattern({8}, 6, f64);
  const Tensor variance = ft::abs(pattern({8}, 7, f64)) + 0.1;

  const Tensor unfolded =
      ft::batch_norm_inference(ft::conv2d(x, w, b, options), gamma, beta, mean, variance, {.eps = eps});
  const Tensor a = gamma / ft::sqrt(variance + eps);
  const Tensor folded_w = a.reshape({8, 1, 1, 1}) * w, folded_b = a * (b - mean) + beta;
  const double error = relative_error(ft::conv2d(x, folded_w, folded_b, options), unfolded);
  INFO("relative error ", error);
  CHECK(error <= 5e-7);
  CHECK(error <= 1e-14);  // what doubles give
}
