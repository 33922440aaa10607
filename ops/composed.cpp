// Ops that are made of others: their gradients, on every backend, are those of their parts.
#include <cmath>
#include <limits>
#include <numeric>

#include "core/numerics/checked.hpp"
#include "core/numerics/number_text.hpp"
#include "core/tape/module_scope.hpp"
#include "ops/along.hpp"
#include "ops/borders.hpp"
#include "ops/helpers.hpp"

namespace fusetape {

using core::LineScope;
using ops::fail;
using ops::normalize_axis;
using ops::require_tensor;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

Tensor as_truth(std::string_view op, const Operand& x) {
  if (x.is_number()) return full({}, x.number().real() != 0, DType::boolean, x.at());
  const Tensor tensor = require_tensor(op, x);
  return tensor.dtype() == DType::boolean ? tensor : not_equal(tensor, 0);
}

/// Of a dtype's values the order turned round, and back: without overflow.
Tensor reversed_order(const Tensor& x) {
  if (is_floating(x.dtype())) return -x;
  return sub(x.dtype() == DType::u8 ? 255 : -1, x);
}

Tensor require_floating(const char* op, const Operand& x) {
  Tensor tensor = require_tensor(op, x);
  if (!is_floating(tensor.dtype()))
    fail(op, "a floating dtype", std::string(name_of(tensor.dtype())), x.at());
  return tensor;
}
Tensor require_numbers(const char* op, const Operand& x) {
  Tensor tensor = require_tensor(op, x);
  if (tensor.dtype() == DType::boolean) fail(op, "numbers", "bool", x.at());
  return tensor;
}
/// 16 bits as f32, in which sums are made.
Tensor widened(const Tensor& x) { return size_of(x.dtype()) == 2 ? cast(x, DType::f32) : x; }

/// The extents with those of the axes as 1, and how many elements they hold.
struct Kept {
  Shape shape;
  std::int64_t count = 1;
};
Kept kept(std::string_view op, const Tensor& x, const Axes& axes, Location at) {
  Kept result{x.shape()};
  std::vector<int> all(axes.begin(), axes.end());
  if (all.empty()) {
    all.resize(static_cast<std::size_t>(x.rank()));
    std::iota(all.begin(), all.end(), 0);
  }
  std::uint32_t seen = 0;
  for (const int axis : all) {
    const int along = normalize_axis(op, axis, x.rank(), at);
    if ((seen & core::bit(along)) != 0) fail(op, "each axis once", std::to_string(axis) + " twice", at);
    seen |= core::bit(along);
    result.count *= x.shape()[along];
    result.shape[along] = 1;
  }
  return result;
}

Tensor without_axis(const Tensor& x, int axis) {
  Shape shape;
  for (int i = 0; i < x.rank(); ++i) {
    if (i != axis) shape.push_back(x.shape()[i]);
  }
  return reshape(x, shape);
}

}  // namespace

// ---- truths ----

Tensor logical_and(Operand a, Operand b) {
  const LineScope line(a.at());
  return where(as_truth("logical_and", a), as_truth("logical_and", b), full({}, 0, DType::boolean));
}
Tensor logical_or(Operand a, Operand b) {
  const LineScope line(a.at());
  return where(as_truth("logical_or", a), full({}, 1, DType::boolean), as_truth("logical_or", b));
}
Tensor logical_xor(Operand a, Operand b) {
  const LineScope line(a.at());
  return not_equal(as_truth("logical_xor", a), as_truth("logical_xor", b));
}
Tensor logical_not(Operand x) {
  const LineScope line(x.at());
  return equal(as_truth("logical_not", x), full({}, 0, DType::boolean));
}

// ---- shapes ----

Tensor squeeze(Operand x, int axis) {
  const LineScope line(x.at());
  const Tensor from = require_tensor("squeeze", x);
  const int along = normalize_axis("squeeze", axis, from.rank(), x.at());
  if (from.shape()[along] != 1)
    fail("squeeze", "an extent of 1 on axis " + std::to_string(along), to_string(from.shape()), x.at());
  return without_axis(from, along);
}

