#include "backends/cpu/norm/batch_norm_simd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/norm/batch_norm_backward_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/channel_vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::norm::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

/// g' at one place; `x`, `mean`, `a` and `beta` are the first normalisation's, for the recomputed mask.
template <class T, MaskFrom Mask, class Access>
HWY_INLINE Vec masked_gradient(const NormBackward<T>& n, const Access& access, std::int64_t at, Vec x,
                               Vec mean, Vec a, Vec beta) {
  Vec g = access.load(n.g + at);
  if (n.g2 != nullptr) g = rounded<T>(hn::Add(g, access.load(n.g2 + at)));
  if constexpr (Mask == MaskFrom::output) return hn::IfThenZeroElse(blocked<T>(access.load(n.y + at)), g);
  if constexpr (Mask == MaskFrom::input) {
    return hn::IfThenZeroElse(blocked<T>(normalised(x, mean, a, beta)), g);
  }
  if constexpr (Mask == MaskFrom::bits) return hn::IfThenElseZero(access.load_bits(n.bits + (at >> 3)), g);
  return g;
}

template <class T, int Norms, MaskFrom Mask>
struct SumsColumn {
  Vec sum, a = hn::Zero(Floats()), beta = a, mean0 = a, mean1 = a, sum0 = a, sum1 = a;
  HWY_INLINE SumsColumn(const NormBackward<T>& n, std::int64_t column) : sum(pattern(n.chain_g, column)) {
    if constexpr (Mask == MaskFrom::input) {
      a = pattern(n.scale, column);
      beta = pattern(n.beta, column);
    }
    if constexpr (Norms > 0) {
      mean0 = pattern(n.mean[0], column);
      sum0 = pattern(n.chain_gx[0], column);
    }
    if constexpr (Norms > 1) {
      mean1 = pattern(n.mean[1], column);
      sum1 = pattern(n.chain_gx[1], column);
    }
  }
  template <class Access>
  HWY_INLINE void row(const NormBackward<T>& n, const Access& access, std::int64_t at) {
    Vec x0 = hn::Zero(Floats()), x1 = x0;
    if constexpr (Norms > 0) x0 = access.load(n.x[0] + at);
    if constexpr (Norms > 1) x1 = access.load(n.x[1] + at);
    const Vec g = masked_gradient<T, Mask>(n, access, at, x0, mean0, a, beta);
    if (n.masked != nullptr) access.store(g, n.masked + at);
    sum = hn::Add(sum, g);
    if constexpr (Norms > 0) sum0 = hn::MulAdd(g, hn::Sub(x0, mean0), sum0);
    if constexpr (Norms > 1) sum1 = hn::MulAdd(g, hn::Sub(x1, mean1), sum1);
  }
  template <class Access>
  HWY_INLINE void finish(const NormBackward<T>& n, const Access& access, std::int64_t column) const {
    access.store(sum, n.chain_g + column);
    if constexpr (Norms > 0) access.store(sum0, n.chain_gx[0] + column);
    if constexpr (Norms > 1) access.store(sum1, n.chain_gx[1] + column);
  }
};

template <class T, int Norms, MaskFrom Mask>
struct GradientColumn {
  static constexpr int last = Norms - 1;
  Vec mean0, a0, b0, c0, mean1, a1, b1, c1, beta;
  HWY_INLINE GradientColumn(const NormBackward<T>& n, std::int64_t column)
      : mean0(pattern(n.mean[0], column)),
        a0(pattern(n.a[0], column)),
        b0(pattern(n.b[0], column)),
        c0(pattern(n.c[0], column)),
        mean1(pattern(n.mean[last], column)),
        a1(pattern(n.a[last], column)),
        b1(pattern(n.b[last], column)),
        c1(pattern(n.c[last], column)),
        beta(pattern(Mask == MaskFrom::input ? n.beta : n.c[0], column)) {}
  template <class Access>
  HWY_INLINE void row(const NormBackward<T>& n, const Access& access, std::int64_t at) const {
    // Everything is read before anything is written: dx may share a buffer with any of it.
    const Vec x0 = access.load(n.x[0] + at);
    const Vec x1 = Norms > 1 ? access.load(n.x[last] + at) : x0;
    const Vec g = masked_gradient<T, Mask>(n, access, at, x0, mean0, a0, beta);
    access.store(hn::MulAdd(a0, g, hn::MulAdd(b0, hn::Sub(x0, mean0), c0)), n.dx[0] + at);
    if constexpr (Norms > 1)
      access.store(hn::MulAdd(a1, g, hn::MulAdd(b1, hn::Sub(x1, mean1), c1)), n.dx[1] + at);
  }
  template <class Access>
  HWY_INLINE void finish(const NormBackward<T>&, const Access&, std::int64_t) const {}
};

