#include "ops/helpers.hpp"

#include "core/numerics/element.hpp"
#include "core/tape/module_scope.hpp"
#include "core/tape/value.hpp"

namespace fusetape::ops {

using core::Attrs;
using core::InferContext;
using core::NoAttrs;
using core::OpDef;

void fail(std::string_view op, const std::string& expected, const std::string& got, Location at) {
  const core::SourceContext& source = core::source_context();
  const std::string* path = source.module_path;
  if (source.override_location) at = source.at;  // of the caller of an op that is made of this one
  throw Error(std::string(op), "expected " + expected + ", got " + got, at,
              path != nullptr ? *path : std::string());
}

// ---- operands ----

namespace {

Tensor require_defined(std::string_view op, const Operand& x) {
  if (!x.tensor().defined()) fail(op, "a tensor", "an undefined Tensor", x.at());
  return x.take();
}

}  // namespace

Tensor number_as(std::string_view op, Number number, DType dtype, Location at) {
  if (!core::holds(dtype, number)) {
    fail(op, "a number that " + std::string(name_of(dtype)) + " holds (cast the tensor for another)",
         to_string(number), at);
  }
  return scalar(number, dtype, at);
}

Tensor require_tensor(std::string_view op, const Operand& x) {
  if (x.is_number()) fail(op, "a tensor", "the number " + to_string(x.number()), x.at());
  return require_defined(op, x);
}

std::array<Tensor, 2> require_tensors(std::string_view op, const Operand& a, const Operand& b,
                                      Numbers numbers) {
  const auto number_beside = [&](const Operand& x, const Tensor& other) {
    const DType dtype = other.dtype();
    const bool wide = numbers == Numbers::wide && (dtype == DType::bf16 || dtype == DType::f16);
    Tensor number = number_as(op, x.number(), wide ? DType::f32 : dtype, x.at());
    number.value()->number = wide;
    return number;
  };
  if (a.is_number() && b.is_number()) {
    return {number_as(op, a.number(), DType::f32, a.at()), number_as(op, b.number(), DType::f32, b.at())};
  }
  if (a.is_number()) {
    Tensor other = require_defined(op, b);
    Tensor number = number_beside(a, other);
    return {std::move(number), std::move(other)};
  }
  Tensor first = require_defined(op, a);
  Tensor second = b.is_number() ? number_beside(b, first) : require_defined(op, b);
  return {std::move(first), std::move(second)};
}

Tensor number(double value, Location at) { return scalar(value, DType::f64, at); }

void require_reduction(std::string_view op, Reduction reduction, Location at) {
  if (reduction > Reduction::none)
    fail(op, "a Reduction: mean, sum or none", std::to_string(static_cast<int>(reduction)), at);
}

Tensor record_unary(const OpDef& op, const Operand& x, const Attrs& attrs) {
  return core::record_one(op, {require_tensor(op.name, x)}, attrs, x.at());
}

Tensor record_unary(const OpDef& op, const Operand& x) { return record_unary(op, x, Attrs::of(NoAttrs{})); }

Tensor record_binary(const OpDef& op, const Operand& a, const Operand& b, Numbers numbers) {
  auto [left, right] = require_tensors(op.name, a, b, numbers);
  return core::record_one(op, {std::move(left), std::move(right)}, Attrs::of(NoAttrs{}), a.at());
}

Tensor record_here(const OpDef& op, std::initializer_list<Tensor> inputs, const Attrs& attrs) {
  return core::record_one(op, inputs, attrs, Location::current());
}

Tensor record_here(const OpDef& op, std::initializer_list<Tensor> inputs) {
  return record_here(op, inputs, Attrs::of(NoAttrs{}));
}

// ---- shapes and dtypes ----

int normalize_axis(std::string_view op, int axis, int rank, Location at) {
  if (axis < -rank || axis >= rank) {
    fail(op, "an axis of " + std::to_string(rank) + " axes", std::to_string(axis), at);
  }
  return axis < 0 ? axis + rank : axis;
}

bool broadcasts_to(const Shape& from, const Shape& to) {
  const int missing = to.rank() - from.rank();
  if (missing < 0) return false;
  for (int axis = 0; axis < from.rank(); ++axis) {
    if (from[axis] != 1 && from[axis] != to[axis + missing]) return false;
  }
  return true;
}

Shape broadcast_shape(const InferContext& ctx) {
  int rank = 0;
  for (const core::TensorInfo& input : ctx.inputs) rank = std::max(rank, input.shape.rank());
  Shape shape;
  for (int axis = 0; axis < rank; ++axis) shape.push_back(1);
  bool fits = true;
  for (const core::TensorInfo& input : ctx.inputs) {
    const int missing = rank - input.shape.rank();
    for (int axis = 0; axis < input.shape.rank(); ++axis) {
      std::int64_t& extent = shape[axis + missing];
      if (extent == 1) extent = input.shape[axis];
      fits = fits && (input.shape[axis] == 1 || input.shape[axis] == extent);
    }
  }
  if (!fits) {
    std::string got;
    for (const core::TensorInfo& input : ctx.inputs)
      got += (got.empty() ? "" : " and ") + to_string(input.shape);
    ctx.fail("shapes that broadcast (aligned at the last axis, equal or 1)", got);
  }
  return shape;
}

DType same_dtype(const InferContext& ctx, std::size_t first) {
  if (first + 1 < ctx.inputs.size() && ctx.inputs[first].number) ++first;
  const DType dtype = ctx.inputs[first].dtype;
  for (std::size_t i = first + 1; i < ctx.inputs.size(); ++i) {
    if (ctx.inputs[i].dtype == dtype || ctx.inputs[i].number) continue;
    ctx.fail("equal dtypes", std::string(name_of(dtype)) + " and " +
                                 std::string(name_of(ctx.inputs[i].dtype)) + "; use cast");
  }
  return dtype;
}

DType same_numeric_dtype(const InferContext& ctx) {
  const DType dtype = same_dtype(ctx);
  ctx.require(dtype != DType::boolean, "a numeric dtype", "bool; use cast");
  return dtype;
}

void infer_floating(InferContext& ctx) {
  const DType dtype = ctx.same_floating_dtype();
  ctx.output(broadcast_shape(ctx), dtype);
}

void infer_arithmetic(InferContext& ctx) {
  const DType dtype = same_numeric_dtype(ctx);
  ctx.output(broadcast_shape(ctx), dtype);
}

void infer_like_first(InferContext& ctx) {
  const DType dtype = ctx.same_floating_dtype();
  for (const core::TensorInfo& input : ctx.inputs) {
    if (!(input.shape == ctx.shape(0)))
      ctx.fail("inputs of shape " + to_string(ctx.shape(0)), to_string(input.shape));
  }
  ctx.output(ctx.shape(0), dtype);
}

// ---- gradients ----

Tensor sum_to(const Tensor& g, const Shape& shape) {
  if (g.shape() == shape) return g;
  const int missing = g.rank() - shape.rank();
  std::vector<int> axes;
  for (int axis = 0; axis < g.rank(); ++axis) {
    if (axis < missing || shape[axis - missing] != g.shape()[axis]) axes.push_back(axis);
  }
  const Tensor summed = axes.empty() ? g : sum(g, axes);
  return summed.shape() == shape ? summed : reshape(summed, shape);
}

}  // namespace fusetape::ops