Tensor unsqueeze(Operand x, int axis) {
  const LineScope line(x.at());
  const Tensor from = require_tensor("unsqueeze", x);
  const int along = normalize_axis("unsqueeze", axis, from.rank() + 1, x.at());
  Shape shape;
  for (int i = 0; i <= from.rank(); ++i) {
    if (i == along) shape.push_back(1, x.at());
    if (i < from.rank()) shape.push_back(from.shape()[i], x.at());
  }
  return reshape(from, shape);
}

Tensor stack(const std::vector<Tensor>& parts, int axis, Location at) {
  const LineScope line(at);
  std::vector<Tensor> with_axis;
  for (const Tensor& part : parts) {
    if (part.defined() && parts[0].defined() && !(part.shape() == parts[0].shape())) {
      fail("stack", "tensors of one shape", to_string(parts[0].shape()) + " and " + to_string(part.shape()),
           at);
    }
    with_axis.push_back(unsqueeze({part, at}, axis));
  }
  return concat(with_axis, axis, at);
}

std::vector<Tensor> split(Operand x, const std::vector<std::int64_t>& sizes, int axis) {
  const LineScope line(x.at());
  const Tensor from = require_tensor("split", x);
  const int along = normalize_axis("split", axis, from.rank(), x.at());
  std::int64_t left = from.shape()[along];
  std::string text;
  for (const std::int64_t size : sizes) {
    text += (text.empty() ? "" : " + ") + std::to_string(size);
    left = size < 0 || size > left ? -1 : left - size;
    if (left < 0) break;
  }
  if (left != 0)
    fail("split", "sizes that make " + std::to_string(from.shape()[along]), text.empty() ? "none" : text,
         x.at());
  std::vector<Tensor> parts;
  std::int64_t start = 0;
  for (const std::int64_t size : sizes) {
    parts.push_back(slice(from, along, start, start + size));
    start += size;
  }
  return parts;
}

Tensor repeat(Operand x, const std::vector<std::int64_t>& times) {
  const LineScope line(x.at());
  const Tensor from = require_tensor("repeat", x);
  if (times.size() != static_cast<std::size_t>(from.rank())) {
    fail("repeat", "a number for each axis of x " + to_string(from.shape()), std::to_string(times.size()),
         x.at());
  }
  // One axis at a time: {…, 1, n, …} over {…, times, n, …} has at most one axis more than x.
  Tensor y = from;
  for (int axis = 0; axis < from.rank(); ++axis) {
    const std::int64_t copies = times[static_cast<std::size_t>(axis)];
    if (copies < 0) fail("repeat", "numbers ≥ 0", std::to_string(copies), x.at());
    if (copies == 1) continue;
    std::int64_t outer = 1;
    for (int i = 0; i < axis; ++i) outer *= y.shape()[i];
    const std::int64_t inner = outer == 0 ? 0 : y.elements() / outer;
    Shape to = y.shape();
    const core::Checked extent = core::Checked(to[axis]) * copies,
                        elements = core::Checked(y.elements()) * copies;
    if (!extent.fits() || !elements.fits())
      fail("repeat", "copies whose elements can be counted", std::to_string(copies), x.at());
    to[axis] = extent.value();
    y = reshape(broadcast_to(reshape(y, {outer, 1, inner}), {outer, copies, inner}), to);
  }
  return y;
}

Tensor flip(Operand x, Axes axes) {
  const LineScope line(x.at());
  Tensor y = require_tensor("flip", x);
  const Shape turned = kept("flip", y, axes, x.at()).shape;  // 1 on the axes to turn
  for (int axis = 0; axis < y.rank(); ++axis) {
    const std::int64_t extent = y.shape()[axis];
    if (extent > 1 && turned[axis] == 1)
      y = index_select(y, axis, sub(extent - 1, arange(extent, DType::i64)));
  }
  return y;
}

