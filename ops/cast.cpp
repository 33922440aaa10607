// Conversions that keep the shape: cast, the bias along the last axis, and the start of a new history.
#include "core/numerics/formulas.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

namespace formulas = core::formulas;
using core::CastAttrs;
using core::GradContext;
using core::InferContext;

namespace {

// ---- cast ----

void infer_cast(InferContext& ctx) {
  ctx.output(ctx.shape(0), static_cast<DType>(ctx.attrs.as<CastAttrs>().dtype));
}

void gradient_cast(GradContext& ctx) { ctx.set(0, cast(ctx.incoming(), ctx.input_dtype(0))); }

// ---- bias_add ----

void infer_bias_add(InferContext& ctx) {
  const DType dtype = ctx.same_floating_dtype();
  const Shape &x = ctx.shape(0), &b = ctx.shape(1);
  if (x.rank() < 1 || b.rank() != 1 || b[0] != x.back()) {
    std::string got = to_string(x) + " + " + to_string(b);
    if (x.rank() == 4 && b.rank() == 1 && b[0] == x[1]) {
      got += "; images are {N, H, W, C}: from_nchw converts {N, C, H, W}";
    }
    ctx.fail("x {…, C} + b {C}", got);
  }
  ctx.output(x, dtype);
}

void gradient_bias_add(GradContext& ctx) {
  const Tensor g = ctx.incoming();
  if (ctx.needs(0)) ctx.set(0, g);
  if (ctx.needs(1)) ctx.set(1, sum_to(g, ctx.input_shape(1)));
}

// ---- copy_variable ----

void infer_copy(InferContext& ctx) { ctx.output(ctx.shape(0), ctx.dtype(0)); }

void gradient_copy(GradContext& ctx) { ctx.set(0, ctx.incoming()); }

}  // namespace

constinit const OpDef cast_op{.name = "cast",
                              .infer = infer_cast,
                              .gradient = gradient_cast,
                              .pointwise = element_of<formulas::cast<double>>,
                              .elements = core::Elements::convert};
constinit const OpDef bias_add_op{.name = "bias_add",
                                  .infer = infer_bias_add,
                                  .gradient = gradient_bias_add,
                                  .pointwise = element_of<formulas::bias_add<double>>,
                                  .takes = core::Takes::low};
constinit const OpDef copy_variable_op{
    .name = "copy_variable", .infer = infer_copy, .gradient = gradient_copy, .view = true};

}  // namespace fusetape::ops

namespace fusetape {

Tensor cast(Operand x, DType dtype) {
  Tensor from = ops::require_tensor("cast", x);
  if (from.dtype() == dtype) return from;
  const core::CastAttrs attrs{static_cast<std::int64_t>(dtype)};
  return core::record_one(ops::cast_op, {std::move(from)}, core::Attrs::of(attrs), x.at());
}

Tensor bias_add(Operand x, Operand b) {
  return core::record_one(ops::bias_add_op,
                          {ops::require_tensor("bias_add", x), ops::require_tensor("bias_add", b)},
                          core::Attrs::of(core::NoAttrs{}), x.at());
}

}  // namespace fusetape
