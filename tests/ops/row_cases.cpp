#include "tests/ops/op_cases.hpp"

/// 1×1 and depthwise convolutions with batch norms, sums and activations around them: whatever the plan lets
/// ride in the kernels that work row by row.
namespace fusetape::tests {
namespace {

using In = const Inputs&;
using Activation = Tensor (*)(const Tensor&);

/// A convolution and the norm behind it: in[first] is w, γ and β follow.
Tensor conv_norm(const Tensor& x, In in, std::size_t first, Conv2dOptions options = {}) {
  return batch_norm(conv2d(x, in[first], options), in[first + 1], in[first + 2], {.eps = 1e-2});
}
Conv2dOptions depthwise(const Tensor& x, Conv2dOptions options = {.padding = 1}) {
  options.groups = x.shape().back();
  return options;
}

void add_pointwise(std::vector<Input>& inputs, std::int64_t in, std::int64_t out) {
  inputs.insert(inputs.end(), {real({out, 1, 1, in}), scale(out), shift(out)});
}
void add_depthwise(std::vector<Input>& inputs, std::int64_t channels, std::int64_t height,
                   std::int64_t width) {
  inputs.insert(inputs.end(), {real({channels, height, width, 1}), scale(channels), shift(channels)});
}

Flags expecting(std::vector<std::string> groups) {
  return {.smooth = false, .same_bits = false, .tolerance = 2e-5, .groups = std::move(groups)};
}

/// The bias's gradient is 0 but for rounding.
Flags only_f32(Flags flags) {
  flags.wide_only = true;
  return flags;
}

/// MobileNetV2's block: 1×1 to more channels, depthwise, 1×1 back, each with a norm.
OpCase inverted_residual(const std::string& name, const Shape& x, std::int64_t inner, Activation activation,
                         std::vector<std::string> groups) {
  const std::int64_t c = x.back();
  std::vector<Input> inputs{real(x)};
  add_pointwise(inputs, c, inner);
  add_depthwise(inputs, inner, 3, 3);
  add_pointwise(inputs, inner, c);
  return {named("inverted residual block, " + name, x), std::move(inputs),
          [activation](In in) {
            const Tensor wide = activation(conv_norm(in[0], in, 1));
            const Tensor mixed = activation(conv_norm(wide, in, 4, depthwise(wide)));
            return conv_norm(mixed, in, 7) + in[0];
          },
          expecting(std::move(groups))};
}

std::vector<std::string> groups_with(const std::string& activation, const std::string& gradient) {
  const std::string before = "batch_norm_apply+" + activation + "+";
  return {before + "conv2d+batch_norm_statistics", "batch_norm_grad_apply+" + before +
                                                       "conv2d_grad_input&conv2d_grad_weight+" + gradient +
                                                       "+batch_norm_grad_sums"};
}

/// Two depthwise convolutions of one kind, norms and ReLUs around them.
OpCase depthwise_twice(const Shape& x, Conv2dOptions options, std::int64_t height, std::int64_t width) {
  std::vector<Input> inputs{real(x)};
  for (int i = 0; i < 2; ++i) add_depthwise(inputs, x.back(), height, width);
  const std::string name =
      "depthwise " + std::to_string(height) + "×" + std::to_string(width) + ", stride " +
      std::to_string(options.stride.height) + "×" + std::to_string(options.stride.width) + ", padding " +
      std::to_string(options.padding.height) + ", dilation " + std::to_string(options.dilation.height);
  return {named(name + ", twice", x), std::move(inputs),
          [options](In in) {
            const Tensor y = relu(conv_norm(in[0], in, 1, depthwise(in[0], options)));
            return conv_norm(y, in, 4, depthwise(y, options));
          },
          expecting(groups_with("relu", "relu_grad"))};
}

std::vector<OpCase> activation_cases() {
  std::vector<OpCase> cases;
  struct Row {
    const char* name;
    Activation activation;
  };
  const Row rows[] = {
      {"relu", [](const Tensor& x) { return relu(x); }},
      {"relu6", [](const Tensor& x) { return relu6(x); }},
      {"clamp", [](const Tensor& x) { return clamp(x, -0.5, 0.75); }},
      {"leaky_relu", [](const Tensor& x) { return leaky_relu(x, 0.1); }},
      {"elu", [](const Tensor& x) { return elu(x, 0.7); }},
      {"sigmoid", [](const Tensor& x) { return sigmoid(x); }},
      {"tanh", [](const Tensor& x) { return tanh(x); }},
      {"gelu", [](const Tensor& x) { return gelu(x); }},
      {"silu", [](const Tensor& x) { return silu(x); }},
      {"mish", [](const Tensor& x) { return mish(x); }},
      {"hardsigmoid", [](const Tensor& x) { return hardsigmoid(x); }},
      {"hardswish", [](const Tensor& x) { return hardswish(x); }},
  };
  for (const Row& row : rows) {
    const std::string name = row.name;
    cases.push_back(
        inverted_residual(name, {3, 6, 7, 8}, 24, row.activation, groups_with(name, name + "_grad")));
  }
  for (const Shape& x : {Shape{2, 1, 1, 5}, Shape{2, 33, 5, 20}, Shape{5, 2, 9, 17}, Shape{2, 4, 4, 160}}) {
    cases.push_back(
        inverted_residual("relu6", x, x.back() + 3, [](const Tensor& t) { return relu6(t); }, {}));
  }
  return cases;
}

std::vector<OpCase> geometry_cases() {
  return {depthwise_twice({2, 9, 11, 16}, {.padding = 1}, 3, 3),
          depthwise_twice({2, 9, 11, 24}, {.stride = 2, .padding = 1}, 3, 3),
          depthwise_twice({3, 10, 8, 7}, {.stride = 2, .padding = 2}, 5, 5),
          depthwise_twice({2, 12, 12, 40}, {.padding = 3}, 7, 7),
          depthwise_twice({2, 12, 9, 4}, {.padding = 2, .dilation = 2}, 3, 3),
          depthwise_twice({2, 19, 17, 18}, {.stride = 3, .padding = 1, .dilation = 2}, 3, 2),
          depthwise_twice({1, 21, 9, 33}, {.stride = {2, 1}, .padding = {0, 2}}, 2, 4),
          depthwise_twice({2, 7, 5, 12}, {.stride = 2}, 1, 1),
          depthwise_twice({4, 5, 4, 16}, {.padding = 4}, 3, 3)};
}

std::vector<OpCase> wiring_cases() {
  std::vector<OpCase> cases;
  const Shape x{2, 5, 6, 12};
  const auto inputs_of = [&](int count) {
    std::vector<Input> inputs{real(x)};
    for (int i = 0; i < count; ++i) add_pointwise(inputs, 12, 12);
    return inputs;
  };
  cases.push_back({"1×1: two norms, their sum, with and without an activation", inputs_of(4),
                   [](In in) {
                     const Tensor y = conv_norm(in[0], in, 1) + conv_norm(in[0], in, 4);
                     return Results{conv_norm(y, in, 7), conv_norm(relu6(y), in, 10)};
                   },
                   expecting({})});
  cases.push_back({"1×1: one activation, two convolutions and a sum", inputs_of(3),
                   [](In in) {
                     const Tensor y = silu(conv_norm(in[0], in, 1));
                     return Results{conv_norm(y, in, 4), conv_norm(y, in, 7) + y};
                   },
                   expecting({})});
  cases.push_back({"1×1: what is inside lives on", inputs_of(2),
                   [](In in) {
                     const Tensor t = conv2d(in[0], in[1]);
                     const Tensor n = batch_norm(t, in[2], in[3], {.eps = 1e-2}), y = relu6(n);
                     return Results{conv_norm(y, in, 4), t, n, y};
                   },
                   expecting({})});
  cases.push_back({"1×1: weights shared by two blocks", inputs_of(2),
                   [](In in) {
                     const auto block = [&](const Tensor& t) {
                       return conv_norm(hardswish(conv_norm(t, in, 1)), in, 4) + t;
                     };
                     return block(block(in[0]));
                   },
                   expecting({"batch_norm_apply+add+conv2d+batch_norm_statistics"})});
  cases.push_back({"1×1: weights frozen, and an image without a gradient",
                   {constant(real(x)), real({12, 1, 1, 12}), scale(12), shift(12),
                    constant(real({12, 1, 1, 12})), scale(12), shift(12)},
                   [](In in) { return conv_norm(relu6(conv_norm(in[0], in, 1)), in, 4); },
                   expecting({"batch_norm_grad_apply+conv2d_grad_input+relu6_grad+batch_norm_grad_sums"})});
  std::vector<Input> biased = inputs_of(2);
  biased.push_back(real({12}));
  cases.push_back({"1×1: a bias before the statistics", biased,
                   [](In in) {
                     const Tensor y = relu(conv_norm(in[0], in, 1));
                     return batch_norm(conv2d(y, in[4], in[7]), in[5], in[6], {.eps = 1e-2});
                   },
                   only_f32(expecting({"batch_norm_apply+relu+conv2d+bias+batch_norm_statistics"}))});
  cases.push_back({"1×1: an activation convolved with itself",
                   {real({12, 1, 1, 12}), real({12, 1, 1, 12}), scale(12), shift(12)},
                   [](In in) {
                     const Tensor y = relu6(conv_norm(in[0], in, 1));
                     return conv2d(y, y);
                   },
                   expecting({})});
  cases.push_back(
      {"1×1: bn of conv + identity", inputs_of(1),
       [](In in) { return batch_norm(conv2d(in[0], in[1]) + in[0], in[2], in[3], {.eps = 1e-2}); },
       expecting({})});
  // Several slices of pixels, several sums in a row of products.
  cases.push_back(inverted_residual(
      "relu6, large", {3, 20, 20, 48}, 288, [](const Tensor& t) { return relu6(t); },
      groups_with("relu6", "relu6_grad")));
  return cases;
}

}  // namespace

std::vector<OpCase> row_cases() {
  std::vector<OpCase> cases;
  for (const auto family : {activation_cases, geometry_cases, wiring_cases}) {
    for (OpCase& op_case : family()) cases.push_back(std::move(op_case));
  }
  return cases;
}

}  // namespace fusetape::tests
