#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fusetape {

/// Element types. f64 is for the reference backend (gradient checks) and for matmul on the CPU.
enum class DType : std::uint8_t { f32, f64, bf16, f16, i64, u8, boolean };

/// Bytes of one element.
constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::f64:
      return 8;
    case DType::bf16:
      return 2;
    case DType::f16:
      return 2;
    case DType::i64:
      return 8;
    case DType::u8:
      return 1;
    case DType::boolean:
      return 1;
  }
  return 0;
}

constexpr bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::bf16 || dtype == DType::f16;
}

constexpr std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::i64:
      return "i64";
    case DType::u8:
      return "u8";
    case DType::boolean:
      return "bool";
  }
  return "?";
}

/// The DType that stores a C++ element type: float, double, std::int64_t, std::uint8_t, bool.
template <class T>
struct dtype_for;
template <>
struct dtype_for<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_for<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct dtype_for<std::int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct dtype_for<std::uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct dtype_for<bool> {
  static constexpr DType value = DType::boolean;
};

/// The C++ types that a tensor's elements have one to one.
template <class T>
concept Element = requires { dtype_for<T>::value; };

}  // namespace fusetape
