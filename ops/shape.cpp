// Other shapes, axes and parts of the same elements.
#include <numeric>

#include "core/numerics/checked.hpp"
#include "core/numerics/formulas.hpp"
#include "core/numerics/reference.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

using core::bit;
using core::ConcatAttrs;
using core::GradContext;
using core::InferContext;
using core::PadAttrs;
using core::RefContext;
using core::ShapeAttrs;
using core::SliceAttrs;
using core::Strides;
using core::TransposeAttrs;

namespace {

// ---- reshape ----

void infer_reshape(InferContext& ctx) {
  const Shape to = shape_of(ctx.attrs.as<ShapeAttrs>());
  if (!core::countable(to) || to.elements() != ctx.shape(0).elements()) {
    ctx.fail("a shape of " + std::to_string(ctx.shape(0).elements()) + " elements, as x " +
                 to_string(ctx.shape(0)),
             to_string(to));
  }
  ctx.output(to, ctx.dtype(0));
}

void gradient_reshape(GradContext& ctx) { ctx.set(0, reshape(ctx.incoming(), ctx.input_shape(0))); }

// ---- broadcast_to ----

void infer_broadcast_to(InferContext& ctx) {
  const Shape to = shape_of(ctx.attrs.as<ShapeAttrs>());
  if (!broadcasts_to(ctx.shape(0), to)) {
    ctx.fail("a shape that x " + to_string(ctx.shape(0)) + " broadcasts to", to_string(to));
  }
  ctx.output(to, ctx.dtype(0));
}

void gradient_broadcast_to(GradContext& ctx) { ctx.set(0, sum_to(ctx.incoming(), ctx.input_shape(0))); }

// ---- transpose ----

void infer_transpose(InferContext& ctx) {
  const auto attrs = ctx.attrs.as<TransposeAttrs>();
  Shape y;
  for (int axis = 0; axis < ctx.shape(0).rank(); ++axis) {
    y.push_back(ctx.shape(0)[static_cast<int>(attrs.permutation[static_cast<std::size_t>(axis)])]);
  }
  ctx.output(y, ctx.dtype(0));
}

void gradient_transpose(GradContext& ctx) {
  const auto attrs = ctx.attrs<TransposeAttrs>();
  std::vector<int> inverse(static_cast<std::size_t>(ctx.input_shape(0).rank()));
  for (std::size_t axis = 0; axis < inverse.size(); ++axis) {
    inverse[static_cast<std::size_t>(attrs.permutation[axis])] = static_cast<int>(axis);
  }
  ctx.set(0, transpose(ctx.incoming(), inverse));
}

template <class T>
void reference_transpose(core::RefContextOf<T>& ctx) {
  const auto attrs = ctx.attrs.template as<TransposeAttrs>();
  const Strides dense = core::dense_strides(ctx.in[0].shape);
  Strides strides{};
  for (std::size_t axis = 0; axis < static_cast<std::size_t>(ctx.out[0].shape.rank()); ++axis) {
    strides[axis] = dense[static_cast<std::size_t>(attrs.permutation[axis])];
  }
  core::for_each_offset(ctx.out[0].shape, strides, [&](std::int64_t i, std::int64_t from) {
    ctx.out[0].data[i] = ctx.in[0].data[from];
  });
}

// ---- concat ----

void infer_concat(InferContext& ctx) {
  const int axis = static_cast<int>(ctx.attrs.as<ConcatAttrs>().axis);
  const DType dtype = same_dtype(ctx);
  Shape y = ctx.shape(0);
  core::Checked joined = 0;
  y[axis] = 0;
  for (const core::TensorInfo& input : ctx.inputs) {
    Shape part = input.shape;
    if (part.rank() == y.rank()) part[axis] = 0;
    if (!(part == y)) {
      ctx.fail("parts that differ only on axis " + std::to_string(axis),
               to_string(ctx.shape(0)) + " and " + to_string(input.shape));
    }
    joined = joined + input.shape[axis];
  }
  ctx.require(joined.fits(), "parts whose elements can be counted", ctx.shape(0));
  y[axis] = joined.value();
  ctx.output(y, dtype);
}

void gradient_concat(GradContext& ctx) {
  const int axis = static_cast<int>(ctx.attrs<ConcatAttrs>().axis);
  const Tensor g = ctx.incoming();
  std::int64_t start = 0;
  for (int i = 0; i < ctx.input_count(); ++i) {
    const std::int64_t stop = start + ctx.input_shape(i)[axis];
    if (ctx.needs(i)) ctx.set(i, slice(g, axis, start, stop));
    start = stop;
  }
}

/// The elements of one index of `axis`.
std::int64_t inner_elements(const Shape& shape, int axis) {
  std::int64_t inner = 1;
  for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
  return inner;
}

template <class T>
void reference_concat(core::RefContextOf<T>& ctx) {
  const int axis = static_cast<int>(ctx.attrs.template as<ConcatAttrs>().axis);
  const Shape& y = ctx.out[0].shape;
  const std::int64_t inner = inner_elements(y, axis), row = y[axis] * inner;
  if (row == 0) return;
  const std::int64_t rows = y.elements() / row;
  std::int64_t start = 0;
  for (const core::RefTensorOf<T>& part : ctx.in) {
    const std::int64_t length = part.shape[axis] * inner;
    for (std::int64_t i = 0; i < rows; ++i) {
      std::copy_n(part.data + i * length, length, ctx.out[0].data + i * row + start);
    }
    start += length;
  }
}

// ---- slice ----

void infer_slice(InferContext& ctx) {
  const auto a = ctx.attrs.as<SliceAttrs>();
  Shape y = ctx.shape(0);
  y[static_cast<int>(a.axis)] = a.length;
  ctx.output(y, ctx.dtype(0));
}

void infer_slice_grad(InferContext& ctx) {
  const auto a = ctx.attrs.as<SliceAttrs>();
  Shape x = ctx.shape(0);
  x[static_cast<int>(a.axis)] = a.extent;
  ctx.output(x, ctx.dtype(0));
}

void gradient_slice(GradContext& ctx) {
  ctx.set(0, record_here(slice_grad_op, {ctx.incoming(), ctx.input(1)}, ctx.raw_attrs()));
}
void gradient_slice_grad(GradContext& ctx) {
  ctx.set(0, record_here(slice_op, {ctx.incoming(), ctx.input(1)}, ctx.raw_attrs()));
}

/// Calls f(part, whole) with the offset of every element of the slice in itself and in what it is a slice of.
template <class T, class F>
void for_each_sliced(const Shape& part, const Shape& whole, const core::RefContextOf<T>& ctx, F&& f) {
  const auto a = ctx.attrs.template as<SliceAttrs>();
  const auto axis = static_cast<std::size_t>(a.axis);
  Strides strides = core::dense_strides(whole);
  const std::int64_t first = static_cast<std::int64_t>(ctx.in[1].data[0]) * strides[axis];
  strides[axis] *= a.step;
  core::for_each_offset(part, strides, [&](std::int64_t i, std::int64_t offset) { f(i, first + offset); });
}

template <class T>
void reference_slice(core::RefContextOf<T>& ctx) {
  for_each_sliced(ctx.out[0].shape, ctx.in[0].shape, ctx, [&](std::int64_t part, std::int64_t whole) {
    ctx.out[0].data[part] = ctx.in[0].data[whole];
  });
}

void reference_slice_grad(RefContext& ctx) {
  std::fill_n(ctx.out[0].data, ctx.out[0].size(), 0.0);
  for_each_sliced(ctx.in[0].shape, ctx.out[0].shape, ctx, [&](std::int64_t part, std::int64_t whole) {
    ctx.out[0].data[whole] = ctx.in[0].data[part];
  });
}

// ---- pad ----

void infer_pad(InferContext& ctx) {
  const auto a = ctx.attrs.as<PadAttrs>();
  Shape y = ctx.shape(0);
  for (int axis = 0; axis < y.rank(); ++axis) {
    y[axis] += a.before[static_cast<std::size_t>(axis)] + a.after[static_cast<std::size_t>(axis)];
  }
  ctx.output(y, ctx.dtype(0));
}

void gradient_pad(GradContext& ctx) {
  const auto a = ctx.attrs<PadAttrs>();
  const Shape& x = ctx.input_shape(0);
  Tensor g = ctx.incoming();
  for (int axis = 0; axis < x.rank(); ++axis) {
    const std::int64_t start = a.before[static_cast<std::size_t>(axis)];
    if (x[axis] != g.shape()[axis]) g = slice(g, axis, start, start + x[axis]);
  }
  ctx.set(0, g);
}

template <class T>
void reference_pad(core::RefContextOf<T>& ctx) {
  const auto a = ctx.attrs.template as<PadAttrs>();
  const Strides strides = core::dense_strides(ctx.out[0].shape);
  const std::int64_t first =
      std::inner_product(a.before.begin(), a.before.end(), strides.begin(), std::int64_t{0});
  std::fill_n(ctx.out[0].data, ctx.out[0].size(), ctx.in[1].data[0]);
  core::for_each_offset(ctx.in[0].shape, strides, [&](std::int64_t i, std::int64_t offset) {
    ctx.out[0].data[first + offset] = ctx.in[0].data[i];
  });
}

}  // namespace

