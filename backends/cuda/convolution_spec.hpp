#pragma once
#include <cstdint>

#include "core/plan/rules/group.hpp"
#include "fusetape/dtype.hpp"

namespace fusetape::backends::cuda {

/// What a library computes as one operation. x {n,h,w,c}, w {k,r,s,c/groups}, y {n,oh,ow,k}, all packed.
struct ConvolutionSpec {
  using Pass = plan::ConvPass;
  /// forward: y = [relu](conv(x, w) [+ bias] [+ z]), a = x, b = w; grad_input: dx = conv_grad_input(g, w)
  /// [+ z], a = g, b = w; grad_weight: dw = conv_grad_weight(x, g), a = x, b = g.
  Pass pass = Pass::forward;
  DType dtype = DType::f32;   ///< of a and b; sums are f32 (f64 of f64)
  DType result = DType::f32;  ///< of what is written
  std::int64_t n = 0, h = 0, w = 0, c = 0;
  std::int64_t k = 0, r = 0, s = 0;
  std::int64_t oh = 0, ow = 0;
  std::int64_t stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0, dilation_h = 1, dilation_w = 1, groups = 1;
  bool bias = false;  ///< {k}, of `dtype`
  bool add = false;   ///< z, of the result's shape and dtype
  bool relu = false;
  bool statistics = false;  ///< also Σy and Σy² of each of the k channels, in f32; forward only
  bool tf32 = false;        ///< products of f32 may be rounded to 10 bits of mantissa
  bool timed = true;  ///< the fastest of the library's kernels; else its first guess, the same in every run

  bool operator==(const ConvolutionSpec&) const = default;
};

/// Pointers of a library's operation; null where the spec names none.
struct OperationArgs {
  const void *a = nullptr, *b = nullptr, *bias = nullptr, *z = nullptr;
  void* out = nullptr;
  void *sum = nullptr, *square = nullptr;
  void* workspace = nullptr;
};

}  // namespace fusetape::backends::cuda
