#include "core/op/op.hpp"
#include "core/op/op_attrs.hpp"
#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

core::Outputs recorded(const char* op, std::initializer_list<Tensor> inputs) {
  return core::record(core::find_op(op), inputs, core::Attrs::of(core::BatchNormAttrs{}),
                      Location::current());
}
Tensor relu_mask(const Tensor& y) { return recorded("relu_mask", {y})[0]; }
Tensor relu_grad_mask(const Tensor& g, const Tensor& mask) {
  return recorded("relu_grad_mask", {g, mask})[0];
}
/// The normalisation of inputs first … first + 4: x, γ, β, mean, inv_std.
Tensor applied(In in, std::size_t first = 0) {
  return recorded("batch_norm_apply",
                  {in[first], in[first + 1], in[first + 2], in[first + 3], in[first + 4]})[0];
}
/// Its dx, dγ and dβ.
Results norm_grad(const Tensor& g, In in, std::size_t first = 0) {
  const core::Outputs out =
      recorded("batch_norm_grad", {g, in[first], in[first + 1], in[first + 3], in[first + 4]});
  return {out[0], out[1], out[2]};
}

std::vector<Input> norm_inputs(const Input& x) {
  const std::int64_t c = x.shape.back();
  return {x, scale(c), shift(c), shift(c), scale(c)};
}
std::vector<Input> operator+(std::vector<Input> a, const std::vector<Input>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// With 129 channels no row of a kernel is whole bytes of a mask.
const Shape shapes[] = {{3, 1, 1, 1},  {1, 1, 3, 8},  {2, 1, 1, 24}, {2, 7, 5, 1},  {2, 7, 5, 3},
                        {1, 7, 5, 17}, {1, 7, 5, 24}, {3, 4, 4, 32}, {2, 3, 3, 16}, {5, 33, 31, 9}};

const Flags forward_only{.differentiable = false};
Flags in_group(const char* group) { return {.differentiable = false, .groups = {group}}; }

void add_single(Cases& cases) {
  for (const Shape& x :
       {Shape{1}, Shape{7}, Shape{0, 3}, Shape{2, 7, 5, 3}, Shape{3, 8, 24}, Shape{9, 31, 33, 17}}) {
    for (const Kind kind : {Kind::real, Kind::special, Kind::integers}) {
      const Input y{.shape = x, .kind = kind};
      cases.push_back({named("relu_mask", x), {y}, [](In in) { return relu_mask(in[0]); }, forward_only});
      cases.push_back({named("relu_grad_mask", x),
                       {y, y},
                       [](In in) { return relu_grad_mask(in[1], relu_mask(in[0])); },
                       forward_only});
    }
  }
  for (const Shape& x : shapes) {
    cases.push_back({named("batch_norm_apply", x), norm_inputs(real(x)), [](In in) { return applied(in); },
                     forward_only});
    cases.push_back({named("batch_norm_apply of special numbers", x), norm_inputs(special(x)),
                     [](In in) { return applied(in); }, forward_only});
  }
}

/// Every activation that rides with a norm, of special numbers, and its gradient by them, with what it reads
/// made from x: as of the single ops.
void add_special_activations(Cases& cases) {
  for (const core::OpDef* gradient : core::all_ops()) {
    if (gradient->gradient_of == nullptr) continue;
    const core::OpDef* const op = gradient->gradient_of;
    const auto call = [](const core::OpDef& of, std::vector<Tensor> inputs) {
      for (const double number : {-0.5, 0.75}) {
        if (static_cast<int>(inputs.size()) - (of.gradient_of != nullptr ? 2 : 1) < of.numbers)
          inputs.push_back(scalar(number, DType::f64));
      }
      return core::record(of, inputs, core::Attrs::of(core::NoAttrs{}), Location::current())[0];
    };
    for (const Shape& x : {Shape{2, 7, 5, 3}, Shape{3, 4, 4, 24}, Shape{9, 31, 17}}) {
      std::vector<Input> inputs = norm_inputs(special(x));
      cases.push_back({named("bn apply of special numbers, " + std::string(op->name), x), inputs,
                       [=](In in) { return call(*op, {applied(in)}); },
                       in_group(("batch_norm_apply+" + std::string(op->name)).c_str())});
      inputs.push_back(special(x));
      Flags flags = in_group((std::string(gradient->name) + "+batch_norm_grad").c_str());
      flags.same_bits = false;  // sums of them
      cases.push_back({named(std::string(gradient->name) + " of bn apply of special numbers", x), inputs,
                       [=](In in) {
                         const Tensor normed = applied(in);
                         const Tensor read = op->saves_outputs != 0 ? call(*op, {normed}) : normed;
                         return norm_grad(call(*gradient, {in[5], read}), in);
                       },
                       flags});
    }
  }
}

void add_forward(Cases& cases) {
  for (const Shape& x : shapes) {
    const std::vector<Input> one = norm_inputs(real(x)), with_z = one + std::vector{real(x)}, two = one + one;
    const auto trained = [](In in) { return batch_norm(in[0], in[1], in[2]); };
    const auto given = [](In in) { return applied(in); };
    cases.push_back({named("bn+relu, mask only", x), one, [=](In in) { return relu_mask(relu(trained(in))); },
                     in_group("batch_norm+relu")});
    cases.push_back({named("bn apply+relu", x), one, [=](In in) { return relu(given(in)); },
                     in_group("batch_norm_apply+relu")});
    cases.push_back({named("bn apply+relu of special numbers, mask and the normalised value", x),
                     norm_inputs(special(x)),
                     [=](In in) {
                       const Tensor normal = given(in), y = relu(normal);
                       return Results{y, relu_mask(y), normal};
                     },
                     in_group("batch_norm_apply+relu")});
    cases.push_back({named("bn apply+add+relu", x), with_z, [=](In in) { return relu(given(in) + in[5]); },
                     in_group("batch_norm_apply+add+relu")});
    cases.push_back({named("bn apply twice+add+relu", x), two,
                     [](In in) { return relu(applied(in) + applied(in, 5)); },
                     in_group("batch_norm_apply+batch_norm_apply+add+relu")});
    cases.push_back({named("bn inference+add+relu, mask only", x), with_z,
                     [](In in) {
                       return relu_mask(
                           relu(batch_norm_inference(in[0], in[1], in[2], in[3], in[4]) + in[5]));
                     },
                     in_group("batch_norm_inference+add+relu")});
    cases.push_back({named("bn+add+relu, mask and y", x), with_z,
                     [=](In in) {
                       const Tensor y = relu(in[5] + trained(in));
                       return Results{y, relu_mask(y)};
                     },
                     in_group("batch_norm+add+relu")});
    cases.push_back({named("bn apply twice+add+relu, mask and all inside", x), two,
                     [](In in) {
                       const Tensor a = applied(in), b = applied(in, 5), sum = a + b;
                       return Results{relu_mask(relu(sum)), a, b, sum};
                     },
                     in_group("batch_norm_apply+batch_norm_apply+add+relu")});
  }
  cases.push_back({"bn+relu, mask of rows that are no whole bytes", norm_inputs(real({3, 129})),
                   [](In in) { return relu_mask(relu(applied(in))); }, in_group("batch_norm_apply+relu")});
}

/// Sums of eighths are exact, in whatever order.
void add_bias_gradient(Cases& cases, const Shape& x) {
  std::vector<int> rows;
  for (int axis = 0; axis + 1 < x.rank(); ++axis) rows.push_back(axis);
  for (const Input& y : {real(x), special(x)}) {
    cases.push_back({named("gradient of bias+relu, mask as bits", x),
                     {y, eighths(x)},
                     [=](In in) {
                       const Tensor masked = relu_grad_mask(in[1], relu_mask(in[0]));
                       return Results{sum(masked, rows), masked};
                     },
                     in_group("relu_grad+bias_grad")});
  }
}

void add_backward(Cases& cases) {
  for (const Shape& x : shapes) {
    for (const Input& y : {real(x), special(x)}) {
      const std::vector<Input> one = norm_inputs(real(x)) + std::vector{y, real(x), real(x)},
                               two = norm_inputs(real(x)) + one;
      cases.push_back({named("gradient of bn+relu, mask as bits", x), one,
                       [](In in) { return norm_grad(relu_grad_mask(in[6], relu_mask(in[5])), in); },
                       in_group("relu_grad+batch_norm_grad")});
      cases.push_back({named("gradient of bn+add+relu, mask as bits", x), one,
                       [](In in) {
                         const Tensor masked = relu_grad_mask(in[6], relu_mask(in[5]));
                         Results results = norm_grad(masked, in);
                         results.push_back(masked);
                         return results;
                       },
                       in_group("relu_grad+batch_norm_grad")});
      cases.push_back({named("gradient of a fork after bn+relu, mask as bits", x), one,
                       [](In in) { return norm_grad(relu_grad_mask(in[6] + in[7], relu_mask(in[5])), in); },
                       in_group("add+relu_grad+batch_norm_grad")});
      cases.push_back({named("gradient of bn+bn+add+relu, mask as bits", x), two,
                       [](In in) {
                         const Tensor masked = relu_grad_mask(in[11], relu_mask(in[10]));
                         Results results = norm_grad(masked, in), second = norm_grad(masked, in, 5);
                         results.insert(results.end(), second.begin(), second.end());
                         return results;
                       },
                       in_group("relu_grad+batch_norm_grad+batch_norm_grad")});
      cases.push_back({named("gradient of a fork after bn+bn+add+relu, one dx, mask as bits", x), two,
                       [](In in) {
                         const Tensor masked = relu_grad_mask(in[11] + in[12], relu_mask(in[10]));
                         const Results first = norm_grad(masked, in), second = norm_grad(masked, in, 5);
                         return Results{first[1], second[0], second[2], masked};
                       },
                       in_group("add+relu_grad+batch_norm_grad+batch_norm_grad")});
    }
  }
  for (const Shape& x : shapes) add_bias_gradient(cases, x);
  for (const Shape& x : {Shape{5, 6}, Shape{3, 129}, Shape{700, 257}}) add_bias_gradient(cases, x);
  cases.push_back({"gradient of bn+relu, mask of rows that are no whole bytes",
                   norm_inputs(real({3, 129})) + std::vector{real({3, 129}), real({3, 129})},
                   [](In in) { return norm_grad(relu_grad_mask(in[6], relu_mask(in[5])), in); },
                   forward_only});
}

}  // namespace

std::vector<OpCase> retention_cases() {
  Cases cases;
  for (const auto add : {add_single, add_special_activations, add_forward, add_backward}) add(cases);
  for (OpCase& op_case : cases) op_case.flags.same_bits_bf16 = true;
  return cases;
}

}  // namespace fusetape::tests