// ---- ops ----

constinit const OpDef reshape_op{
    .name = "reshape", .infer = infer_reshape, .gradient = gradient_reshape, .view = true};
constinit const OpDef broadcast_to_op{
    .name = "broadcast_to",
    .infer = infer_broadcast_to,
    .gradient = gradient_broadcast_to,
    .pointwise = element_of<core::formulas::broadcast_to<double>>,
    .whole_pointwise = whole_element_of<Whole, core::formulas::broadcast_to<Whole>>,
    .elements = core::Elements::select};
constinit const OpDef transpose_op{.name = "transpose",
                                   .infer = infer_transpose,
                                   .gradient = gradient_transpose,
                                   .reference = reference_transpose<double>,
                                   .whole_reference = reference_transpose<Whole>};
constinit const OpDef concat_op{.name = "concat",
                                .infer = infer_concat,
                                .gradient = gradient_concat,
                                .reference = reference_concat<double>,
                                .whole_reference = reference_concat<Whole>,
                                .takes = core::Takes::common};
constinit const OpDef slice_op{.name = "slice",
                               .infer = infer_slice,
                               .numbers = 1,
                               .gradient = gradient_slice,
                               .saves_inputs = bit(1),
                               .reference = reference_slice<double>,
                               .whole_reference = reference_slice<Whole>};
constinit const OpDef slice_grad_op{.name = "slice_grad",
                                    .infer = infer_slice_grad,
                                    .numbers = 1,
                                    .gradient = gradient_slice_grad,
                                    .saves_inputs = bit(1),
                                    .reference = reference_slice_grad};
constinit const OpDef pad_op{.name = "pad",
                             .infer = infer_pad,
                             .numbers = 1,
                             .gradient = gradient_pad,
                             .reference = reference_pad<double>,
                             .whole_reference = reference_pad<Whole>};

}  // namespace fusetape::ops
