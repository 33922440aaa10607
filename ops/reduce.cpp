// Reductions over any set of axes; argmax over one.
#include <cmath>

#include "core/numerics/reference.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

using core::Attrs;
using core::bit;
using core::GradContext;
using core::InferContext;
using core::ReduceAttrs;
using core::RefContext;
using core::RefContextOf;
using core::RefTensor;
using core::RefTensorOf;
using core::Strides;

namespace {

// ---- shape ----

/// The reduced shape; with `keep`, the reduced axes stay as 1.
Shape reduced_shape(const Shape& x, const ReduceAttrs& attrs, bool keep) {
  Shape y;
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (!attrs.has(axis)) {
      y.push_back(x[axis]);
    } else if (keep) {
      y.push_back(1);
    }
  }
  return y;
}

std::int64_t reduced_count(const Shape& x, const ReduceAttrs& attrs) {
  std::int64_t count = 1;
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (attrs.has(axis)) count *= x[axis];
  }
  return count;
}

void output_reduced(InferContext& ctx, DType dtype) {
  const auto attrs = ctx.attrs.as<ReduceAttrs>();
  ctx.output(reduced_shape(ctx.shape(0), attrs, attrs.keep_dims != 0), dtype);
}

/// Whole numbers and bools are counted in i64.
void infer_sum(InferContext& ctx) {
  output_reduced(ctx, is_floating(ctx.dtype(0)) ? ctx.dtype(0) : DType::i64);
}

void infer_mean(InferContext& ctx) { output_reduced(ctx, ctx.same_floating_dtype()); }

void check_largest_exists(const InferContext& ctx) {
  const auto attrs = ctx.attrs.as<ReduceAttrs>();
  if (reduced_count(ctx.shape(0), attrs) == 0)
    ctx.fail("at least one element to choose from", to_string(ctx.shape(0)));
}

void infer_max(InferContext& ctx) {
  check_largest_exists(ctx);
  output_reduced(ctx, same_numeric_dtype(ctx));
}

void infer_argmax(InferContext& ctx) {
  same_numeric_dtype(ctx);
  check_largest_exists(ctx);
  output_reduced(ctx, DType::i64);
}

void infer_max_grad(InferContext& ctx) { ctx.output(ctx.shape(1), ctx.same_floating_dtype()); }

// ---- gradients ----

/// A reduced tensor back over the reduced axes.
Tensor spread(const Tensor& g, const Shape& x, const ReduceAttrs& attrs) {
  return broadcast_to(reshape(g, reduced_shape(x, attrs, true)), x);
}

void gradient_sum(GradContext& ctx) {
  ctx.set(0, spread(ctx.incoming(), ctx.input_shape(0), ctx.attrs<ReduceAttrs>()));
}

/// Divided before it is spread, in f32 where 16 bits would not hold the count.
void gradient_mean(GradContext& ctx) {
  const auto attrs = ctx.attrs<ReduceAttrs>();
  const DType dtype = ctx.input_dtype(0);
  const auto count = static_cast<double>(reduced_count(ctx.input_shape(0), attrs));
  Tensor g = ctx.incoming();
  g = dtype == DType::f64 ? g / count : cast(cast(g, DType::f32) / count, dtype);
  ctx.set(0, spread(g, ctx.input_shape(0), attrs));
}

void gradient_max(GradContext& ctx) {
  ctx.set(0, record_here(max_grad_op, {ctx.incoming(), ctx.input(0), ctx.output(0)}, ctx.raw_attrs()));
}

/// Linear in g: it adds up what the chosen places got of it. Flat in x almost everywhere.
void gradient_max_grad(GradContext& ctx) {
  if (!ctx.needs(0)) return;
  const auto attrs = ctx.attrs<ReduceAttrs>();
  const Tensor x = ctx.input(1), y = ctx.input(2);
  const Tensor one = ones(y.shape(), y.dtype());
  const Tensor chosen = record_here(max_grad_op, {one, x, y}, ctx.raw_attrs());
  ctx.set(0, record_here(sum_op, {ctx.incoming() * chosen}, Attrs::of(attrs)));
}

// ---- reference ----

/// Calls f(i, o) for every element i of x with the element o of the result that it belongs to.
template <class F>
void for_each_reduced(const Shape& x, const ReduceAttrs& attrs, F&& f) {
  core::for_each_offset(x, core::broadcast_strides(reduced_shape(x, attrs, true), x), f);
}

template <class T>
void reference_sum(RefContextOf<T>& ctx) {
  const RefTensorOf<T>& y = ctx.out[0];
  std::fill_n(y.data, y.size(), T{});
  for_each_reduced(ctx.in[0].shape, ctx.attrs.template as<ReduceAttrs>(),
                   [&](std::int64_t i, std::int64_t o) { y.data[o] = added(y.data[o], ctx.in[0].data[i]); });
}

void reference_mean(RefContext& ctx) {
  reference_sum(ctx);
  const auto count = static_cast<double>(reduced_count(ctx.in[0].shape, ctx.attrs.as<ReduceAttrs>()));
  for (std::int64_t o = 0; o < ctx.out[0].size(); ++o) ctx.out[0].data[o] /= count;
}

