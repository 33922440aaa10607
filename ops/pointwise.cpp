// Arithmetic, element by element, with NumPy broadcasting.
#include "core/numerics/element.hpp"
#include "core/numerics/formulas.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

namespace formulas = core::formulas;
using core::Attrs;
using core::bit;
using core::GradContext;

namespace {

// ---- gradients ----

/// Sets the gradient of input i, which may have been broadcast.
void set_summed(GradContext& ctx, int i, const Tensor& g) { ctx.set(i, sum_to(g, ctx.input_shape(i))); }

/// The quotient is read by the divisor's gradient only.
core::Saves saves_of_quotient(std::uint32_t wanted) {
  return {.inputs = bit(1), .outputs = (wanted & bit(1)) >> 1};
}

void gradient_add(GradContext& ctx) {
  if (ctx.needs(0)) set_summed(ctx, 0, ctx.incoming());
  if (ctx.needs(1)) set_summed(ctx, 1, ctx.incoming());
}

void gradient_sub(GradContext& ctx) {
  if (ctx.needs(0)) set_summed(ctx, 0, ctx.incoming());
  if (ctx.needs(1)) ctx.set(1, -sum_to(ctx.incoming(), ctx.input_shape(1)));
}

void gradient_mul(GradContext& ctx) {
  if (ctx.needs(0)) set_summed(ctx, 0, ctx.incoming() * ctx.input(1));
  if (ctx.needs(1)) set_summed(ctx, 1, ctx.incoming() * ctx.input(0));
}

/// y = a/b: da = g/b, db = −g·y/b.
void gradient_div(GradContext& ctx) {
  const Tensor over_b = ctx.incoming() / ctx.input(1);
  if (ctx.needs(0)) set_summed(ctx, 0, over_b);
  if (ctx.needs(1)) ctx.set(1, -sum_to(over_b * ctx.output(0), ctx.input_shape(1)));
}

/// da = g·b·a^(b−1), 0 where b is 0; db = g·a^b·ln a, 0 where a is 0. The replaced exponent and base keep 0·∞
/// out of it.
void gradient_pow(GradContext& ctx) {
  const Tensor g = ctx.incoming(), a = ctx.input(0), b = ctx.input(1);
  if (ctx.needs(0)) set_summed(ctx, 0, g * b * pow(a, where(equal(b, 0), 1, b - 1)));
  if (ctx.needs(1)) set_summed(ctx, 1, g * pow(a, b) * log(where(equal(a, 0), 1, a)));
}

/// Equal elements share the gradient; a NaN, which neither loses nor wins, passes it to both (as in PyTorch
/// 2.15).
void gradient_of_chosen(GradContext& ctx, const Tensor& first_lost, const Tensor& second_lost) {
  const Tensor g = ctx.incoming();
  const Tensor shared = where(equal(ctx.input(0), ctx.input(1)), g * 0.5, g);
  if (ctx.needs(0)) set_summed(ctx, 0, where(first_lost, 0, shared));
  if (ctx.needs(1)) set_summed(ctx, 1, where(second_lost, 0, shared));
}

void gradient_minimum(GradContext& ctx) {
  gradient_of_chosen(ctx, greater(ctx.input(0), ctx.input(1)), less(ctx.input(0), ctx.input(1)));
}
void gradient_maximum(GradContext& ctx) {
  gradient_of_chosen(ctx, less(ctx.input(0), ctx.input(1)), greater(ctx.input(0), ctx.input(1)));
}

void gradient_neg(GradContext& ctx) { ctx.set(0, -ctx.incoming()); }
void gradient_exp(GradContext& ctx) { ctx.set(0, ctx.incoming() * ctx.output(0)); }
void gradient_log(GradContext& ctx) { ctx.set(0, ctx.incoming() / ctx.input(0)); }
void gradient_sqrt(GradContext& ctx) { ctx.set(0, ctx.incoming() * 0.5 / ctx.output(0)); }

void gradient_abs(GradContext& ctx) { ctx.set(0, record_here(abs_grad_op, {ctx.incoming(), ctx.input(0)})); }
/// Linear in g; flat in x almost everywhere.
void gradient_abs_grad(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_here(abs_grad_op, {ctx.incoming(), ctx.input(1)}));
}

