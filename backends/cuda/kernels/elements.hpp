#pragma once
#include <cstddef>
#include <cstdint>

#include "backends/cuda/phases.hpp"
#include "core/numerics/half.hpp"
#include "core/numerics/host_device.hpp"

#ifndef __CUDA_ARCH__
#include "core/check.hpp"
#endif

/// Elements as they are stored, and 16 bytes of them at a time.
namespace fusetape::backends::cuda {

struct Bf16 {
  std::uint16_t bits;
};
struct F16 {
  std::uint16_t bits;
};

FUSETAPE_HD inline float to_float(float x) { return x; }
FUSETAPE_HD inline float to_float(Bf16 x) { return core::from_bf16(x.bits); }
FUSETAPE_HD inline float to_float(F16 x) { return core::from_f16(x.bits); }

/// Rounded to nearest even; a NaN stays one.
template <class T>
FUSETAPE_HD T from_float(float x);
template <>
FUSETAPE_HD inline float from_float<float>(float x) {
  return x;
}
template <>
FUSETAPE_HD inline Bf16 from_float<Bf16>(float x) {
  return {core::to_bf16(x)};
}
template <>
FUSETAPE_HD inline F16 from_float<F16>(float x) {
  return {core::to_f16(x)};
}

template <class T>
inline constexpr const char* type_name = "f32";
template <>
inline constexpr const char* type_name<Bf16> = "bf16";
template <>
inline constexpr const char* type_name<F16> = "f16";
template <>
inline constexpr const char* type_name<std::int64_t> = "i64";
template <>
inline constexpr const char* type_name<std::uint8_t> = "u8";

/// What one access moves.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / static_cast<int>(sizeof(T));
  T at[size];
};

/// A device faults on an address that is not a multiple of 16: so does the host.
template <class T>
FUSETAPE_HD Pack<T> load_pack(const T* from) {
#ifndef __CUDA_ARCH__
  FUSETAPE_ASSERT(reinterpret_cast<std::uintptr_t>(from) % 16 == 0);
#endif
  return *reinterpret_cast<const Pack<T>*>(from);
}
template <class T>
FUSETAPE_HD void store_pack(T* to, const Pack<T>& pack) {
#ifdef __CUDA_ARCH__
  // By the intrinsic of a plain store: nvcc would store 16-bit elements in pairs.
  uint4 words;
  memcpy(&words, &pack, sizeof words);
  __stwb(reinterpret_cast<uint4*>(to), words);
#else
  FUSETAPE_ASSERT(reinterpret_cast<std::uintptr_t>(to) % 16 == 0);
  *reinterpret_cast<Pack<T>*>(to) = pack;
#endif
}

/// As it will be read again.
template <class T>
FUSETAPE_HD float rounded(float x) {
  return to_float(from_float<T>(x));
}

/// Eight consecutive elements as floats: a byte of a mask, 16 bytes of a 16-bit type. Loops over them run
/// from 0 to 8, with a condition where there are fewer: unrolled, they stay in registers.
struct Eight {
  float at[8];
};

/// `count` of them, all at once where it is 8: `from` is on a boundary of 16 bytes then.
template <class T>
FUSETAPE_HD Eight load_eight(const T* from, int count = 8) {
  Eight out{};
  if (count < 8) {
    for (int i = 0; i < 8; ++i) {  // with places that are known: the eight stay in registers
      if (i < count) out.at[i] = to_float(from[i]);
    }
    return out;
  }
  for (int part = 0; part < 8; part += Pack<T>::size) {
    const Pack<T> pack = load_pack(from + part);
    for (int i = 0; i < Pack<T>::size; ++i) out.at[part + i] = to_float(pack.at[i]);
  }
  return out;
}
template <class T>
FUSETAPE_HD void store_eight(T* to, const Eight& values, int count = 8) {
  if (count < 8) {
    for (int i = 0; i < 8; ++i) {
      if (i < count) to[i] = from_float<T>(values.at[i]);
    }
    return;
  }
  for (int part = 0; part < 8; part += Pack<T>::size) {
    Pack<T> pack;
    for (int i = 0; i < Pack<T>::size; ++i) pack.at[i] = from_float<T>(values.at[part + i]);
    store_pack(to + part, pack);
  }
}

/// Calls f(at, how_many) for the stretches of up to eight that are a thread's share of `count` elements.
template <unsigned Threads, class F>
FUSETAPE_HD void for_eights(const Thread& thread, std::int64_t count, F f) {
  for_share<Threads>(thread, (count + 7) / 8, [&](std::int64_t chunk) {
    const std::int64_t at = chunk * 8, left = count - at;
    f(at, left < 8 ? static_cast<int>(left) : 8);
  });
}

}  // namespace fusetape::backends::cuda
