#pragma once
#include <algorithm>
#include <array>
#include <cstdint>

#include "backends/backend.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "backends/cpu/norm/batch_norm_simd.hpp"
#include "core/op/op_list.hpp"

/// An activation, or the gradient of one, of what a norm's kernel has just made and what still is in a cache:
/// the vector loops of the pointwise ops, so that the results are theirs to the bit.
namespace fusetape::backends::cpu::norm {

struct Activation {
  BlockFunction function = nullptr;
  std::array<float, 2> numbers{};
};

/// `op` is null or pointwise; `numbers` are inputs of the group, -1 beyond the op's.
inline Activation activation_of(const core::OpDef* op, const int (&numbers)[2], const KernelArgs& args) {
  Activation activation;
  if (op == nullptr) return activation;
  activation.function = block_function(*op);
  for (std::size_t i = 0; i < 2; ++i) {
    if (numbers[i] >= 0) activation.numbers[i] = static_cast<float>(*args.in<double>(numbers[i]));
  }
  return activation;
}

/// out = f(a) or f(a, b) of `count` elements; out may be one of the operands, b may be null.
inline void activate(const Activation& f, const float* a, const float* b, float* out, std::int64_t count) {
  f.function({.in = {a, b}, .out = out, .count = static_cast<std::size_t>(count), .numbers = f.numbers});
}
inline void activate(const Activation& f, const Bf16* a, const Bf16* b, Bf16* out, std::int64_t count) {
  constexpr std::int64_t most = 512;
  alignas(64) float first[most], second[most];
  for (std::int64_t at = 0; at < count; at += most) {
    const auto some = static_cast<std::size_t>(std::min(most, count - at));
    load_block(DType::bf16, a + at, first, some);
    if (b != nullptr) load_block(DType::bf16, b + at, second, some);
    activate(f, first, second, first, static_cast<std::int64_t>(some));
    store_block(DType::bf16, first, out + at, some);
  }
}

using Numbers = std::array<float, 2>;

/// Norm and activation in one pass, in registers: functions over a block of rows, null for an activation
/// without such loops. g' is the activation's gradient, of g [+ g2] and what it reads, which is made from x₀
/// by `mean`, `scale` and `beta`.
template <class T>
struct ActivationRows {
  using Backward = void (*)(const RowBlock& block, const NormBackward<T>& norm, const Numbers& numbers);

  /// y = activation(norm₀(x₀))
  void (*forward)(const RowBlock& block, const NormForward<T>& norm, const Numbers& numbers) = nullptr;
  /// Of a cheap gradient, as add_gradient_sums and apply_norm_gradient.
  Backward sums = nullptr, dx = nullptr;
  /// Of a dear one: masked = g'.
  Backward masked = nullptr;
};
/// For the best instruction set of this processor; T is float or Bf16.
template <class T>
ActivationRows<T> activation_rows(const core::OpDef& activation);
template <>
ActivationRows<float> activation_rows<float>(const core::OpDef& activation);
template <>
ActivationRows<Bf16> activation_rows<Bf16>(const core::OpDef& activation);

/// Calls body(chunk) for pieces of a block that are whole chains of its sums, so that these keep their order.
template <class Body>
void for_chunks(const RowBlock& block, Body body) {
  constexpr std::int64_t rows = RowBlock::chain_rows;
  for (std::int64_t row = 0; row < block.rows; row += rows) {
    body(RowBlock{.offset = block.offset + row * block.width,
                  .rows = std::min(rows, block.rows - row),
                  .width = block.width});
  }
}
inline std::int64_t most_in_chunk(const ChannelRows& rows) { return RowBlock::chain_rows * rows.width(); }

}  // namespace fusetape::backends::cpu::norm