void gradient_clamp(GradContext& ctx) {
  ctx.set(0, record_here(clamp_grad_op, {ctx.incoming(), ctx.input(0), ctx.input(1), ctx.input(2)}));
}
void gradient_clamp_grad(GradContext& ctx) {
  if (ctx.needs(0))
    ctx.set(0, record_here(clamp_grad_op, {ctx.incoming(), ctx.input(1), ctx.input(2), ctx.input(3)}));
}

/// A bound as elements of x can be: one that lies between two of them would not be met by any.
double rounded_to(DType dtype, double bound) {
  std::byte element[8];
  core::convert(&bound, DType::f64, element, dtype, 1);
  core::convert(element, dtype, &bound, DType::f64, 1);
  return bound;
}

/// Of the smallest i64 it is the same number again: it wraps around.
Whole whole_abs(const Whole* in, const Attrs&) {
  return in[0] < 0 ? static_cast<Whole>(-static_cast<Wrapping>(in[0])) : in[0];
}

}  // namespace

// ---- ops ----

constinit const OpDef add_op{.name = "add",
                             .infer = infer_arithmetic,
                             .gradient = gradient_add,
                             .pointwise = element_of<formulas::add<double>>,
                             .whole_pointwise = whole_element_of<Wrapping, formulas::add<Wrapping>>,
                             .takes = core::Takes::common};
constinit const OpDef sub_op{.name = "sub",
                             .infer = infer_arithmetic,
                             .gradient = gradient_sub,
                             .pointwise = element_of<formulas::sub<double>>,
                             .whole_pointwise = whole_element_of<Wrapping, formulas::sub<Wrapping>>,
                             .takes = core::Takes::common};
constinit const OpDef mul_op{.name = "mul",
                             .infer = infer_arithmetic,
                             .gradient = gradient_mul,
                             .saves_inputs = bit(0) | bit(1),
                             .saves_for = saves_of_product,
                             .pointwise = element_of<formulas::mul<double>>,
                             .whole_pointwise = whole_element_of<Wrapping, formulas::mul<Wrapping>>,
                             .takes = core::Takes::common};
constinit const OpDef div_op{.name = "div",
                             .infer = infer_floating,
                             .gradient = gradient_div,
                             .saves_inputs = bit(1),
                             .saves_outputs = bit(0),
                             .saves_for = saves_of_quotient,
                             .pointwise = element_of<formulas::div<double>>,
                             .takes = core::Takes::common};
constinit const OpDef pow_op{.name = "pow",
                             .infer = infer_floating,
                             .gradient = gradient_pow,
                             .saves_inputs = bit(0) | bit(1),
                             .pointwise = element_of<formulas::pow<double>>,
                             .takes = core::Takes::common};
constinit const OpDef minimum_op{.name = "minimum",
                                 .infer = infer_arithmetic,
                                 .gradient = gradient_minimum,
                                 .saves_inputs = bit(0) | bit(1),
                                 .pointwise = element_of<formulas::minimum<double>>,
                                 .whole_pointwise = whole_element_of<Whole, formulas::minimum<Whole>>,
                                 .takes = core::Takes::common,
                                 .chooses = true};
constinit const OpDef maximum_op{.name = "maximum",
                                 .infer = infer_arithmetic,
                                 .gradient = gradient_maximum,
                                 .saves_inputs = bit(0) | bit(1),
                                 .pointwise = element_of<formulas::maximum<double>>,
                                 .whole_pointwise = whole_element_of<Whole, formulas::maximum<Whole>>,
                                 .takes = core::Takes::common,
                                 .chooses = true};

constinit const OpDef neg_op{.name = "neg",
                             .infer = infer_arithmetic,
                             .gradient = gradient_neg,
                             .pointwise = element_of<formulas::neg<double>>,
                             .whole_pointwise = whole_element_of<Wrapping, formulas::neg<Wrapping>>,
                             .chooses = true};
constinit const OpDef exp_op{.name = "exp",
                             .infer = infer_floating,
                             .gradient = gradient_exp,
                             .saves_outputs = bit(0),
                             .pointwise = element_of<formulas::exp<double>>};
