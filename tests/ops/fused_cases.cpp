#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

const Shape image_shapes[] = {{1, 4, 3, 2},  {2, 3, 3, 1}, {2, 7, 5, 3},  {1, 7, 5, 17},
                              {3, 4, 4, 24}, {2, 1, 1, 8}, {5, 33, 31, 9}};

// ---- convolution with bias and ReLU ----

void add_convolutions(Cases& cases) {
  const Conv2dOptions same{.padding = {1, 1}}, strided{.stride = {2, 2}, .padding = {1, 1}};
  for (const Shape& x : image_shapes) {
    for (const std::int64_t out : {1, 3, 24}) {
      const Shape w{out, 3, 3, x[3]};
      for (const Conv2dOptions& o : {same, strided}) {
        const std::string how =
            named("", x) + " to " + std::to_string(out) + (o.stride[0] == 2 ? ", strided" : "");
        // Sums of eighths are multiples of 1/64, the bias is none: no ReLU sees 0, and every sum is exact.
        const std::vector<Input> with_bias{eighths(x), eighths(w), real({out})};
        cases.push_back({"conv+bias+relu" + how,
                         with_bias,
                         [o](In in) { return relu(conv2d(in[0], in[1], in[2], o)); },
                         {.groups = {"conv2d+bias+relu", "relu_grad+bias_grad"}}});
        cases.push_back({"conv+bias" + how,
                         with_bias,
                         [o](In in) { return conv2d(in[0], in[1], in[2], o); },
                         {.groups = {"conv2d+bias"}}});
        cases.push_back({"conv+relu" + how,
                         {real(x), real(w)},
                         [o](In in) { return relu(conv2d(in[0], in[1], o)); },
                         {.same_bits = false, .groups = {"conv2d+relu"}}});
      }
    }
  }
  cases.push_back(
      {"conv+bias+relu, groups and dilation",
       {eighths({2, 7, 6, 4}), eighths({6, 3, 3, 2}), real({6})},
       [](In in) {
         return relu(conv2d(in[0], in[1], in[2], {.padding = {2, 2}, .dilation = {2, 2}, .groups = 2}));
       },
       {.groups = {"conv2d+bias+relu", "relu_grad+bias_grad"}}});
  cases.push_back({"conv+bias+relu, depthwise",
                   {eighths({1, 5, 5, 8}), eighths({8, 3, 3, 1}), real({8})},
                   [](In in) {
                     return relu(conv2d(in[0], in[1], in[2], {.padding = {1, 1}, .groups = 8}));
                   },
                   {.groups = {"conv2d+bias+relu"}}});
  cases.push_back({"conv+bias+relu, the image needs no gradient",
                   {constant(eighths({2, 6, 6, 3})), eighths({8, 3, 3, 3}), real({8})},
                   [](In in) {
                     return relu(conv2d(in[0], in[1], in[2], {.padding = {1, 1}}));
                   },
                   {.groups = {"conv2d+bias+relu", "relu_grad+bias_grad"}}});
  cases.push_back({"conv+bias+relu, the pre-activation is read elsewhere",
                   {eighths({1, 4, 4, 2}), eighths({3, 3, 3, 2}), real({3})},
                   [](In in) {
                     const Tensor before = conv2d(in[0], in[1], in[2]);
                     return Results{relu(before), before * 2};
                   },
                   {.groups = {"conv2d+bias"}}});
  cases.push_back({"two layers, linear and ReLU",
                   {eighths({5, 4}), eighths({6, 4}), real({6}), eighths({3, 6}), real({3})},
                   [](In in) { return linear(relu(linear(in[0], in[1], in[2])), in[3], in[4]); },
                   {.groups = {"relu_grad+bias_grad"}}});
}

// ---- blocks ----

Tensor plain_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta) {
  return batch_norm(x, gamma, beta, {.eps = 1e-2});
}

void add_blocks(Cases& cases) {
  const Conv2dOptions same{.padding = {1, 1}};
  for (const auto& [image, c] : {std::pair<Shape, std::int64_t>{{2, 3, 3, 2}, 2},
                                 {{2, 5, 4, 3}, 3},
                                 {{2, 6, 6, 16}, 16},
                                 {{2, 20, 23, 12}, 12}}) {
    const Shape w{c, 3, 3, c};
    const std::vector<Input> block{real(image), real(w), scale(c), shift(c), real(w), scale(c), shift(c)};
    // The fork at the entry: the block's own gradient and the shortcut's meet there.
    const auto residual = [same](const Tensor& x, In in) {
      return relu(plain_norm(conv2d(relu(plain_norm(conv2d(x, in[1], same), in[2], in[3])), in[4], same),
                             in[5], in[6]) +
                  x);
    };
    cases.push_back({named("residual block", image),
                     block,
                     [residual](In in) { return residual(in[0], in); },
                     {.same_bits = false,
                      .tolerance = 2e-5,
                      .groups = {"batch_norm+relu", "batch_norm+add+relu", "relu_grad+batch_norm_grad"}}});
    cases.push_back({named("two residual blocks that share their weights", image),
                     block,
                     [residual](In in) { return residual(residual(in[0], in), in); },
                     {.same_bits = false,
                      .tolerance = 1e-4,
                      .wide_only = true,
                      .groups = {"add+relu_grad+batch_norm_grad"}}});
  }
  cases.push_back(
      {"projection shortcut",
       {real({2, 6, 6, 4}), real({8, 3, 3, 4}), scale(8), shift(8), real({8, 1, 1, 4}), scale(8), shift(8)},
       [](In in) {
         return relu(plain_norm(conv2d(in[0], in[1], {.stride = {2, 2}, .padding = {1, 1}}), in[2], in[3]) +
                     plain_norm(conv2d(in[0], in[4], {.stride = {2, 2}}), in[5], in[6]));
       },
       {.same_bits = false,
        .tolerance = 2e-5,
        .groups = {"batch_norm+batch_norm+add+relu", "relu_grad+batch_norm_grad+batch_norm_grad"}}});
  cases.push_back(
      {"a small classifier",
       {real({4, 6, 6, 3}), real({8, 3, 3, 3}), real({8}), real({10, 8}), real({10}), labels(4, 10)},
       [same](In in) {
         const Tensor features = global_avg_pool(max_pool2d(relu(conv2d(in[0], in[1], in[2], same))));
         return cross_entropy(linear(features, in[3], in[4]), in[5]);
       },
       {.same_bits = false, .tolerance = 2e-5, .groups = {"conv2d+bias+relu"}}});
}

}  // namespace

std::vector<OpCase> fused_cases() {
  Cases cases;
  for (const auto add : {add_convolutions, add_blocks}) add(cases);
  return cases;
}

}  // namespace fusetape::tests
