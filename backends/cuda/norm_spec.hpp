#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fusetape/dtype.hpp"

namespace fusetape::backends::cuda {

/// A batch norm that a library computes as one operation. Images {n,h,w,c}, packed; parameters, statistics
/// and their gradients {c}, f32.
struct NormSpec {
  enum class Pass : std::uint8_t {
    forward,   ///< y = [relu](norm(x) [+ z]) by the batch's own statistics, which are written, too
    backward,  ///< g' = g [·mask], then the norm's gradients from g'
  };
  Pass pass = Pass::forward;
  DType dtype = DType::f32;  ///< of images; sums are f32
  std::int64_t n = 0, h = 1, w = 1, c = 0;
  double eps = 0;       ///< forward
  bool add = false;     ///< forward: z
  bool relu = false;    ///< forward; a NaN stays
  bool mask = false;    ///< backward: bit i % 8 of byte i / 8 tells whether g[i] passes
  bool masked = false;  ///< backward: g' is written, too

  std::int64_t elements() const { return n * h * w * c; }
  bool operator==(const NormSpec&) const = default;
};

/// The places of an operation's operands, and of what our kernels behind it read and write.
enum class NormPlace : std::uint8_t {
  x,
  z,
  g,
  mask,
  gamma,
  beta,
  mean,     ///< forward writes it, backward reads it
  inv_std,  ///< likewise
  y,
  masked,
  dx,
  dgamma,
  dbeta,
  running_mean,
  running_var,
  momentum,
  new_running_mean,
  new_running_var,
};
inline constexpr std::size_t norm_places = static_cast<std::size_t>(NormPlace::new_running_var) + 1;

/// "running variance"
const char* name_of(NormPlace place);

/// One of something for each place.
template <class T>
struct ByPlace {
  std::array<T, norm_places> at{};
  T& operator[](NormPlace place) { return at[static_cast<std::size_t>(place)]; }
  const T& operator[](NormPlace place) const { return at[static_cast<std::size_t>(place)]; }
};

struct NormOperand {
  enum class Kind : std::uint8_t { image, channels, bits };
  NormPlace place;
  Kind kind;
  DType dtype;            ///< of bits: u8
  std::int64_t elements;  ///< of bits: bytes; of the momentum: 1
  bool written = false;

  std::size_t bytes() const { return static_cast<std::size_t>(elements) * size_of(dtype); }
};

/// Those that the spec has, in the order of their places.
std::vector<NormOperand> operands_of(const NormSpec& spec);
NormOperand bits_of(const NormSpec& spec, bool written);

/// Pointers of an operation; null where the spec has no operand.
struct NormArgs {
  ByPlace<void*> operands;
  void* workspace = nullptr;
};

}  // namespace fusetape::backends::cuda
