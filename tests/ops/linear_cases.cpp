#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

// ---- matrix products with bias and activation ----

void add_linears(Cases& cases) {
  struct Sizes {
    std::int64_t m, k, n;
  };
  // The last two are large enough for oneDNN.
  for (const auto& [m, k, n] :
       {Sizes{2, 3, 4}, {1, 1, 1}, {5, 17, 24}, {33, 7, 65}, {67, 129, 93}, {300, 1, 1000}}) {
    const std::string how = named(" ", {m, k, n});
    // Sums of eighths are multiples of 1/64, the bias is none: no ReLU sees 0, and every sum is exact.
    const std::vector<Input> with_bias{eighths({m, k}), eighths({n, k}), real({n})};
    const std::vector<Input> plain{real({m, k}), real({n, k})};
    cases.push_back({"linear+bias+relu" + how,
                     with_bias,
                     [](In in) { return relu(linear(in[0], in[1], in[2])); },
                     {.groups = {"matmul+bias+relu", "relu_grad+bias_grad"}}});
    cases.push_back({"linear+bias+gelu" + how,
                     with_bias,
                     [](In in) { return gelu(linear(in[0], in[1], in[2])); },
                     {.groups = {"matmul+bias+gelu"}}});
    cases.push_back({"linear+bias" + how,
                     with_bias,
                     [](In in) { return linear(in[0], in[1], in[2]); },
                     {.groups = {"matmul+bias"}}});
    cases.push_back({"linear+relu" + how,
                     plain,
                     [](In in) { return relu(linear(in[0], in[1])); },
                     {.same_bits = false, .groups = {"matmul+relu"}}});
    cases.push_back({"linear+gelu" + how,
                     plain,
                     [](In in) { return gelu(linear(in[0], in[1])); },
                     {.same_bits = false, .groups = {"matmul+gelu"}}});
    cases.push_back({"linear+bias+relu, what the ReLU reads is wanted" + how,
                     with_bias,
                     [](In in) {
                       const Tensor before = linear(in[0], in[1], in[2]);
                       return Results{relu(before), before * 2};
                     },
                     {.groups = {"matmul+bias+relu"}}});
    cases.push_back({"linear+bias+gelu, the product itself is wanted" + how, with_bias, [](In in) {
                       const Tensor product = linear(in[0], in[1]);
                       return Results{gelu(bias_add(product, in[2])), product * 2};
                     }});
    // A NaN is no 0 behind a ReLU.
    cases.push_back({"linear+bias+relu of NaN" + how,
                     {real({m, k}), eighths({n, k}), real({n})},
                     [](In in) { return relu(linear(log(in[0] + 1.45), in[1], in[2])); },
                     {.smooth = false, .same_bits = false, .groups = {"matmul+bias+relu"}}});
  }
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      const Shape a = ta ? Shape{3, 6, 5} : Shape{3, 5, 6}, b = tb ? Shape{7, 6} : Shape{6, 7};
      const MatmulOptions options{.transpose_a = ta, .transpose_b = tb};
      cases.push_back(
          {std::string("stack+bias+gelu") + (ta ? ", transposed" : "") + (tb ? " by transposed" : ""),
           {eighths(a), eighths(b), real({7})},
           [options](In in) { return gelu(bias_add(matmul(in[0], in[1], options), in[2])); },
           {.groups = {"matmul+bias+gelu"}}});
    }
  }
  // 4 products of eighths add up to a number that bf16 holds.
  for (const DType dtype : {DType::bf16, DType::f16}) {
    cases.push_back(
        {"matmul+cast, " + std::string(name_of(dtype)),
         {eighths({19, 4}), eighths({4, 33})},
         [dtype](In in) { return cast(matmul(cast(in[0], dtype), cast(in[1], dtype)), DType::f32); },
         {.differentiable = false, .wide_only = true}});
  }
}

// ---- max pooling behind a ReLU ----

void add_pools(Cases& cases) {
  for (const Shape& x : {Shape{1, 4, 4, 1}, Shape{2, 7, 5, 3}, Shape{1, 7, 5, 17}, Shape{2, 9, 8, 70}}) {
    for (const Pool2dOptions& options :
         {Pool2dOptions{}, Pool2dOptions{.window = {3, 3}, .stride = {2, 2}, .padding = {1, 1}}}) {
      cases.push_back({named("max_pool2d of relu", x) + to_string(Shape{options.window[0]}),
                       {real(x)},
                       [options](In in) { return max_pool2d(relu(in[0] * 2), options); },
                       {.groups = {"max_pool2d_grad+relu_grad"}}});
    }
  }
}

}  // namespace

std::vector<OpCase> linear_cases() {
  Cases cases;
  for (const auto add : {add_linears, add_pools}) add(cases);
  return cases;
}

}  // namespace fusetape::tests
