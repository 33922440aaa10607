#pragma once
#include <algorithm>
#include <cstdint>

#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/storage.hpp"
#include "core/numerics/norm_formulas.hpp"

/// The inner loops of batch norm and its kin. Each call handles one block of wide rows; tensor pointers are
/// whole tensors of T (float or Bf16), pattern and sum pointers one wide row of f32, with room for whole
/// vectors behind it. Vectors are the machine's widest.
namespace fusetape::backends::cpu::norm {

using core::inverse_deviation;
using core::norm_gradient;
using core::norm_scale;
using core::NormGradient;

/// sum += x − shift, square += (x − shift)². Few rows are added in f32, in chain_…, which are 0 before and
/// after.
struct ShiftedMoments {
  const float* shift = nullptr;
  float *chain_sum = nullptr, *chain_square = nullptr;
  double *sum = nullptr, *square = nullptr;
};
void add_shifted_moments(const RowBlock& block, const float* x, const ShiftedMoments& moments);
void add_shifted_moments(const RowBlock& block, const Bf16* x, const ShiftedMoments& moments);

/// y = [relu] (n₀ [+ n₁] [+ z]) with nᵢ = (xᵢ − meanᵢ)·aᵢ + βᵢ, each sum rounded to T as the single kernels
/// would.
template <class T>
struct NormForward {
  int norms = 1;
  bool relu = false;
  const T* x[2] = {};
  const float* mean[2] = {};
  const float* a[2] = {};
  const float* beta[2] = {};
  const T* z = nullptr;
  T* y = nullptr;

  // What may be written beside y, or without it.
  T* normed[2] = {};             ///< each nᵢ
  T* sum = nullptr;              ///< what the ReLU reads
  std::uint8_t* mask = nullptr;  ///< where y is not 0, one bit an element; only with the ReLU
};
void apply_norm(const RowBlock& block, const NormForward<float>& norm);
void apply_norm(const RowBlock& block, const NormForward<Bf16>& norm);

enum class MaskFrom : std::uint8_t { nothing, output, input, bits };

/// g' = (g [+ g2]) where the mask lets it pass, and what is made of it. g + g2 is rounded to T.
template <class T>
struct NormBackward {
  int norms = 1;  ///< 0: only g' and its sum; the mask is not recomputed
  MaskFrom mask = MaskFrom::nothing;
  const T* g = nullptr;
  const T* g2 = nullptr;               ///< or null
  const T* y = nullptr;                ///< with MaskFrom::output
  const std::uint8_t* bits = nullptr;  ///< with MaskFrom::bits
  const float* scale = nullptr;        ///< a and β of the forward pass, with MaskFrom::input
  const float* beta = nullptr;
  const T* x[2] = {};
  const float* mean[2] = {};

  // The first pass: sum_g += g', sum_gx += g'(x − mean); g' is written where `masked` is not null. Few rows
  // are added in f32, in chain_…, which are 0 before and after: a long chain would lose what dx is a
  // difference of.
  T* masked = nullptr;
  float* chain_g = nullptr;
  float* chain_gx[2] = {};
  double* sum_g = nullptr;
  double* sum_gx[2] = {};
  void clear_sums(std::int64_t width) {
    std::fill_n(chain_g, width, 0.0f);
    std::fill_n(sum_g, width, 0.0);
    for (int i = 0; i < norms; ++i) {
      std::fill_n(chain_gx[i], width, 0.0f);
      std::fill_n(sum_gx[i], width, 0.0);
    }
  }

  // The second pass: dx = a·g' + (b(x − mean) + c).
  const float* a[2] = {};
  const float* b[2] = {};
  const float* c[2] = {};
  T* dx[2] = {};
};
void add_gradient_sums(const RowBlock& block, const NormBackward<float>& norm);
void add_gradient_sums(const RowBlock& block, const NormBackward<Bf16>& norm);
void apply_norm_gradient(const RowBlock& block, const NormBackward<float>& norm);
void apply_norm_gradient(const RowBlock& block, const NormBackward<Bf16>& norm);

}  // namespace fusetape::backends::cpu::norm
