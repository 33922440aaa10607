// Random numbers and dropout: pure functions of (seed, counter), which are scalar inputs drawn when the call
// is recorded.
#include "core/numerics/generator.hpp"
#include "core/numerics/number_text.hpp"
#include "core/numerics/philox.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

using core::Attrs;
using core::bit;
using core::GradContext;
using core::InferContext;
using core::RandomAttrs;
using core::RefContext;

namespace {

void infer_random(InferContext& ctx) {
  const auto attrs = ctx.attrs.as<RandomAttrs>();
  ctx.output(shape_of(attrs), static_cast<DType>(attrs.dtype));
}

/// A scalar input's value.
std::int64_t whole(const core::RefTensor& scalar) { return static_cast<std::int64_t>(scalar.data[0]); }

void reference_rand(RefContext& ctx) {
  const double steps = core::uniform_steps(ctx.out[0].dtype);
  const std::int64_t seed = whole(ctx.in[0]), counter = whole(ctx.in[1]);
  for (std::int64_t i = 0; i < ctx.out[0].size(); ++i) {
    ctx.out[0].data[i] = core::cut_uniform(core::philox_uniform(seed, counter, i), steps);
  }
}

void reference_randn(RefContext& ctx) {
  const std::int64_t seed = whole(ctx.in[0]), counter = whole(ctx.in[1]);
  for (std::int64_t i = 0; i < ctx.out[0].size(); ++i) {
    ctx.out[0].data[i] = core::philox_normal(seed, counter, i);
  }
}

void infer_dropout(InferContext& ctx) { ctx.output(ctx.shape(0), ctx.dtype(0)); }

/// Linear in x with the same elements dropped: its own gradient.
void gradient_dropout(GradContext& ctx) {
  ctx.set(0, record_here(dropout_op, {ctx.incoming(), ctx.input(1), ctx.input(2), ctx.input(3)}));
}

void reference_dropout(RefContext& ctx) {
  const double p = ctx.in[3].data[0];
  const std::int64_t seed = whole(ctx.in[1]), counter = whole(ctx.in[2]);
  for (std::int64_t i = 0; i < ctx.out[0].size(); ++i) {
    const bool dropped = core::philox_uniform(seed, counter, i) < p;
    ctx.out[0].data[i] = dropped ? 0 : ctx.in[0].data[i] * (1 / (1 - p));
  }
}

Tensor integer(std::int64_t value, Location at) { return scalar(static_cast<double>(value), DType::i64, at); }

/// Checks are made before the draw: a call that fails takes no numbers.
void check_floating(const OpDef& op, DType dtype, Location at) {
  if (!is_floating(dtype)) fail(op.name, "a floating dtype", std::string(name_of(dtype)) + "; use cast", at);
}

Tensor record_random(const OpDef& op, const Shape& shape, DType dtype, Location at) {
  check_floating(op, dtype, at);
  if (!core::countable(shape))
    fail(op.name, "extents of at least 0 and at most 2^56 elements", to_string(shape), at);
  RandomAttrs attrs{.dtype = static_cast<std::int64_t>(dtype)};
  set_shape(attrs, shape);
  const core::Draw draw = core::draw(shape.elements());
  return core::record_one(op, {integer(draw.seed, at), integer(draw.counter, at)}, Attrs::of(attrs), at);
}

}  // namespace

constinit const OpDef rand_op{
    .name = "rand", .infer = infer_random, .reference = reference_rand, .differentiable_outputs = 0};
constinit const OpDef randn_op{
    .name = "randn", .infer = infer_random, .reference = reference_randn, .differentiable_outputs = 0};
constinit const OpDef dropout_op{.name = "dropout",
                                 .infer = infer_dropout,
                                 .numbers = 3,
                                 .gradient = gradient_dropout,
                                 .saves_inputs = bit(1) | bit(2) | bit(3),
                                 .reference = reference_dropout};

}  // namespace fusetape::ops

namespace fusetape {

Tensor rand(Shape shape, DType dtype, Location at) {
  return ops::record_random(ops::rand_op, shape, dtype, at);
}
Tensor randn(Shape shape, DType dtype, Location at) {
  return ops::record_random(ops::randn_op, shape, dtype, at);
}

Tensor dropout(Operand x, double p) {
  Tensor from = ops::require_tensor("dropout", x);
  ops::check_floating(ops::dropout_op, from.dtype(), x.at());
  if (!(p >= 0 && p < 1)) ops::fail("dropout", "p in [0, 1)", core::number_text(p), x.at());
  if (p == 0) return from;
  const core::Draw draw = core::draw(from.elements());
  Tensor seed = ops::integer(draw.seed, x.at()), counter = ops::integer(draw.counter, x.at());
  return core::record_one(ops::dropout_op,
                          {std::move(from), std::move(seed), std::move(counter), ops::number(p, x.at())},
                          core::Attrs::of(core::NoAttrs{}), x.at());
}

}  // namespace fusetape
