#include "core/op/op.hpp"
#include "core/op/op_attrs.hpp"
#include "tests/ops/op_cases.hpp"

/// Batch norm in parts, as plans take it apart, each by itself and with the ReLU's gradient before the sums.
namespace fusetape::tests {
namespace {

using In = const Inputs&;

core::Outputs recorded(const char* op, std::initializer_list<Tensor> inputs) {
  return core::record(core::find_op(op), inputs, core::Attrs::of(core::BatchNormAttrs{}),
                      Location::current());
}
Results all(const core::Outputs& outputs) { return std::vector<Tensor>(outputs.begin(), outputs.end()); }

/// The running statistics, if any, come before the momentum.
Results statistics(const Tensor& x, std::initializer_list<Tensor> running = {}) {
  std::vector<Tensor> inputs{x};
  inputs.insert(inputs.end(), running);
  inputs.push_back(full({}, 0.1, DType::f64));
  return all(core::record(core::find_op("batch_norm_statistics"), inputs,
                          core::Attrs::of(core::BatchNormAttrs{}), Location::current()));
}

/// x, γ, β, mean, inv_std, g, y
std::vector<Input> inputs_of(const Shape& x, const Input& y) {
  const std::int64_t c = x.back();
  return {real(x), scale(c), shift(c), shift(c), scale(c), real(x), y};
}

Tensor relu_grad(const Tensor& g, const Tensor& y) {
  return core::record(core::find_op("relu_grad"), {g, y}, core::Attrs::of(core::NoAttrs{}),
                      Location::current())[0];
}

Results grad_sums(const Tensor& g, In in) {
  return all(recorded("batch_norm_grad_sums", {g, in[0], in[3], in[4]}));
}
Tensor grad_apply(const Tensor& g, In in) {
  const Results sums = grad_sums(g, in);
  return recorded("batch_norm_grad_apply", {g, in[0], in[1], in[3], in[4], sums[0], sums[1]})[0];
}

const Flags forward_only{.differentiable = false};
Flags in_group(const char* group) { return {.differentiable = false, .groups = {group}}; }

/// What is added to a convolution's gradient is the norm's x, too, and dies there: y may not take its place.
void add_shared_operand(std::vector<OpCase>& cases) {
  const Shape x{2, 8, 8, 16};
  std::vector<Input> inputs = inputs_of(x, real(x));
  inputs.push_back(real({16, 3, 3, 16}));
  cases.push_back({"sums of a gradient that their own x was added to", inputs,
                   [](In in) {
                     const Tensor sum_of = in[0] * 2.0;
                     const core::ConvAttrs attrs{
                         .pad_h = 1, .pad_w = 1, .kernel_h = 3, .kernel_w = 3, .input_h = 8, .input_w = 8};
                     const Tensor dx = core::record(core::find_op("conv2d_grad_input"), {in[5], in[7]},
                                                    core::Attrs::of(attrs), Location::current())[0];
                     const Tensor masked = relu_grad(dx + sum_of, in[6]);
                     Results results = all(recorded("batch_norm_grad_sums", {masked, sum_of, in[3], in[4]}));
                     results.push_back(masked);
                     return results;
                   },
                   forward_only});
}

}  // namespace

std::vector<OpCase> split_norm_cases() {
  std::vector<OpCase> cases;
  for (const Shape& x : {Shape{2, 1, 1, 1}, Shape{2, 1, 1, 24}, Shape{2, 7, 5, 3}, Shape{1, 7, 5, 17},
                         Shape{3, 4, 4, 32}, Shape{5, 33, 31, 9}, Shape{9, 129}}) {
    const std::vector<Input> inputs = inputs_of(x, real(x)), special_y = inputs_of(x, special(x));
    cases.push_back(
        {named("batch_norm_statistics", x), inputs, [](In in) { return statistics(in[0]); }, forward_only});
    cases.push_back({named("batch_norm_statistics, tracked", x), inputs,
                     [](In in) {
                       return statistics(in[0], {in[3], in[4]});
                     },
                     forward_only});
    cases.push_back(
        {named("batch_norm in parts", x), inputs,
         [](In in) {
           const Results s = statistics(in[0]);
           return Results{relu(recorded("batch_norm_apply", {in[0], in[1], in[2], s[0], s[1]})[0])};
         },
         in_group("batch_norm_apply+relu")});
    cases.push_back(
        {named("batch_norm_grad_sums", x), inputs, [](In in) { return grad_sums(in[5], in); }, forward_only});
    cases.push_back({named("batch_norm_grad_apply", x), inputs,
                     [](In in) { return Results{grad_apply(in[5], in)}; }, forward_only});
    cases.push_back({named("batch_norm_grad in parts, after a ReLU", x), special_y,
                     [](In in) { return Results{grad_apply(relu_grad(in[5], in[6]), in)}; },
                     in_group("relu_grad+batch_norm_grad_sums")});
    cases.push_back(
        {named("batch_norm_grad in parts, after a ReLU of the norm", x), inputs,
         [](In in) {
           const Tensor y = relu(recorded("batch_norm_apply", {in[0], in[1], in[2], in[3], in[4]})[0]);
           return Results{grad_apply(relu_grad(in[5], y), in)};
         },
         in_group("relu_grad+batch_norm_grad_sums")});
  }
  add_shared_operand(cases);
  return cases;
}

}  // namespace fusetape::tests