template <class T, int Norms, MaskFrom Mask>
void sums_block(const RowBlock& block, const NormBackward<T>& norm) {
  ChainSum sums[Norms + 1] = {{norm.chain_g, norm.sum_g}};
  for (int i = 0; i < Norms; ++i) sums[i + 1] = {norm.chain_gx[i], norm.sum_gx[i]};
  run_chains<SumsColumn<T, Norms, Mask>>(block, norm, sums);
}

template <class T, int Norms, MaskFrom Mask>
void gradient_block(const RowBlock& block, const NormBackward<T>& norm) {
  run_block<GradientColumn<T, Norms, Mask>>(block, norm);
}

template <class T>
void sums(const RowBlock& block, const NormBackward<T>& norm) {
  if (norm.norms == 0) {
    if (norm.mask == MaskFrom::nothing) return sums_block<T, 0, MaskFrom::nothing>(block, norm);
    return norm.mask == MaskFrom::bits ? sums_block<T, 0, MaskFrom::bits>(block, norm)
                                       : sums_block<T, 0, MaskFrom::output>(block, norm);
  }
  if (norm.norms == 2) {
    if (norm.mask == MaskFrom::nothing) return sums_block<T, 2, MaskFrom::nothing>(block, norm);
    return norm.mask == MaskFrom::bits ? sums_block<T, 2, MaskFrom::bits>(block, norm)
                                       : sums_block<T, 2, MaskFrom::output>(block, norm);
  }
  switch (norm.mask) {
    case MaskFrom::nothing:
      return sums_block<T, 1, MaskFrom::nothing>(block, norm);
    case MaskFrom::output:
      return sums_block<T, 1, MaskFrom::output>(block, norm);
    case MaskFrom::input:
      return sums_block<T, 1, MaskFrom::input>(block, norm);
    case MaskFrom::bits:
      return sums_block<T, 1, MaskFrom::bits>(block, norm);
  }
}

template <class T, int Norms>
void gradient_of(const RowBlock& block, const NormBackward<T>& norm) {
  switch (norm.mask) {
    case MaskFrom::nothing:
      return gradient_block<T, Norms, MaskFrom::nothing>(block, norm);
    case MaskFrom::output:
      return gradient_block<T, Norms, MaskFrom::output>(block, norm);
    case MaskFrom::input:
      return gradient_block<T, 1, MaskFrom::input>(block, norm);
    case MaskFrom::bits:
      return gradient_block<T, Norms, MaskFrom::bits>(block, norm);
  }
}

template <class T>
void gradient(const RowBlock& block, const NormBackward<T>& norm) {
  norm.norms == 2 ? gradient_of<T, 2>(block, norm) : gradient_of<T, 1>(block, norm);
}

void SumsF32(const RowBlock& block, const NormBackward<float>& norm) { sums(block, norm); }
void SumsBf16(const RowBlock& block, const NormBackward<Bf16>& norm) { sums(block, norm); }
void GradientF32(const RowBlock& block, const NormBackward<float>& norm) { gradient(block, norm); }
void GradientBf16(const RowBlock& block, const NormBackward<Bf16>& norm) { gradient(block, norm); }

}  // namespace
}  // namespace fusetape::backends::cpu::norm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::norm {

HWY_EXPORT(SumsF32);
HWY_EXPORT(SumsBf16);
HWY_EXPORT(GradientF32);
HWY_EXPORT(GradientBf16);

void add_gradient_sums(const RowBlock& block, const NormBackward<float>& norm) {
  HWY_DYNAMIC_DISPATCH(SumsF32)(block, norm);
}
void add_gradient_sums(const RowBlock& block, const NormBackward<Bf16>& norm) {
  HWY_DYNAMIC_DISPATCH(SumsBf16)(block, norm);
}

void apply_norm_gradient(const RowBlock& block, const NormBackward<float>& norm) {
  HWY_DYNAMIC_DISPATCH(GradientF32)(block, norm);
}
void apply_norm_gradient(const RowBlock& block, const NormBackward<Bf16>& norm) {
  HWY_DYNAMIC_DISPATCH(GradientBf16)(block, norm);
}

}  // namespace fusetape::backends::cpu::norm
#endif  // HWY_ONCE
