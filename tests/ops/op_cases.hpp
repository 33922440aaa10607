#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"

/// One table of calls of the public ops. ops_test.cpp drives every kind of check from it.
namespace fusetape::tests {

/// What the elements of an input are. Reals are multiples of 1/64 in which no two are equal or 0 (as long as
/// there are fewer than 192), so that nothing lies on a kink, nor within a finite difference of one.
enum class Kind : std::uint8_t {
  real,      ///< in (-1.5, 1.5)
  positive,  ///< in (0.25, 1.75)
  eighths,   ///< small multiples of 1/8: sums of their products are exact in f32, in any order
  integers,  ///< of −6 … 6, as numbers of the case's dtype, with repetitions
  labels,    ///< i64 in [0, limit)
  bytes,     ///< u8 in [0, limit)
  special,   ///< 0, −0, infinities, NaN, very large and very small numbers
};

struct Input {
  Shape shape;
  Kind kind = Kind::real;
  bool constant = false;  ///< no gradient is asked for it
  bool wide = false;      ///< f32 beside 16-bit inputs, as batch norm's parameters are
  std::int64_t limit = 0;
};

inline Input real(Shape shape) { return {.shape = shape}; }
inline Input positive(Shape shape) { return {.shape = shape, .kind = Kind::positive}; }
inline Input eighths(Shape shape) { return {.shape = shape, .kind = Kind::eighths}; }
inline Input special(Shape shape) { return {.shape = shape, .kind = Kind::special}; }
inline Input integers(Shape shape) { return {.shape = shape, .kind = Kind::integers, .constant = true}; }
inline Input labels(std::int64_t count, std::int64_t limit) {
  return {.shape = {count}, .kind = Kind::labels, .constant = true, .limit = limit};
}
inline Input bytes(Shape shape, std::int64_t limit) {
  return {.shape = shape, .kind = Kind::bytes, .constant = true, .limit = limit};
}
/// Batch norm's parameters and statistics of c channels.
inline Input scale(std::int64_t c) { return {.shape = {c}, .kind = Kind::positive, .wide = true}; }
inline Input shift(std::int64_t c) { return {.shape = {c}, .wide = true}; }
inline Input constant(Input input) {
  input.constant = true;
  return input;
}

using Inputs = std::vector<Tensor>;

/// One tensor or several.
struct Results : std::vector<Tensor> {
  Results(Tensor one) { push_back(std::move(one)); }
  Results(std::initializer_list<Tensor> many) : std::vector<Tensor>(many) {}
  Results(std::vector<Tensor> many) : std::vector<Tensor>(std::move(many)) {}
};

/// What makes a case special.
struct Flags {
  bool differentiable = true;
  /// Gradients are compared with finite differences, too.
  bool smooth = true;
  /// Fused kernels give the very bits of the single ones.
  bool same_bits = true;
  /// In bf16, too: the fused kernels round wherever the single ones store.
  bool same_bits_bf16 = false;
  /// For f32, of the largest number of a result.
  double tolerance = 1e-5;
  /// Only f32 (and f64): 16 bits would say nothing about it.
  bool wide_only = false;
  /// What explain() must show among the groups of the fused CPU plan of the forward and backward pass.
  std::vector<std::string> groups = {};
};

struct OpCase {
  std::string name;
  std::vector<Input> inputs;
  std::function<Results(const Inputs&)> call;
  Flags flags = {};
};

inline std::string named(const std::string& what, const Shape& shape) {
  return what + " " + to_string(shape);
}

// Single public ops, in several shapes each.
std::vector<OpCase> pointwise_cases();
std::vector<OpCase> layer_cases();   ///< matrix products, convolutions, normalisation, pooling
std::vector<OpCase> array_cases();   ///< places of axes; what is made of other ops
std::vector<OpCase> tensor_cases();  ///< shapes, reductions, losses, random numbers; large tensors
/// Compositions that the rules of core/plan/rules/rules.cpp make one kernel of.
std::vector<OpCase> fused_cases();
std::vector<OpCase> norm_cases();        ///< norms with what stands around them
std::vector<OpCase> conv_fused_cases();  ///< of convolutions
/// The ops that only plans contain, alone and in groups.
std::vector<OpCase> retention_cases();
std::vector<OpCase> split_norm_cases();
/// Convolutions that Winograd computes, and what rides in their transforms.
std::vector<OpCase> carried_cases();
/// 1×1 and depthwise convolutions, and what rides in their kernels.
std::vector<OpCase> row_cases();
std::vector<OpCase> chain_cases();   ///< pointwise chains, with casts, broadcasts and reductions at their end
std::vector<OpCase> linear_cases();  ///< matrix products with bias and activation; pooling behind a ReLU
std::vector<OpCase> update_cases();  ///< optimizer steps, with and without clipping
/// NaN, infinities, numbers near the ends of f32, and where rounding is worst.
std::vector<OpCase> extreme_cases();

}  // namespace fusetape::tests
