// Ops that follow one axis by its places: chosen by indices, running sums, the largest few.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/numerics/reference.hpp"
#include "core/op/op_list.hpp"
#include "ops/along.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

using core::AlongAttrs;
using core::Attrs;
using core::bit;
using core::GradContext;
using core::InferContext;
using core::RefContextOf;

namespace {

using Along = core::AxisView;

/// Calls f(o, i) for each outer and inner place.
template <class F>
void for_each_line(const Along& view, F f) {
  for (std::int64_t o = 0; o < view.outer; ++o) {
    for (std::int64_t i = 0; i < view.inner; ++i) f(o, i);
  }
}

void require_index(const InferContext& ctx) {
  ctx.require(ctx.dtype(1) == DType::i64, "an index of dtype i64", ctx.dtype(1));
}

/// The place that an index names, of so many.
template <class T>
std::int64_t place_of(const RefContextOf<T>& ctx, std::int64_t i, std::int64_t places) {
  const auto place = static_cast<std::int64_t>(ctx.in[1].data[i]);
  if (place < 0 || place >= places)
    ctx.fail("index[" + std::to_string(i) + "] = " + std::to_string(place) + " is not in [0, " +
             std::to_string(places) + ")");
  return place;
}

// ---- index_select ----

void infer_index_select(InferContext& ctx) {
  require_index(ctx);
  ctx.require(ctx.shape(1).rank() == 1, "an index {K}", ctx.shape(1));
  Shape y = ctx.shape(0);
  y[static_cast<int>(ctx.attrs.as<AlongAttrs>().axis)] = ctx.shape(1)[0];
  ctx.output(y, ctx.dtype(0));
}
void infer_index_select_grad(InferContext& ctx) {
  const auto attrs = ctx.attrs.as<AlongAttrs>();
  Shape x = ctx.shape(0);
  x[static_cast<int>(attrs.axis)] = attrs.count;
  ctx.output(x, ctx.dtype(0));
}
void gradient_index_select(GradContext& ctx) {
  ctx.set(0, record_here(index_select_grad_op, {ctx.incoming(), ctx.input(1)}, ctx.raw_attrs()));
}
void gradient_index_select_grad(GradContext& ctx) {
  ctx.set(0, record_here(index_select_op, {ctx.incoming(), ctx.input(1)}, ctx.raw_attrs()));
}

template <class T>
void reference_index_select(RefContextOf<T>& ctx) {
  const auto axis = ctx.attrs.template as<AlongAttrs>().axis;
  const Along from(ctx.in[0].shape, axis), to(ctx.out[0].shape, axis);
  for (std::int64_t k = 0; k < to.places; ++k) {
    const std::int64_t place = place_of(ctx, k, from.places);
    for_each_line(to, [&](std::int64_t o, std::int64_t i) {
      ctx.out[0].data[to.at(o, k, i)] = ctx.in[0].data[from.at(o, place, i)];
    });
  }
}
template <class T>
void reference_index_select_grad(RefContextOf<T>& ctx) {
  const auto axis = ctx.attrs.template as<AlongAttrs>().axis;
  const Along from(ctx.in[0].shape, axis), to(ctx.out[0].shape, axis);
  std::fill_n(ctx.out[0].data, ctx.out[0].size(), T{});
  for (std::int64_t k = 0; k < from.places; ++k) {
    const std::int64_t place = place_of(ctx, k, to.places);
    for_each_line(to, [&](std::int64_t o, std::int64_t i) {
      T& sum = ctx.out[0].data[to.at(o, place, i)];
      sum = added(sum, ctx.in[0].data[from.at(o, k, i)]);
    });
  }
}

// ---- gather ----

void infer_gather(InferContext& ctx) {
  require_index(ctx);
  const int axis = static_cast<int>(ctx.attrs.as<AlongAttrs>().axis);
  Shape expected = ctx.shape(0);
  if (ctx.shape(1).rank() == expected.rank()) expected[axis] = ctx.shape(1)[axis];
  if (!(expected == ctx.shape(1))) {
    ctx.fail("an index like x " + to_string(ctx.shape(0)) + " but for axis " + std::to_string(axis),
             to_string(ctx.shape(1)));
  }
  ctx.output(ctx.shape(1), ctx.dtype(0));
}
void gradient_gather(GradContext& ctx) {
  ctx.set(0, record_here(gather_grad_op, {ctx.incoming(), ctx.input(1)}, ctx.raw_attrs()));
}
void gradient_gather_grad(GradContext& ctx) {
  ctx.set(0, record_here(gather_op, {ctx.incoming(), ctx.input(1)}, ctx.raw_attrs()));
}

template <class T>
void reference_gather(RefContextOf<T>& ctx) {
  const auto axis = ctx.attrs.template as<AlongAttrs>().axis;
  const Along from(ctx.in[0].shape, axis), to(ctx.out[0].shape, axis);
  for_each_line(to, [&](std::int64_t o, std::int64_t i) {
    for (std::int64_t k = 0; k < to.places; ++k) {
      const std::int64_t at = to.at(o, k, i);
      ctx.out[0].data[at] = ctx.in[0].data[from.at(o, place_of(ctx, at, from.places), i)];
    }
  });
}
template <class T>
void reference_gather_grad(RefContextOf<T>& ctx) {
  const auto axis = ctx.attrs.template as<AlongAttrs>().axis;
  const Along from(ctx.in[0].shape, axis), to(ctx.out[0].shape, axis);
  std::fill_n(ctx.out[0].data, ctx.out[0].size(), T{});
  for_each_line(from, [&](std::int64_t o, std::int64_t i) {
    for (std::int64_t k = 0; k < from.places; ++k) {
      const std::int64_t at = from.at(o, k, i);
      T& sum = ctx.out[0].data[to.at(o, place_of(ctx, at, to.places), i)];
      sum = added(sum, ctx.in[0].data[at]);
    }
  });
}

// ---- cumsum ----

void infer_cumsum(InferContext& ctx) {
  ctx.output(ctx.shape(0), is_floating(ctx.dtype(0)) ? ctx.dtype(0) : DType::i64);
}
void gradient_cumsum(GradContext& ctx) {
  auto attrs = ctx.attrs<AlongAttrs>();
  attrs.reverse = 1 - attrs.reverse;
  ctx.set(0, record_here(cumsum_op, {ctx.incoming()}, Attrs::of(attrs)));
}
template <class T>
void reference_cumsum(RefContextOf<T>& ctx) {
  const auto attrs = ctx.attrs.template as<AlongAttrs>();
  const Along x(ctx.in[0].shape, attrs.axis);
  for_each_line(x, [&](std::int64_t o, std::int64_t i) {
    T sum{};
    for (std::int64_t k = 0; k < x.places; ++k) {
      const std::int64_t at = x.at(o, attrs.reverse != 0 ? x.places - 1 - k : k, i);
      ctx.out[0].data[at] = sum = added(sum, ctx.in[0].data[at]);
    }
  });
}

// ---- topk ----

void infer_topk(InferContext& ctx) {
  const auto attrs = ctx.attrs.as<AlongAttrs>();
  Shape y = ctx.shape(0);
  y[static_cast<int>(attrs.axis)] = attrs.count;
  ctx.output(y, same_numeric_dtype(ctx));
  ctx.output(y, DType::i64);
}
/// Each chosen place gets its value's gradient.
void gradient_topk(GradContext& ctx) {
  auto attrs = ctx.attrs<AlongAttrs>();
  attrs.count = ctx.input_shape(0)[static_cast<int>(attrs.axis)];
  ctx.set(0, record_here(gather_grad_op, {ctx.incoming(), ctx.output(1)}, Attrs::of(attrs)));
}
/// Of equal ones the first comes first; NaN is larger than all, as in PyTorch.
template <class T>
void reference_topk(RefContextOf<T>& ctx) {
  const auto attrs = ctx.attrs.template as<AlongAttrs>();
  const Along x(ctx.in[0].shape, attrs.axis), y(ctx.out[0].shape, attrs.axis);
  std::vector<std::int64_t> places(static_cast<std::size_t>(x.places));
  for_each_line(x, [&](std::int64_t o, std::int64_t i) {
    const auto value = [&](std::int64_t place) { return ctx.in[0].data[x.at(o, place, i)]; };
    std::iota(places.begin(), places.end(), 0);
    const auto is_before = [&](std::int64_t a, std::int64_t b) {
      const T left = value(a), right = value(b);
      const bool left_nan = std::isnan(static_cast<double>(left)),
                 right_nan = std::isnan(static_cast<double>(right));
      if (left_nan || right_nan) return left_nan == right_nan ? a < b : left_nan;
      return left != right ? left > right : a < b;
    };
    std::partial_sort(places.begin(), places.begin() + attrs.count, places.end(), is_before);
    for (std::int64_t k = 0; k < attrs.count; ++k) {
      const std::int64_t place = places[static_cast<std::size_t>(k)];
      ctx.out[0].data[y.at(o, k, i)] = value(place);
      ctx.out[1].data[y.at(o, k, i)] = static_cast<T>(place);
    }
  });
}

}  // namespace

