// The calls of the ops in shape.cpp: negative axes, -1 extents and indices from the end become plain
// attributes here.
#include <algorithm>
#include <numeric>

#include "core/numerics/checked.hpp"
#include "core/numerics/element.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape {

using core::Attrs;
using ops::fail;
using ops::normalize_axis;
using ops::require_tensor;

namespace {

Attrs shape_attrs(const Shape& shape) {
  core::ShapeAttrs attrs;
  ops::set_shape(attrs, shape);
  return Attrs::of(attrs);
}

constexpr std::int64_t most_elements = std::int64_t{1} << 56;

/// Replaces the one extent of -1.
Shape resolved(Shape to, const Shape& from, Location at) {
  int open = -1;
  core::Checked others = 1;
  for (int axis = 0; axis < to.rank(); ++axis) {
    if (to[axis] < -1 || (to[axis] == -1 && open >= 0)) {
      fail("reshape", "extents of at least 0, at most one of them -1", to_string(to), at);
    }
    if (to[axis] == -1) {
      open = axis;
    } else {
      others = others * to[axis];
    }
  }
  if (open < 0) return to;
  if (!others.within(1, most_elements) || from.elements() % others.value() != 0) {
    fail("reshape", "a shape that " + std::to_string(from.elements()) + " elements fill", to_string(to), at);
  }
  to[open] = from.elements() / others.value();
  return to;
}

Tensor permuted(const Tensor& x, const std::vector<int>& permutation, Location at) {
  const int rank = x.rank();
  core::TransposeAttrs attrs;
  std::uint32_t seen = 0;
  bool moves = false;
  bool valid = static_cast<int>(permutation.size()) == rank;
  for (std::size_t i = 0; valid && i < permutation.size(); ++i) {
    const int axis = permutation[i] < 0 ? permutation[i] + rank : permutation[i];
    valid = axis >= 0 && axis < rank && (seen & core::bit(axis)) == 0;
    if (!valid) break;
    seen |= core::bit(axis);
    moves = moves || axis != static_cast<int>(i);
    attrs.permutation[i] = axis;
  }
  if (!valid) {
    std::string got;
    for (int axis : permutation) got += (got.empty() ? "" : ", ") + std::to_string(axis);
    fail("transpose", "a permutation of the axes of x " + to_string(x.shape()), "{" + got + "}", at);
  }
  return moves ? core::record_one(ops::transpose_op, {x}, Attrs::of(attrs), at) : x;
}

Tensor require_images(const char* op, const Tensor& x, const char* layout, Location at) {
  Tensor images = require_tensor(op, Operand(x, at));
  if (images.rank() != 4) fail(op, std::string("images ") + layout, to_string(images.shape()), at);
  return images;
}

}  // namespace

Tensor reshape(Operand x, Shape shape) {
  Tensor from = require_tensor("reshape", x);
  const Shape to = resolved(shape, from.shape(), x.at());
  if (to == from.shape()) return from;
  return core::record_one(ops::reshape_op, {std::move(from)}, shape_attrs(to), x.at());
}

Tensor flatten(Operand x, int from_axis) {
  const Tensor from = require_tensor("flatten", x);
  if (from.rank() == 0) return reshape(Operand(from, x.at()), {1});
  const int first = normalize_axis("flatten", from_axis, from.rank(), x.at());
  Shape to;
  for (int axis = 0; axis < first; ++axis) to.push_back(from.shape()[axis]);
  std::int64_t joined = 1;
  for (int axis = first; axis < from.rank(); ++axis) joined *= from.shape()[axis];
  to.push_back(joined);
  return reshape(Operand(from, x.at()), to);
}

Tensor transpose(Operand x, std::vector<int> permutation) {
  return permuted(require_tensor("transpose", x), permutation, x.at());
}

Tensor transpose(Operand x) {
  const Tensor from = require_tensor("transpose", x);
  if (from.rank() < 2) fail("transpose", "a matrix, or more axes", to_string(from.shape()), x.at());
  std::vector<int> permutation(static_cast<std::size_t>(from.rank()));
  std::iota(permutation.begin(), permutation.end(), 0);
  std::swap(permutation.end()[-1], permutation.end()[-2]);
  return permuted(from, permutation, x.at());
}

