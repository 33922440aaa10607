#pragma once
#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "core/op/op.hpp"
#include "core/op/op_attrs.hpp"
#include "fusetape/ops.hpp"

/// What many ops share: operands as tensors, shape and dtype rules, the gradient of broadcasting.
namespace fusetape::ops {

// ---- operands ----

/// Throws Error("[op] expected …, got …") with the place in the model.
[[noreturn]] void fail(std::string_view op, const std::string& expected, const std::string& got, Location at);

/// An operand that must be a defined tensor.
Tensor require_tensor(std::string_view op, const Operand& x);
/// A number as a scalar of this dtype; one that it cannot hold is an error.
Tensor number_as(std::string_view op, Number number, DType dtype, Location at);
/// What a number becomes beside a tensor of 16 bits.
enum class Numbers : std::uint8_t {
  alike,  ///< of that dtype: where it may be the result, or is compared with
  wide,   ///< f32: where the result is rounded, and the number need not be before
};
/// Two operands as tensors. A number takes the other's dtype (f32 beside another number), or is wide, and
/// becomes a scalar input.
std::array<Tensor, 2> require_tensors(std::string_view op, const Operand& a, const Operand& b,
                                      Numbers numbers = Numbers::alike);

/// An option of a call as a run-time input (OpDef::numbers).
Tensor number(double value, Location at);

/// Any number may have been cast to the type.
void require_reduction(std::string_view op, Reduction reduction, Location at);

/// One call of an op without attributes, or with those given.
Tensor record_unary(const core::OpDef& op, const Operand& x, const core::Attrs& attrs);
Tensor record_unary(const core::OpDef& op, const Operand& x);
Tensor record_binary(const core::OpDef& op, const Operand& a, const Operand& b,
                     Numbers numbers = Numbers::alike);
/// The same inside a gradient, where locations are overridden.
Tensor record_here(const core::OpDef& op, std::initializer_list<Tensor> inputs, const core::Attrs& attrs);
Tensor record_here(const core::OpDef& op, std::initializer_list<Tensor> inputs);

// ---- shapes and dtypes ----

/// The most that an option in pixels may be: libraries of kernels count them in 32 bits.
constexpr std::int64_t most_pixels = std::numeric_limits<std::int32_t>::max();

/// A negative axis counts from the end; throws when it is out of range.
int normalize_axis(std::string_view op, int axis, int rank, Location at);

/// Whether a value of shape `from` broadcasts to `to`.
bool broadcasts_to(const Shape& from, const Shape& to);
/// The shape that all inputs broadcast to, NumPy's rule; checks.
Shape broadcast_shape(const core::InferContext& ctx);
/// The one dtype of the inputs from `first` on; checks.
DType same_dtype(const core::InferContext& ctx, std::size_t first = 0);
/// One dtype that arithmetic is done in: anything but bool.
DType same_numeric_dtype(const core::InferContext& ctx);

/// Of a norm's statistics and parameters: f32 however small x's type is.
constexpr DType statistics_dtype(DType x) { return x == DType::f64 ? DType::f64 : DType::f32; }

/// Shape rules that many ops share.
void infer_floating(core::InferContext& ctx);  ///< inputs of one floating dtype broadcast; the output has it
void infer_arithmetic(core::InferContext& ctx);  ///< the same for any dtype but bool
/// The first input's shape and floating dtype; the others are like it. For unary ops and their `*_grad`.
void infer_like_first(core::InferContext& ctx);

/// Shape and RandomAttrs keep a shape as rank and extents.
template <class ShapeFields>
Shape shape_of(const ShapeFields& attrs) {
  return Shape(std::span<const std::int64_t>(attrs.extents.data(), static_cast<std::size_t>(attrs.rank)));
}
template <class ShapeFields>
void set_shape(ShapeFields& attrs, const Shape& shape) {
  attrs.rank = shape.rank();
  std::copy(shape.begin(), shape.end(), attrs.extents.begin());
}

// ---- gradients ----

/// What is linear in each of two inputs: the gradient of one reads the other.
constexpr core::Saves saves_of_product(std::uint32_t wanted) {
  return {.inputs = (wanted & core::bit(0)) << 1 | (wanted & core::bit(1)) >> 1};
}

/// The gradient of broadcasting: g summed over the axes along which `shape` was repeated.
Tensor sum_to(const Tensor& g, const Shape& shape);

// ---- meanings ----

/// OpDef::pointwise of an op without attributes.
template <double (*formula)(double)>
double element_of(const double* in, const core::Attrs&) {
  return formula(in[0]);
}
template <double (*formula)(double, double)>
double element_of(const double* in, const core::Attrs&) {
  return formula(in[0], in[1]);
}
template <double (*formula)(double, double, double)>
double element_of(const double* in, const core::Attrs&) {
  return formula(in[0], in[1], in[2]);
}
template <double (*formula)(double, double, double, double)>
double element_of(const double* in, const core::Attrs&) {
  return formula(in[0], in[1], in[2], in[3]);
}

/// OpDef::whole_pointwise. Where a result may overflow, the formula is one of std::uint64_t, which wraps
/// around.
using Whole = std::int64_t;
using Wrapping = std::uint64_t;
constexpr double added(double a, double b) { return a + b; }
constexpr Whole added(Whole a, Whole b) {
  return static_cast<Whole>(static_cast<Wrapping>(a) + static_cast<Wrapping>(b));
}
template <class T, T (*formula)(T)>
Whole whole_element_of(const Whole* in, const core::Attrs&) {
  return static_cast<Whole>(formula(static_cast<T>(in[0])));
}
template <class T, T (*formula)(T, T)>
Whole whole_element_of(const Whole* in, const core::Attrs&) {
  return static_cast<Whole>(formula(static_cast<T>(in[0]), static_cast<T>(in[1])));
}
template <class T, T (*formula)(T, T, T)>
Whole whole_element_of(const Whole* in, const core::Attrs&) {
  return static_cast<Whole>(formula(static_cast<T>(in[0]), static_cast<T>(in[1]), static_cast<T>(in[2])));
}

}  // namespace fusetape::ops