constinit const OpDef index_select_op{.name = "index_select",
                                      .infer = infer_index_select,
                                      .gradient = gradient_index_select,
                                      .saves_inputs = bit(1),
                                      .reference = reference_index_select<double>,
                                      .whole_reference = reference_index_select<Whole>};
constinit const OpDef index_select_grad_op{.name = "index_select_grad",
                                           .infer = infer_index_select_grad,
                                           .gradient = gradient_index_select_grad,
                                           .saves_inputs = bit(1),
                                           .reference = reference_index_select_grad<double>,
                                           .whole_reference = reference_index_select_grad<Whole>};
constinit const OpDef gather_op{.name = "gather",
                                .infer = infer_gather,
                                .gradient = gradient_gather,
                                .saves_inputs = bit(1),
                                .reference = reference_gather<double>,
                                .whole_reference = reference_gather<Whole>};
constinit const OpDef gather_grad_op{.name = "gather_grad",
                                     .infer = infer_index_select_grad,
                                     .gradient = gradient_gather_grad,
                                     .saves_inputs = bit(1),
                                     .reference = reference_gather_grad<double>,
                                     .whole_reference = reference_gather_grad<Whole>};
constinit const OpDef cumsum_op{.name = "cumsum",
                                .infer = infer_cumsum,
                                .gradient = gradient_cumsum,
                                .reference = reference_cumsum<double>,
                                .whole_reference = reference_cumsum<Whole>,
                                .takes = core::Takes::wide};
