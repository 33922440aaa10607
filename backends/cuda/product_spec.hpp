#pragma once
#include <cstdint>

#include "fusetape/dtype.hpp"

namespace fusetape::backends::cuda {

/// out {batch, m, n} = activation(op(a) · op(b) [+ bias {n}]), row-major and packed; a {m, k}, or {k, m}
/// where it is transposed, b {k, n} or {n, k}. A side of batch stride 0 is one matrix for all.
struct ProductSpec {
  enum class Activation : std::uint8_t { none, relu, gelu };
  DType dtype = DType::f32;   ///< of a, b, bias; sums are f32 (f64 of f64)
  DType result = DType::f32;  ///< of out
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  std::int64_t stride_a = 0, stride_b = 0;  ///< elements from one matrix to the next
  bool transpose_a = false, transpose_b = false;
  bool bias = false;
  Activation activation = Activation::none;
  bool tf32 = false;  ///< products of f32 may be rounded to 10 bits of mantissa

  bool operator==(const ProductSpec&) const = default;
};

}  // namespace fusetape::backends::cuda
