#include "backends/cpu/norm/batch_norm_simd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/norm/batch_norm_forward_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/channel_vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::norm::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

template <class T>
struct Moments : ShiftedMoments {
  const T* x;
};

template <class T>
struct MomentsColumn {
  Vec shift, sum, square;
  HWY_INLINE MomentsColumn(const Moments<T>& m, std::int64_t column)
      : shift(pattern(m.shift, column)),
        sum(pattern(m.chain_sum, column)),
        square(pattern(m.chain_square, column)) {}
  template <class Access>
  HWY_INLINE void row(const Moments<T>& m, const Access& access, std::int64_t at) {
    const Vec d = hn::Sub(access.load(m.x + at), shift);
    sum = hn::Add(sum, d);
    square = hn::MulAdd(d, d, square);
  }
  template <class Access>
  HWY_INLINE void finish(const Moments<T>& m, const Access& access, std::int64_t column) const {
    access.store(sum, m.chain_sum + column);
    access.store(square, m.chain_square + column);
  }
};

template <class T>
void moments_block(const RowBlock& block, const T* x, const ShiftedMoments& m) {
  const ChainSum sums[] = {{m.chain_sum, m.sum}, {m.chain_square, m.square}};
  run_chains<MomentsColumn<T>>(block, Moments<T>{m, x}, sums);
}

void MomentsF32(const RowBlock& block, const float* x, const ShiftedMoments& moments) {
  moments_block(block, x, moments);
}
void MomentsBf16(const RowBlock& block, const Bf16* x, const ShiftedMoments& moments) {
  moments_block(block, x, moments);
}

/// What is written: y, y and its mask, or whatever has a place.
enum class Writes : std::uint8_t { y, y_and_mask, given };

template <class T, int Norms, bool Relu, bool HasZ, Writes Writing>
struct ForwardColumn {
  static constexpr int last = Norms - 1;
  Vec mean0, a0, beta0, mean1, a1, beta1;
  HWY_INLINE ForwardColumn(const NormForward<T>& n, std::int64_t column)
      : mean0(pattern(n.mean[0], column)),
        a0(pattern(n.a[0], column)),
        beta0(pattern(n.beta[0], column)),
        mean1(pattern(n.mean[last], column)),
        a1(pattern(n.a[last], column)),
        beta1(pattern(n.beta[last], column)) {}
  template <class Access>
  HWY_INLINE void row(const NormForward<T>& n, const Access& access, std::int64_t at) const {
    // Everything is read before anything is written: outputs may share a buffer with any of it.
    // What is added is rounded to T first, as if it had been stored.
    Vec first = normalised(access.load(n.x[0] + at), mean0, a0, beta0), second = first;
    if constexpr (Norms == 2) {
      second = rounded<T>(normalised(access.load(n.x[last] + at), mean1, a1, beta1));
    }
    if constexpr (Norms == 2 || HasZ) first = rounded<T>(first);
    Vec v = first;
    if constexpr (Norms == 2) v = hn::Add(v, second);
    if constexpr (HasZ) v = hn::Add(v, access.load(n.z + at));
    if constexpr (Writing == Writes::given) {
      if (n.normed[0] != nullptr) access.store(first, n.normed[0] + at);
      if (n.normed[1] != nullptr) access.store(second, n.normed[1] + at);
      if (n.sum != nullptr) access.store(v, n.sum + at);
      if (n.mask != nullptr) access.store_bits(hn::Not(blocked<T>(v)), n.mask + (at >> 3));
      if (n.y == nullptr) return;
    }
    if constexpr (Writing == Writes::y_and_mask) {
      access.store_bits(hn::Not(blocked<T>(v)), n.mask + (at >> 3));
    }
    access.store(Relu ? relu(v) : v, n.y + at);
  }
  template <class Access>
  HWY_INLINE void finish(const NormForward<T>&, const Access&, std::int64_t) const {}
};

template <class T, int Norms, bool HasZ>
void forward_relu(const RowBlock& block, const NormForward<T>& norm) {
  const bool inner = norm.normed[0] != nullptr || norm.normed[1] != nullptr || norm.sum != nullptr;
  if (inner || norm.y == nullptr) {
    run_block<ForwardColumn<T, Norms, true, HasZ, Writes::given>>(block, norm);
  } else if (norm.mask != nullptr) {
    run_block<ForwardColumn<T, Norms, true, HasZ, Writes::y_and_mask>>(block, norm);
  } else {
    run_block<ForwardColumn<T, Norms, true, HasZ, Writes::y>>(block, norm);
  }
}

template <class T>
void forward_without_relu(const RowBlock& block, const NormForward<T>& norm) {
  if (norm.norms == 2) return run_block<ForwardColumn<T, 2, false, false, Writes::given>>(block, norm);
  if (norm.z != nullptr) return run_block<ForwardColumn<T, 1, false, true, Writes::given>>(block, norm);
  norm.normed[0] != nullptr ? run_block<ForwardColumn<T, 1, false, false, Writes::given>>(block, norm)
                            : run_block<ForwardColumn<T, 1, false, false, Writes::y>>(block, norm);
}

template <class T>
void forward(const RowBlock& block, const NormForward<T>& norm) {
  if (!norm.relu) return forward_without_relu(block, norm);
  if (norm.norms == 2) return forward_relu<T, 2, false>(block, norm);
  norm.z != nullptr ? forward_relu<T, 1, true>(block, norm) : forward_relu<T, 1, false>(block, norm);
}

void ForwardF32(const RowBlock& block, const NormForward<float>& norm) { forward(block, norm); }
void ForwardBf16(const RowBlock& block, const NormForward<Bf16>& norm) { forward(block, norm); }

}  // namespace
}  // namespace fusetape::backends::cpu::norm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::norm {

HWY_EXPORT(MomentsF32);
HWY_EXPORT(MomentsBf16);
HWY_EXPORT(ForwardF32);
HWY_EXPORT(ForwardBf16);

void add_shifted_moments(const RowBlock& block, const float* x, const ShiftedMoments& moments) {
  HWY_DYNAMIC_DISPATCH(MomentsF32)(block, x, moments);
}
void add_shifted_moments(const RowBlock& block, const Bf16* x, const ShiftedMoments& moments) {
  HWY_DYNAMIC_DISPATCH(MomentsBf16)(block, x, moments);
}

void apply_norm(const RowBlock& block, const NormForward<float>& norm) {
  HWY_DYNAMIC_DISPATCH(ForwardF32)(block, norm);
}
void apply_norm(const RowBlock& block, const NormForward<Bf16>& norm) {
  HWY_DYNAMIC_DISPATCH(ForwardBf16)(block, norm);
}

}  // namespace fusetape::backends::cpu::norm
#endif  // HWY_ONCE
