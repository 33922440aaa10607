#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/op/op.hpp"
#include "fusetape/dtype.hpp"

/// The instructions of pointwise programs: vector loops over one block of floats. Bools and u8 are floats
/// there; bf16 and f16 values are floats that those types can hold.
namespace fusetape::backends::cpu {

/// What a cast does to floats.
enum class Conversion : std::uint8_t { copy, to_bool, round_bf16, round_f16 };

struct BlockArgs {
  const float* in[3] = {nullptr, nullptr, nullptr};
  /// By operand: ~0, or 0 where in[i] is one vector that is repeated (scalar_room floats).
  std::size_t mask[3] = {~std::size_t{0}, ~std::size_t{0}, ~std::size_t{0}};
  bool repeats = false;  ///< any mask is 0
  float* out = nullptr;  ///< may be one of the operands
  std::size_t count = 0;
  std::array<float, 2> numbers{};  ///< the op's, rounded
};

/// The floats of a repeated operand: enough for the widest vector.
constexpr std::size_t scalar_room = 16;

using BlockFunction = void (*)(const BlockArgs& args);

/// For the best instruction set of this processor; of an op that is not pointwise nullptr.
BlockFunction block_function(const core::OpDef& op);
BlockFunction block_function(Conversion code);

/// Elements of another type to floats, and back with rounding to nearest even.
void load_block(DType dtype, const void* from, float* to, std::size_t count);
void store_block(DType dtype, const float* from, void* to, std::size_t count);

}  // namespace fusetape::backends::cpu