Tensor roll(Operand x, std::int64_t shift, int axis) {
  const LineScope line(x.at());
  Tensor from = require_tensor("roll", x);
  const int along = normalize_axis("roll", axis, from.rank(), x.at());
  const std::int64_t extent = from.shape()[along];
  if (extent == 0) return from;
  const std::int64_t first = (extent - shift % extent) % extent;  // of from, in place 0
  if (first == 0) return from;
  return concat({slice(from, along, first, extent), slice(from, along, 0, first)}, along, x.at());
}

// ---- by index ----

Tensor scatter_add(Operand x, int axis, const Tensor& index, const Tensor& values) {
  const LineScope line(x.at());
  const Tensor to = require_tensor("scatter_add", x);
  const int along = normalize_axis("scatter_add", axis, to.rank(), x.at());
  if (!index.defined() || !values.defined())
    fail("scatter_add", "an index and values", "an undefined tensor", x.at());
  Shape expected = to.shape();
  if (values.rank() == to.rank()) expected[along] = values.shape()[along];
  if (!(values.shape() == index.shape()) || !(values.shape() == expected)) {
    fail("scatter_add",
         "an index and values of one shape, like x " + to_string(to.shape()) + " but for axis " +
             std::to_string(along),
         to_string(index.shape()) + " and " + to_string(values.shape()), x.at());
  }
  if (values.dtype() != to.dtype())
    fail("scatter_add", "values of x's dtype, " + std::string(name_of(to.dtype())),
         std::string(name_of(values.dtype())), x.at());
  if (index.dtype() != DType::i64)
    fail("scatter_add", "an index of dtype i64", std::string(name_of(index.dtype())), x.at());
  return to + ops::add_at(values, index, along, to.shape()[along], x.at());
}

Tensor embedding(Operand weight, const Tensor& indices) {
  const LineScope line(weight.at());
  const Tensor from = require_tensor("embedding", weight);
  if (from.rank() != 2) fail("embedding", "a weight {entries, width}", to_string(from.shape()), weight.at());
  if (!indices.defined()) fail("embedding", "indices", "an undefined tensor", weight.at());
  Shape shape = indices.shape();
  shape.push_back(from.shape()[1], weight.at());
  return reshape(index_select(from, 0, reshape(indices, {-1})), shape);
}

Tensor one_hot(const Tensor& labels, std::int64_t classes, DType dtype, Location at) {
  const LineScope line(at);
  if (!labels.defined()) fail("one_hot", "labels", "an undefined tensor", at);
  if (labels.dtype() != DType::i64 && labels.dtype() != DType::u8)
    fail("one_hot", "labels of dtype i64 or u8", std::string(name_of(labels.dtype())), at);
  if (classes < 1 || classes > ops::most_pixels)
    fail("one_hot", "classes from 1 to 2^31 − 1", std::to_string(classes), at);
  if (labels.rank() == Shape::max_rank)
    fail("one_hot", "labels of at most 7 axes", to_string(labels.shape()), at);
  return cast(equal(unsqueeze(cast(labels, DType::i64), -1), arange(classes, DType::i64)), dtype);
}

// ---- reductions ----

Tensor min(Operand x, Axes axes, ReduceOptions options) {
  const LineScope line(x.at());
  const Tensor from = require_numbers("min", x);
  if (kept("min", from, axes, x.at()).count == 0)
    fail("min", "at least one element to choose from", to_string(from.shape()), x.at());
  return reversed_order(max(reversed_order(from), std::move(axes), options));
}

Tensor argmin(Operand x, int axis, ReduceOptions options) {
  const LineScope line(x.at());
  const Tensor from = require_numbers("argmin", x);
  if (from.rank() > 0) normalize_axis("argmin", axis, from.rank(), x.at());
  return argmax(reversed_order(from), axis, options);
}

