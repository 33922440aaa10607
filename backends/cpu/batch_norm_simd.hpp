#pragma once
#include <cmath>
#include <cstdint>

#include "backends/cpu/channel_rows.hpp"

/// The inner loops of batch norm and its kin. Each call handles one block of wide rows; tensor pointers are
/// whole tensors, pattern and sum pointers one wide row, with room for whole vectors behind it. Vectors are
/// the machine's widest.
namespace fusetape::backends::cpu {

/// The scale and shift of a normalisation, y = fma(a, x, s). The only place where they are computed: a mask
/// that backward recomputes from x is then equal to the bit.
inline float norm_scale(float gamma, float inv_std) { return gamma * inv_std; }
inline float norm_shift(float a, float mean, float beta) { return std::fma(-a, mean, beta); }
inline float inverse_deviation(double variance, double eps) {
  return static_cast<float>(1.0 / std::sqrt(variance + eps));
}

/// sum += x − shift, square += (x − shift)².
void add_shifted_moments(const RowBlock& block, const float* x, const float* shift, float* sum,
                         float* square);

/// y = [relu] (a₀x₀ + s₀ [+ a₁x₁ + s₁] [+ z]).
struct NormForward {
  int norms = 1;
  bool relu = false;
  const float* x[2] = {};
  const float* a[2] = {};
  const float* s[2] = {};
  const float* z = nullptr;
  float* y = nullptr;
};
void apply_norm(const RowBlock& block, const NormForward& norm);

enum class MaskFrom : std::uint8_t { nothing, output, input };

/// g' = (g [+ g2]) where the mask lets it pass, and what is made of it.
struct NormBackward {
  int norms = 1;  ///< 0: only g' and its sum
  MaskFrom mask = MaskFrom::nothing;
  const float* g = nullptr;
  const float* g2 = nullptr;     ///< or null
  const float* y = nullptr;      ///< with MaskFrom::output
  const float* scale = nullptr;  ///< a and s of the forward pass, with MaskFrom::input
  const float* shift = nullptr;
  const float* x[2] = {};
  const float* mean[2] = {};

  // The first pass: sum_g += g', sum_gx += g'(x − mean); g' is written where `masked` is not null.
  float* masked = nullptr;
  float* sum_g = nullptr;
  float* sum_gx[2] = {};

  // The second pass: dx = a·g' + (b(x − mean) + c).
  const float* a[2] = {};
  const float* b[2] = {};
  const float* c[2] = {};
  float* dx[2] = {};
};
void add_gradient_sums(const RowBlock& block, const NormBackward& norm);
void apply_norm_gradient(const RowBlock& block, const NormBackward& norm);

}  // namespace fusetape::backends::cpu