Tensor from_nchw(const Tensor& x, Location at) {
  return permuted(require_images("from_nchw", x, "{N, C, H, W}", at), {0, 2, 3, 1}, at);
}

Tensor to_nchw(const Tensor& x, Location at) {
  return permuted(require_images("to_nchw", x, "{N, H, W, C}", at), {0, 3, 1, 2}, at);
}

Tensor broadcast_to(Operand x, Shape shape) {
  Tensor from = require_tensor("broadcast_to", x);
  if (from.shape() == shape) return from;
  return core::record_one(ops::broadcast_to_op, {std::move(from)}, shape_attrs(shape), x.at());
}

Tensor concat(const std::vector<Tensor>& parts, int axis, Location at) {
  if (parts.empty()) fail("concat", "at least one tensor", "none", at);
  Tensor first = require_tensor("concat", Operand(parts[0], at));
  const core::ConcatAttrs attrs{normalize_axis("concat", axis, first.rank(), at)};
  if (parts.size() == 1) return first;
  return std::move(core::record(ops::concat_op, parts, Attrs::of(attrs), at)[0]);
}

Tensor slice(Operand x, int axis, std::int64_t start, std::int64_t stop, std::int64_t step) {
  Tensor from = require_tensor("slice", x);
  const int along = normalize_axis("slice", axis, from.rank(), x.at());
  const std::int64_t extent = from.shape()[along];
  const std::int64_t first = start < 0 ? start + extent : start, end = stop < 0 ? stop + extent : stop;
  if (first < 0 || end > extent || first > end || step < 1) {
    fail("slice",
         "0 ≤ start ≤ stop ≤ " + std::to_string(extent) + " and step ≥ 1 on axis " + std::to_string(along),
         std::to_string(start) + ":" + std::to_string(stop) + ":" + std::to_string(step) + " of " +
             to_string(from.shape()),
         x.at());
  }
  if (first == 0 && end == extent && step == 1) return from;
  // A step past the end takes the first element only, however long it is.
  const std::int64_t stride = std::clamp<std::int64_t>(step, 1, std::max<std::int64_t>(1, end - first));
  const std::int64_t length = first == end ? 0 : (end - first - 1) / stride + 1;
  const core::SliceAttrs attrs{along, length, stride, extent};
  return core::record_one(ops::slice_op, {std::move(from), scalar(first, DType::i64, x.at())},
                          Attrs::of(attrs), x.at());
}

Tensor pad(Operand x, std::vector<PadWidth> widths, Number value) {
  Tensor from = require_tensor("pad", x);
  if (widths.size() != static_cast<std::size_t>(from.rank())) {
    fail("pad", "{before, after} for each axis of x " + to_string(from.shape()),
         std::to_string(widths.size()) + " of them", x.at());
  }
  if (!core::holds(from.dtype(), value)) {
    fail("pad", "a value that " + std::string(name_of(from.dtype())) + " holds", to_string(value), x.at());
  }
  core::PadAttrs attrs;
  bool grows = false;
  for (std::size_t axis = 0; axis < widths.size(); ++axis) {
    const std::int64_t before = widths[axis].before, after = widths[axis].after;
    const auto got = [&] { return std::to_string(before) + " and " + std::to_string(after); };
    if (before < 0 || after < 0) fail("pad", "no negative padding (slice cuts)", got(), x.at());
    if (!(core::Checked(from.shape()[static_cast<int>(axis)]) + before + after).fits()) {
      fail("pad", "at most 2^56 elements", to_string(from.shape()) + " padded by " + got(), x.at());
    }
    attrs.before[axis] = before;
    attrs.after[axis] = after;
    grows = grows || before > 0 || after > 0;
  }
  if (!grows) return from;
  Tensor filling = scalar(value, from.dtype(), x.at());
  return core::record_one(ops::pad_op, {std::move(from), std::move(filling)}, Attrs::of(attrs), x.at());
}

}  // namespace fusetape
