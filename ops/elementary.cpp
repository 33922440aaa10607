// Elementary functions beside those of pointwise.cpp.
#include "core/numerics/formulas.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

namespace formulas = core::formulas;
using core::bit;
using core::GradContext;

namespace {

void gradient_rsqrt(GradContext& ctx) {
  const Tensor y = ctx.output(0);
  ctx.set(0, ctx.incoming() * -0.5 * (y * y * y));
}
void gradient_expm1(GradContext& ctx) { ctx.set(0, ctx.incoming() * (ctx.output(0) + 1)); }
void gradient_log1p(GradContext& ctx) { ctx.set(0, ctx.incoming() / (ctx.input(0) + 1)); }
void gradient_sin(GradContext& ctx) { ctx.set(0, ctx.incoming() * cos(ctx.input(0))); }
void gradient_cos(GradContext& ctx) { ctx.set(0, -(ctx.incoming() * sin(ctx.input(0)))); }

Whole whole_itself(const Whole* in, const core::Attrs&) { return in[0]; }
Whole whole_sign(const Whole* in, const core::Attrs&) { return (in[0] > 0) - (in[0] < 0); }

/// Flat almost everywhere: no gradient flows.
constexpr OpDef steps(std::string_view name, double (*element)(const double*, const core::Attrs&),
                      Whole (*whole)(const Whole*, const core::Attrs&)) {
  return {.name = name,
          .infer = infer_arithmetic,
          .pointwise = element,
          .whole_pointwise = whole,
          .differentiable_outputs = 0};
}

}  // namespace

constinit const OpDef rsqrt_op{.name = "rsqrt",
                               .infer = infer_floating,
                               .gradient = gradient_rsqrt,
                               .saves_outputs = bit(0),
                               .pointwise = element_of<formulas::rsqrt<double>>};
constinit const OpDef expm1_op{.name = "expm1",
                               .infer = infer_floating,
                               .gradient = gradient_expm1,
                               .saves_outputs = bit(0),
                               .pointwise = element_of<formulas::expm1<double>>};
constinit const OpDef log1p_op{.name = "log1p",
                               .infer = infer_floating,
                               .gradient = gradient_log1p,
                               .saves_inputs = bit(0),
                               .pointwise = element_of<formulas::log1p<double>>};
constinit const OpDef sin_op{.name = "sin",
                             .infer = infer_floating,
                             .gradient = gradient_sin,
                             .saves_inputs = bit(0),
                             .pointwise = element_of<formulas::sin<double>>};
constinit const OpDef cos_op{.name = "cos",
                             .infer = infer_floating,
                             .gradient = gradient_cos,
                             .saves_inputs = bit(0),
                             .pointwise = element_of<formulas::cos<double>>};
constinit const OpDef floor_op = steps("floor", element_of<formulas::floor<double>>, whole_itself);
constinit const OpDef round_op = steps("round", element_of<formulas::round<double>>, whole_itself);
constinit const OpDef sign_op = steps("sign", element_of<formulas::sign<double>>, whole_sign);

}  // namespace fusetape::ops

namespace fusetape {

Tensor rsqrt(Operand x) { return ops::record_unary(ops::rsqrt_op, x); }
Tensor expm1(Operand x) { return ops::record_unary(ops::expm1_op, x); }
Tensor log1p(Operand x) { return ops::record_unary(ops::log1p_op, x); }
Tensor sin(Operand x) { return ops::record_unary(ops::sin_op, x); }
Tensor cos(Operand x) { return ops::record_unary(ops::cos_op, x); }
Tensor floor(Operand x) { return ops::record_unary(ops::floor_op, x); }
Tensor round(Operand x) { return ops::record_unary(ops::round_op, x); }
Tensor sign(Operand x) { return ops::record_unary(ops::sign_op, x); }

}  // namespace fusetape
