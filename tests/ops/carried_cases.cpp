#include "tests/ops/op_cases.hpp"

/// Convolutions that Winograd computes, with batch norms, sums and ReLUs around them: whatever the plan puts
/// into their transforms.
namespace fusetape::tests {
namespace {

using In = const Inputs&;

const Conv2dOptions same{.padding = {1, 1}};

Tensor normed(const Tensor& x, const Tensor& gamma, const Tensor& beta) {
  return batch_norm(x, gamma, beta, {.eps = 1e-2});
}

/// in: x, then w, γ, β of each of `count` convolutions.
std::vector<Input> inputs_of(const Shape& x, int count) {
  const std::int64_t c = x.back();
  std::vector<Input> inputs{real(x)};
  for (int i = 0; i < count; ++i) inputs.insert(inputs.end(), {real({c, 3, 3, c}), scale(c), shift(c)});
  return inputs;
}

Tensor conv(const Tensor& x, In in, std::size_t i, Conv2dOptions options = same) {
  return conv2d(x, in[3 * i + 1], options);
}
Tensor norm(const Tensor& x, In in, std::size_t i) { return normed(x, in[3 * i + 2], in[3 * i + 3]); }

Tensor block(const Tensor& x, In in, std::size_t i) {
  return relu(norm(conv(relu(norm(conv(x, in, i), in, i)), in, i + 1), in, i + 1) + x);
}

Flags expecting(std::vector<std::string> groups) {
  return {.smooth = false, .same_bits = false, .tolerance = 2e-5, .groups = std::move(groups)};
}

Flags no_gradient(std::vector<std::string> groups) {
  Flags flags = expecting(std::move(groups));
  flags.differentiable = false;
  return flags;
}

/// A rounding of what the bias is added to turns ReLUs on or off.
Flags no_bf16(Flags flags) {
  flags.wide_only = true;
  return flags;
}

constexpr const char* forward = "batch_norm_apply+relu+conv2d+batch_norm_statistics";
constexpr const char* forward_sum = "batch_norm_apply+add+relu+conv2d+batch_norm_statistics";

/// Up to 64 channels, one kernel makes both gradients.
bool together(const Shape& x) { return x.back() <= 64; }

std::string backward(const Shape& x) {
  return together(x) ? "batch_norm_grad_apply+batch_norm_apply+relu+conv2d_grad_input&conv2d_grad_weight+"
                       "relu_grad+batch_norm_grad_sums"
                     : "batch_norm_grad_apply+conv2d_grad_input+relu_grad+batch_norm_grad_sums";
}
std::string backward_sum(const Shape& x) {
  return together(x) ? "batch_norm_grad_apply+conv2d_grad_input&conv2d_grad_weight+add+relu_grad+"
                       "batch_norm_grad_sums"
                     : "batch_norm_grad_apply+conv2d_grad_input+add+relu_grad+batch_norm_grad_sums";
}
std::string backward_alone(const Shape& x) {
  return together(x) ? "batch_norm_grad_apply+conv2d_grad_input&conv2d_grad_weight"
                     : "batch_norm_grad_apply+conv2d_grad_input";
}
std::string weights(const Shape& x) {
  return together(x) ? backward(x) : "batch_norm_apply+relu+batch_norm_grad_apply+conv2d_grad_weight";
}

}  // namespace

std::vector<OpCase> carried_cases() {
  std::vector<OpCase> cases;
  for (const Shape& x : {Shape{3, 6, 8, 16}, Shape{2, 32, 32, 16}, Shape{2, 9, 8, 24}, Shape{5, 4, 7, 17},
                         Shape{2, 8, 8, 40}, Shape{1, 5, 6, 72}}) {
    cases.push_back({named("conv+bn+relu twice", x), inputs_of(x, 2),
                     [](In in) { return norm(conv(relu(norm(conv(in[0], in, 0), in, 0)), in, 1), in, 1); },
                     expecting({forward, backward(x), weights(x)})});
    cases.push_back(
        {named("conv with a bias, bn", x),
         {real(x), real({x.back(), 3, 3, x.back()}), real({x.back()}), scale(x.back()), shift(x.back())},
         [](In in) { return normed(conv2d(in[0], in[1], in[2], same), in[3], in[4]); },
         no_bf16(expecting({"conv2d+bias+batch_norm_statistics"}))});
    cases.push_back({named("two residual blocks", x), inputs_of(x, 4),
                     [](In in) { return block(block(in[0], in, 0), in, 2); },
                     expecting({forward, forward_sum, backward(x), backward_sum(x), weights(x)})});
    cases.push_back({named("residual blocks that share their weights", x), inputs_of(x, 2),
                     [](In in) { return block(block(in[0], in, 0), in, 0); },
                     expecting({forward, backward(x)})});
    cases.push_back({named("two batch norms, their sum, ReLU, conv", x), inputs_of(x, 3),
                     [](In in) {
                       const Tensor y =
                           relu(norm(conv(in[0], in, 0), in, 0) + norm(conv(in[0], in, 1), in, 1));
                       return norm(conv(y, in, 2), in, 2) + y;
                     },
                     expecting({})});
    cases.push_back({named("one activation, two convolutions", x), inputs_of(x, 3),
                     [](In in) {
                       const Tensor y = relu(norm(conv(in[0], in, 0), in, 0));
                       return Results{norm(conv(y, in, 1), in, 1), norm(conv(y, in, 2), in, 2)};
                     },
                     expecting({})});
    cases.push_back({named("bn without ReLU before a conv, and what is inside lives on", x), inputs_of(x, 2),
                     [](In in) {
                       const Tensor y = conv(in[0], in, 0), z = norm(y, in, 0), t = conv(z, in, 1);
                       return Results{norm(t, in, 1), y, t};
                     },
                     expecting({})});
    cases.push_back({named("no padding", x), inputs_of(x, 2),
                     [](In in) {
                       const Tensor padded = pad(in[0], {{0, 0}, {1, 1}, {1, 1}, {0, 0}});
                       const Tensor y = relu(norm(conv(padded, in, 0, {}), in, 0));
                       return norm(conv(pad(y, {{0, 0}, {1, 1}, {1, 1}, {0, 0}}), in, 1, {}), in, 1);
                     },
                     expecting({})});
    cases.push_back({named("only the statistics of a convolution are wanted", x), inputs_of(x, 1),
                     [](In in) {
                       const Tensor y = conv(in[0], in, 0);
                       return batch_norm(y, in[2], in[3], in[3], in[2], {.eps = 1e-2}).running_mean;
                     },
                     no_gradient({"conv2d", "batch_norm_statistics"})});
    const std::int64_t c = x.back();
    // What a transform makes is an operand of the sum behind the convolution, too.
    cases.push_back({named("bn of conv + identity", x), inputs_of(x, 1),
                     [](In in) { return norm(conv(in[0], in, 0) + in[0], in, 0); },
                     expecting({backward_alone(x)})});
    cases.push_back({named("bn of conv + identity, the weights frozen", x), inputs_of(x, 1),
                     [](In in) {
                       const Tensor y = conv2d(in[0], in[1].detach(), same) + in[0];
                       return norm(y, in, 0);
                     },
                     expecting({"batch_norm_grad_apply+conv2d_grad_input"})});
    cases.push_back({named("conv_transpose + what it reads", x), inputs_of(x, 2),
                     [](In in) {
                       const Tensor y = relu(norm(conv(in[0], in, 0), in, 0));
                       return conv_transpose2d(y, in[4], {.padding = {1, 1}}) + y;
                     },
                     expecting({})});
    cases.push_back({named("evaluation: conv+bn+add+relu", x),
                     {real(x), real({c, 3, 3, c}), scale(c), shift(c), shift(c), scale(c)},
                     [](In in) {
                       const Tensor y = conv2d(in[0], in[1], same);
                       return relu(batch_norm_inference(y, in[2], in[3], in[4], in[5]) + in[0]);
                     },
                     expecting({"conv2d+batch_norm_inference+add+relu"})});
    const Input w = real({c, 3, 3, c}), bias = real({c});
    cases.push_back({named("conv+bias+relu, twice", x),
                     {real(x), w, bias, w, bias},
                     [](In in) {
                       const Tensor y = relu(conv2d(in[0], in[1], in[2], same));
                       return relu(conv2d(y, in[3], in[4], same) + in[0]);
                     },
                     no_bf16(expecting({"conv2d+bias+relu", "relu_grad+bias_grad"}))});
  }
  cases.push_back({"an activation convolved with itself",
                   {real({16, 3, 3, 16}), real({16, 3, 3, 16}), scale(16), shift(16)},
                   [](In in) {
                     const Tensor y = relu(norm(conv(in[0], in, 0), in, 0));
                     return conv2d(y, y, same);
                   },
                   no_bf16(expecting({}))});
  return cases;
}

}  // namespace fusetape::tests