constinit const OpDef log_op{.name = "log",
                             .infer = infer_floating,
                             .gradient = gradient_log,
                             .saves_inputs = bit(0),
                             .pointwise = element_of<formulas::log<double>>};
constinit const OpDef sqrt_op{.name = "sqrt",
                              .infer = infer_floating,
                              .gradient = gradient_sqrt,
                              .saves_outputs = bit(0),
                              .pointwise = element_of<formulas::sqrt<double>>};
constinit const OpDef abs_op{.name = "abs",
                             .infer = infer_arithmetic,
                             .gradient = gradient_abs,
                             .saves_inputs = bit(0),
                             .pointwise = element_of<formulas::abs<double>>,
                             .whole_pointwise = whole_abs,
                             .chooses = true};
constinit const OpDef abs_grad_op{.name = "abs_grad",
                                  .infer = infer_like_first,
                                  .gradient = gradient_abs_grad,
                                  .saves_inputs = bit(1),
                                  .pointwise = element_of<formulas::abs_grad<double>>,
                                  .chooses = true};
constinit const OpDef clamp_op{.name = "clamp",
                               .infer = infer_like_first,
                               .numbers = 2,
                               .gradient = gradient_clamp,
                               .saves_inputs = bit(0) | bit(1) | bit(2),
                               .pointwise = element_of<formulas::clamp<double>>,
                               .activation = true};
constinit const OpDef clamp_grad_op{.name = "clamp_grad",
                                    .infer = infer_like_first,
                                    .numbers = 2,
                                    .gradient = gradient_clamp_grad,
                                    .saves_inputs = bit(1) | bit(2) | bit(3),
                                    .pointwise = element_of<formulas::clamp_grad<double>>,
                                    .chooses = true,
                                    .gradient_of = &clamp_op};

}  // namespace fusetape::ops

namespace fusetape {

Tensor add(Operand a, Operand b) { return ops::record_binary(ops::add_op, a, b, ops::Numbers::wide); }
Tensor sub(Operand a, Operand b) { return ops::record_binary(ops::sub_op, a, b, ops::Numbers::wide); }
Tensor mul(Operand a, Operand b) { return ops::record_binary(ops::mul_op, a, b, ops::Numbers::wide); }
Tensor div(Operand a, Operand b) { return ops::record_binary(ops::div_op, a, b, ops::Numbers::wide); }
Tensor pow(Operand base, Operand exponent) { return ops::record_binary(ops::pow_op, base, exponent); }
Tensor minimum(Operand a, Operand b) { return ops::record_binary(ops::minimum_op, a, b); }
Tensor maximum(Operand a, Operand b) { return ops::record_binary(ops::maximum_op, a, b); }

Tensor operator+(Operand a, Operand b) { return add(std::move(a), std::move(b)); }
Tensor operator-(Operand a, Operand b) { return sub(std::move(a), std::move(b)); }
Tensor operator*(Operand a, Operand b) { return mul(std::move(a), std::move(b)); }
Tensor operator/(Operand a, Operand b) { return div(std::move(a), std::move(b)); }
Tensor operator-(Operand x) { return neg(std::move(x)); }

Tensor neg(Operand x) { return ops::record_unary(ops::neg_op, x); }
Tensor abs(Operand x) { return ops::record_unary(ops::abs_op, x); }
Tensor exp(Operand x) { return ops::record_unary(ops::exp_op, x); }
Tensor log(Operand x) { return ops::record_unary(ops::log_op, x); }
Tensor sqrt(Operand x) { return ops::record_unary(ops::sqrt_op, x); }

Tensor clamp(Operand x, double low, double high) {
  if (!(low <= high)) {
    ops::fail("clamp", "low ≤ high", to_string(low) + " and " + to_string(high), x.at());
  }
  const Tensor& operand = x.tensor();
  if (operand.defined()) {  // otherwise the op says what is wrong
    low = ops::rounded_to(operand.dtype(), low);
    high = ops::rounded_to(operand.dtype(), high);
  }
  return core::record_one(
      ops::clamp_op, {ops::require_tensor("clamp", x), ops::number(low, x.at()), ops::number(high, x.at())},
      core::Attrs::of(core::NoAttrs{}), x.at());
}

}  // namespace fusetape