Tensor var(Operand x, Axes axes, VarOptions options) {
  const LineScope line(x.at());
  const Tensor given = require_floating("var", x), from = widened(given);
  const auto count = static_cast<double>(kept("var", from, axes, x.at()).count);
  if (!(count > options.correction)) {
    fail("var", "more than " + core::number_text(options.correction) + " elements", core::number_text(count),
         x.at());
  }
  const Tensor apart = from - mean(from, axes, {.keep_dims = true});
  return cast(sum(apart * apart, axes, {.keep_dims = options.keep_dims}) / (count - options.correction),
              given.dtype());
}

Tensor prod(Operand x, int axis, ReduceOptions options) {
  const LineScope line(x.at());
  Tensor y = require_tensor("prod", x);
  const int along = normalize_axis("prod", axis, y.rank(), x.at());
  if (y.shape()[along] == 0) {
    Shape one = y.shape();
    one[along] = 1;
    y = concat({y, full(one, 1, y.dtype())}, along);
  }
  while (y.shape()[along] > 1) {
    const std::int64_t extent = y.shape()[along], half = extent / 2;
    Tensor next = slice(y, along, 0, half) * slice(y, along, half, 2 * half);
    if (extent % 2 == 1) next = concat({next, slice(y, along, extent - 1, extent)}, along);
    y = next;
  }
  return options.keep_dims ? y : without_axis(y, along);
}

Tensor logsumexp(Operand x, Axes axes, ReduceOptions options) {
  const LineScope line(x.at());
  const Tensor given = require_floating("logsumexp", x), from = widened(given);
  if (kept("logsumexp", from, axes, x.at()).count == 0)
    fail("logsumexp", "at least one element", to_string(from.shape()), x.at());
  const Tensor largest = max(from.detach(), axes, {.keep_dims = true});
  const Tensor shift = where(equal(abs(largest), infinity), 0, largest);
  const Tensor logs = log(sum(exp(from - shift), axes, options));
  return cast(logs + reshape(shift, logs.shape()), given.dtype());
}

// ---- attention ----

Tensor scaled_dot_product_attention(Operand q, Operand k, Operand v, AttentionOptions options) {
  const Location at = q.at();
  const LineScope line(at);
  const Tensor queries = require_tensor("attention", q), keys = require_tensor("attention", k),
               values = require_tensor("attention", v);
  const int rank = queries.rank();
  if (rank < 2 || keys.rank() != rank || values.rank() != rank || queries.size(-1) != keys.size(-1) ||
      keys.size(-2) != values.size(-2)) {
    fail("attention", "q {…, L, E}, k {…, S, E} and v {…, S, V}",
         to_string(queries.shape()) + ", " + to_string(keys.shape()) + " and " + to_string(values.shape()),
         at);
  }
  if (!(options.dropout >= 0 && options.dropout < 1))
    fail("attention", "dropout in [0, 1)", core::number_text(options.dropout), at);
  const double scale =
      options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(queries.size(-1)));
  if (!std::isfinite(scale)) fail("attention", "a finite scale", core::number_text(scale), at);
  Tensor scores = matmul(queries * scale, keys, {.transpose_b = true});  // in this order f16 overflows less
  // Finite, so that anomaly detection does not stop here; softmax makes 0 of it.
  const double least = ops::lowest(scores.dtype());
  const auto allow = [&](const Tensor& allowed) { scores = where(allowed, scores, least); };
  if (options.causal) {
    const std::int64_t l = queries.size(-2), s = keys.size(-2);
    allow(less_equal(arange(s, DType::i64), unsqueeze(arange(l, DType::i64) + (s - l), 1)));
  }
  if (options.mask.defined()) {
    if (options.mask.dtype() == DType::boolean) {
      allow(options.mask);
    } else {
      scores = scores + options.mask;
    }
  }
  Tensor weights = softmax(scores);
  if (options.dropout > 0) weights = dropout(weights, options.dropout);
  return matmul(weights, values);
}

}  // namespace fusetape
