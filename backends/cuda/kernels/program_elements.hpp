#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/numerics/half.hpp"
#include "core/numerics/host_device.hpp"

/// Elements of generated kernels: as they are stored, as floats, and several at a time. This text is part of
/// every such kernel.
namespace fusetape::backends::cuda::program {

struct Bf16 {
  std::uint16_t bits;
};
struct F16 {
  std::uint16_t bits;
};
struct Bool {
  unsigned char value;
};
struct U8 {
  unsigned char value;
};
using I64 = long long;

FUSETAPE_HD inline float to_float(float x) { return x; }
FUSETAPE_HD inline float to_float(Bf16 x) { return core::from_bf16(x.bits); }
FUSETAPE_HD inline float to_float(F16 x) {
#ifdef __CUDA_ARCH__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  return core::from_f16(x.bits);
#endif
}
FUSETAPE_HD inline float to_float(Bool x) { return x.value != 0 ? 1.0f : 0.0f; }
FUSETAPE_HD inline float to_float(U8 x) { return static_cast<float>(x.value); }
FUSETAPE_HD inline float to_float(I64 x) { return static_cast<float>(x); }

/// Rounded to nearest even; u8 comes from what was one. A device has instructions that round as
/// core/numerics/half.hpp does, but for a NaN's payload: a chain of 16 bits would be slower than its memory
/// without them.
template <class T>
FUSETAPE_HD T from_float(float x);
template <>
FUSETAPE_HD inline float from_float<float>(float x) {
  return x;
}
template <>
FUSETAPE_HD inline Bf16 from_float<Bf16>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  Bf16 half;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half.bits) : "f"(x));
  return half;
#else
  return {core::to_bf16(x)};
#endif
}
template <>
FUSETAPE_HD inline F16 from_float<F16>(float x) {
#ifdef __CUDA_ARCH__
  F16 half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(x));
  return half;
#else
  return {core::to_f16(x)};
#endif
}
template <>
FUSETAPE_HD inline Bool from_float<Bool>(float x) {
  return {static_cast<unsigned char>(x != 0 ? 1 : 0)};
}
template <>
FUSETAPE_HD inline U8 from_float<U8>(float x) {
  return {static_cast<unsigned char>(x)};
}

/// Neighbours, moved by accesses of up to 16 bytes.
template <class T, int count>
struct alignas(count * sizeof(T) < 16 ? count * sizeof(T) : 16) Neighbours {
  T at[count];
};

template <class T, int count, class Index>
FUSETAPE_HD Neighbours<T, count> load(const void* from, Index at) {
  return *reinterpret_cast<const Neighbours<T, count>*>(static_cast<const T*>(from) + at);
}
template <class T, class Index>
FUSETAPE_HD float load_float(const void* from, Index at) {
  return to_float(static_cast<const T*>(from)[at]);
}
template <class T, int count, class Index>
FUSETAPE_HD void store(void* to, Index at, const Neighbours<T, count>& elements) {
  *reinterpret_cast<Neighbours<T, count>*>(static_cast<T*>(to) + at) = elements;
}

}  // namespace fusetape::backends::cuda::program
