// softmax and log-softmax along one axis, and their gradients from the stored y.
#include <algorithm>
#include <cmath>
#include <string>

#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "fusetape/ops.hpp"
#include "ops/helpers.hpp"
#include "ops/reference.hpp"

namespace fusetape::ops {

using core::AxisAttrs;
using core::bit;
using core::GradContext;
using core::InferContext;
using core::RefContext;
using core::RefTensor;

namespace {

int axis_of(const core::Attrs& attrs) { return static_cast<int>(attrs.as<AxisAttrs>().axis); }

void infer_along_axis(InferContext& ctx) {
  const Shape& x = ctx.shape(0);
  const DType dtype = ctx.same_floating_dtype();
  const int axis = axis_of(ctx.attrs);
  if (axis < 0 || axis >= x.rank()) ctx.fail("x with an axis " + std::to_string(axis), to_string(x));
  if (ctx.inputs.size() == 2) ctx.require(ctx.shape(1) == x, "y of g's shape", ctx.shape(1));
  ctx.output(x, dtype);
}

// ---- gradients
// --------------------------------------------------------------------------------------------------------

Tensor sum_along(const Tensor& x, int axis) { return sum(x, {axis}, {.keep_dims = true}); }

/// op(g, y) with the attributes of the op whose gradient this is.
Tensor with_y(const core::OpDef& op, const Tensor& g, const Tensor& y, const GradContext& ctx) {
  return record_here(op, {g, y}, ctx.raw_attrs());
}

void gradient_softmax(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, with_y(softmax_grad_op, ctx.incoming(), ctx.output(0), ctx));
}

/// dx = y·(g − Σgy): symmetric in g, so by g it is itself; by y it is h·(g − Σgy) − g·Σhy.
void gradient_softmax_grad(GradContext& ctx) {
  const int axis = axis_of(ctx.raw_attrs());
  const Tensor h = ctx.incoming(), g = ctx.input(0), y = ctx.input(1);
  if (ctx.needs(0)) ctx.set(0, with_y(softmax_grad_op, h, y, ctx));
  if (ctx.needs(1)) ctx.set(1, h * (g - sum_along(g * y, axis)) - g * sum_along(h * y, axis));
}

void gradient_log_softmax(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, with_y(log_softmax_grad_op, ctx.incoming(), ctx.output(0), ctx));
}

/// dx = g − eʸ·Σg: by g it is h − Σ(h·eʸ), by y −h·eʸ·Σg.
void gradient_log_softmax_grad(GradContext& ctx) {
  const int axis = axis_of(ctx.raw_attrs());
  const Tensor weighted = ctx.incoming() * exp(ctx.input(1));
  if (ctx.needs(0)) ctx.set(0, ctx.incoming() - sum_along(weighted, axis));
  if (ctx.needs(1)) ctx.set(1, -(weighted * sum_along(ctx.input(0), axis)));
}

// ---- reference
// --------------------------------------------------------------------------------------------------------

template <class Body>
void for_each_line(const Shape& shape, int axis, Body&& body) {
  std::int64_t outer = 1, inner = 1;
  for (int i = 0; i < axis; ++i) outer *= shape[i];
  for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
  for (std::int64_t o = 0; o < outer; ++o) {
    for (std::int64_t i = 0; i < inner; ++i) body(Line{o * shape[axis] * inner + i, inner, shape[axis]});
  }
}

void reference_log_softmax(RefContext& ctx) {
  const double* x = ctx.in[0].data;
  for_each_line(ctx.in[0].shape, axis_of(ctx.attrs), [&](const Line& line) {
    const LogSoftmax log_softmax(x, line);
    for (std::int64_t i = 0; i < line.length; ++i) ctx.out[0].data[line[i]] = log_softmax(x[line[i]]);
  });
}

void reference_softmax(RefContext& ctx) {
  reference_log_softmax(ctx);
  const RefTensor& y = ctx.out[0];
  std::transform(y.data, y.data + y.size(), y.data, [](double value) { return std::exp(value); });
}

void reference_softmax_grad(RefContext& ctx) {
  const double *g = ctx.in[0].data, *y = ctx.in[1].data;
  for_each_line(ctx.in[0].shape, axis_of(ctx.attrs), [&](const Line& line) {
    double dot = 0;
    for (std::int64_t i = 0; i < line.length; ++i) dot += g[line[i]] * y[line[i]];
    for (std::int64_t i = 0; i < line.length; ++i) ctx.out[0].data[line[i]] = y[line[i]] * (g[line[i]] - dot);
  });
}

void reference_log_softmax_grad(RefContext& ctx) {
  const double *g = ctx.in[0].data, *y = ctx.in[1].data;
  for_each_line(ctx.in[0].shape, axis_of(ctx.attrs), [&](const Line& line) {
    double sum = 0;
    for (std::int64_t i = 0; i < line.length; ++i) sum += g[line[i]];
    for (std::int64_t i = 0; i < line.length; ++i) {
      ctx.out[0].data[line[i]] = g[line[i]] - std::exp(y[line[i]]) * sum;
    }
  });
}

}  // namespace

const core::OpDef softmax_op{.name = "softmax",
                             .infer = infer_along_axis,
                             .gradient = gradient_softmax,
                             .saves_outputs = bit(0),
                             .reference = reference_softmax,
                             .takes = core::Takes::wide};
const core::OpDef softmax_grad_op{
    .name = "softmax_grad",
    .infer = infer_along_axis,
    .gradient = gradient_softmax_grad,
    .saves_inputs = bit(0) | bit(1),
    .reference = reference_softmax_grad,
};
const core::OpDef log_softmax_op{.name = "log_softmax",
                                 .infer = infer_along_axis,
                                 .gradient = gradient_log_softmax,
                                 .saves_outputs = bit(0),
                                 .reference = reference_log_softmax,
                                 .takes = core::Takes::wide};
const core::OpDef log_softmax_grad_op{
    .name = "log_softmax_grad",
    .infer = infer_along_axis,
    .gradient = gradient_log_softmax_grad,
    .saves_inputs = bit(0) | bit(1),
    .reference = reference_log_softmax_grad,
};

namespace {

Tensor along_axis(const core::OpDef& op, const Operand& x, int axis) {
  const Tensor input = require_tensor(op.name, x);
  const AxisAttrs attrs{.axis = normalize_axis(op.name, axis, input.rank(), x.at())};
  return core::record_one(op, {input}, core::Attrs::of(attrs), x.at());
}

}  // namespace

}  // namespace fusetape::ops

namespace fusetape {

Tensor softmax(Operand x, int axis) { return ops::along_axis(ops::softmax_op, x, axis); }
Tensor log_softmax(Operand x, int axis) { return ops::along_axis(ops::log_softmax_op, x, axis); }

}  // namespace fusetape