constinit const OpDef topk_op{.name = "topk",
                              .infer = infer_topk,
                              .gradient = gradient_topk,
                              .saves_outputs = bit(1),
                              .reference = reference_topk<double>,
                              .whole_reference = reference_topk<Whole>};

Tensor add_at(const Tensor& values, const Tensor& index, int axis, std::int64_t places, Location at) {
  return core::record_one(gather_grad_op, {values, index}, Attrs::of(AlongAttrs{axis, places}), at);
}

}  // namespace fusetape::ops

namespace fusetape {

using core::AlongAttrs;
using core::Attrs;

Tensor index_select(Operand x, int axis, const Tensor& index) {
  Tensor from = ops::require_tensor("index_select", x);
  const int along = ops::normalize_axis("index_select", axis, from.rank(), x.at());
  const std::int64_t places = from.shape()[along];
  return core::record_one(ops::index_select_op, {std::move(from), index},
                          Attrs::of(AlongAttrs{along, places}), x.at());
}

Tensor gather(Operand x, int axis, const Tensor& index) {
  Tensor from = ops::require_tensor("gather", x);
  const int along = ops::normalize_axis("gather", axis, from.rank(), x.at());
  const std::int64_t places = from.shape()[along];
  return core::record_one(ops::gather_op, {std::move(from), index}, Attrs::of(AlongAttrs{along, places}),
                          x.at());
}

Tensor cumsum(Operand x, int axis) {
  Tensor from = ops::require_tensor("cumsum", x);
  const int along = ops::normalize_axis("cumsum", axis, from.rank(), x.at());
  return core::record_one(ops::cumsum_op, {std::move(from)}, Attrs::of(AlongAttrs{along}), x.at());
}

TopK topk(Operand x, std::int64_t count, int axis) {
  Tensor from = ops::require_tensor("topk", x);
  const int along = ops::normalize_axis("topk", axis, from.rank(), x.at());
  if (count < 0 || count > from.shape()[along]) {
    ops::fail("topk", "a count from 0 to " + std::to_string(from.shape()[along]), std::to_string(count),
              x.at());
  }
  core::Outputs both =
      core::record(ops::topk_op, {std::move(from)}, Attrs::of(AlongAttrs{along, count}), x.at());
  return {std::move(both[0]), std::move(both[1])};
}

}  // namespace fusetape
