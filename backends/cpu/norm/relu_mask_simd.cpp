#include "backends/cpu/norm/relu_mask_simd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/norm/relu_mask_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::norm::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

/// As whole numbers, floats above −infinity are the negative NaNs, 0 and the positive ones.
template <class T>
void write_mask(const T* y, T infinity, std::int64_t count, std::uint8_t* mask) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto bound = hn::Set(d, infinity), zero = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto v = hn::LoadU(d, y + i);
    hn::StoreMaskBits(d, hn::And(hn::Gt(v, bound), hn::Ne(v, zero)), mask + i / 8);
  }
  for (; i < count; i += 8) {
    unsigned byte = 0;
    for (std::int64_t k = 0; k < 8 && i + k < count; ++k) {
      byte |= static_cast<unsigned>(y[i + k] > infinity && y[i + k] != 0) << k;
    }
    mask[i / 8] = static_cast<std::uint8_t>(byte);
  }
}

template <class T>
void apply_mask(const T* g, const std::uint8_t* mask, std::int64_t count, T* dx) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto bits = hn::LoadMaskBits(d, mask + i / 8);
    hn::StoreU(hn::IfThenElseZero(bits, hn::LoadU(d, g + i)), d, dx + i);
  }
  for (; i < count; ++i) dx[i] = (mask[i / 8] >> (i % 8) & 1) != 0 ? g[i] : T{0};
}

void WriteMask32(const std::int32_t* y, std::int32_t infinity, std::int64_t count, std::uint8_t* mask) {
  write_mask(y, infinity, count, mask);
}
void WriteMask16(const std::int16_t* y, std::int16_t infinity, std::int64_t count, std::uint8_t* mask) {
  write_mask(y, infinity, count, mask);
}
void ApplyMask32(const std::int32_t* g, const std::uint8_t* mask, std::int64_t count, std::int32_t* dx) {
  apply_mask(g, mask, count, dx);
}
void ApplyMask16(const std::int16_t* g, const std::uint8_t* mask, std::int64_t count, std::int16_t* dx) {
  apply_mask(g, mask, count, dx);
}

}  // namespace
}  // namespace fusetape::backends::cpu::norm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::norm {

HWY_EXPORT(WriteMask32);
HWY_EXPORT(WriteMask16);
HWY_EXPORT(ApplyMask32);
HWY_EXPORT(ApplyMask16);

void write_relu_mask(const std::int32_t* y, std::int32_t infinity, std::int64_t count, std::uint8_t* mask) {
  HWY_DYNAMIC_DISPATCH(WriteMask32)(y, infinity, count, mask);
}
void write_relu_mask(const std::int16_t* y, std::int16_t infinity, std::int64_t count, std::uint8_t* mask) {
  HWY_DYNAMIC_DISPATCH(WriteMask16)(y, infinity, count, mask);
}

void apply_relu_mask(const std::int32_t* g, const std::uint8_t* mask, std::int64_t count, std::int32_t* dx) {
  HWY_DYNAMIC_DISPATCH(ApplyMask32)(g, mask, count, dx);
}
void apply_relu_mask(const std::int16_t* g, const std::uint8_t* mask, std::int64_t count, std::int16_t* dx) {
  HWY_DYNAMIC_DISPATCH(ApplyMask16)(g, mask, count, dx);
}

}  // namespace fusetape::backends::cpu::norm
#endif  // HWY_ONCE