/// The element of x that each result chooses: the first NaN, else the first of the largest.
template <class T>
std::vector<std::int64_t> places_of_largest(const RefTensorOf<T>& x, const ReduceAttrs& attrs,
                                            std::int64_t results) {
  std::vector<std::int64_t> places(static_cast<std::size_t>(results), -1);
  for_each_reduced(x.shape, attrs, [&](std::int64_t i, std::int64_t o) {
    std::int64_t& place = places[static_cast<std::size_t>(o)];
    const bool better =
        place < 0 || x.data[i] > x.data[place] || (std::isnan(x.data[i]) && !std::isnan(x.data[place]));
    if (better) place = i;
  });
  return places;
}

template <class T>
void reference_max(RefContextOf<T>& ctx) {
  const auto places = places_of_largest(ctx.in[0], ctx.attrs.template as<ReduceAttrs>(), ctx.out[0].size());
  for (std::size_t o = 0; o < places.size(); ++o) ctx.out[0].data[o] = ctx.in[0].data[places[o]];
}

/// Every element that is as large as the largest (every NaN, where there is one) has an equal share.
void reference_max_grad(RefContext& ctx) {
  const RefTensor &g = ctx.in[0], &x = ctx.in[1], &dx = ctx.out[0];
  const auto attrs = ctx.attrs.as<ReduceAttrs>();
  const auto places = places_of_largest(x, attrs, g.size());
  std::vector<double> chosen(places.size(), 0);
  const auto is_chosen = [&](std::int64_t i, std::int64_t o) {
    const double largest = x.data[places[static_cast<std::size_t>(o)]];
    return x.data[i] == largest || (std::isnan(x.data[i]) && std::isnan(largest));
  };
  for_each_reduced(x.shape, attrs, [&](std::int64_t i, std::int64_t o) {
    if (is_chosen(i, o)) chosen[static_cast<std::size_t>(o)] += 1;
  });
  for_each_reduced(x.shape, attrs, [&](std::int64_t i, std::int64_t o) {
    dx.data[i] = is_chosen(i, o) ? g.data[o] / chosen[static_cast<std::size_t>(o)] : 0;
  });
}

template <class T>
void reference_argmax(RefContextOf<T>& ctx) {
  const auto attrs = ctx.attrs.template as<ReduceAttrs>();
  const Shape& x = ctx.in[0].shape;
  const auto places = places_of_largest(ctx.in[0], attrs, ctx.out[0].size());
  const Strides strides = core::dense_strides(x);
  int axis = 0;
  while (axis < x.rank() - 1 && !attrs.has(axis)) ++axis;
  for (std::size_t o = 0; o < places.size(); ++o) {
    ctx.out[0].data[o] =
        x.rank() == 0 ? T{} : static_cast<T>(places[o] / strides[static_cast<std::size_t>(axis)] % x[axis]);
  }
}

// ---- calls ----

std::string axes_text(const Axes& axes) {
  std::string text;
  for (int axis : axes) text += (text.empty() ? "{" : ", ") + std::to_string(axis);
  return text + "}";
}

Tensor record_reduction(const OpDef& op, const Operand& operand, const Axes& axes, ReduceOptions options) {
  Tensor x = require_tensor(op.name, operand);
  ReduceAttrs attrs{.keep_dims = options.keep_dims};
  for (int axis : axes) {
    const int counted = normalize_axis(op.name, axis, x.rank(), operand.at());
    if (attrs.has(counted)) fail(op.name, "each axis once", axes_text(axes), operand.at());
    attrs.axes |= std::int64_t{1} << counted;
  }
  if (axes.empty()) attrs.axes = (std::int64_t{1} << x.rank()) - 1;
  return core::record_one(op, {std::move(x)}, Attrs::of(attrs), operand.at());
}

}  // namespace

constinit const OpDef sum_op{.name = "sum",
                             .infer = infer_sum,
                             .gradient = gradient_sum,
                             .reference = reference_sum<double>,
                             .whole_reference = reference_sum<Whole>,
                             .takes = core::Takes::wide};
constinit const OpDef mean_op{.name = "mean",
                              .infer = infer_mean,
                              .gradient = gradient_mean,
                              .reference = reference_mean,
                              .takes = core::Takes::wide};
constinit const OpDef max_op{.name = "max",
                             .infer = infer_max,
                             .gradient = gradient_max,
                             .saves_inputs = bit(0),
                             .saves_outputs = bit(0),
                             .reference = reference_max<double>,
                             .whole_reference = reference_max<Whole>};
constinit const OpDef max_grad_op{.name = "max_grad",
                                  .infer = infer_max_grad,
                                  .gradient = gradient_max_grad,
                                  .saves_inputs = bit(1) | bit(2),
                                  .reference = reference_max_grad};
constinit const OpDef argmax_op{.name = "argmax",
                                .infer = infer_argmax,
                                .reference = reference_argmax<double>,
                                .whole_reference = reference_argmax<Whole>,
                                .differentiable_outputs = 0};

}  // namespace fusetape::ops

namespace fusetape {

Tensor sum(Operand x, Axes axes, ReduceOptions options) {
  return ops::record_reduction(ops::sum_op, x, axes, options);
}
Tensor mean(Operand x, Axes axes, ReduceOptions options) {
  return ops::record_reduction(ops::mean_op, x, axes, options);
}
Tensor max(Operand x, Axes axes, ReduceOptions options) {
  return ops::record_reduction(ops::max_op, x, axes, options);
}
Tensor argmax(Operand x, int axis, ReduceOptions options) {
  const bool is_scalar = !x.is_number() && x.tensor().defined() && x.tensor().rank() == 0;
  return ops::record_reduction(ops::argmax_op, x, is_scalar ? Axes() : Axes(axis), options);
}

}  // namespace fusetape
