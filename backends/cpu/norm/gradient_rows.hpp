#pragma once
#include "backends/cpu/norm/activation.hpp"

/// The first pass of a norm's gradient: g' = (g [+ g2])·mask, or an activation's gradient in the place of the
/// mask, and its sums, over a block of rows.
namespace fusetape::backends::cpu::norm {

template <class T>
class GradientRows {
 public:
  /// `gradient`: the op in the place of the mask; null: none. `from_x`: what it reads is computed again from
  /// the norm's x.
  GradientRows(const core::OpDef* gradient, bool from_x) : op_(gradient) {
    if (gradient != nullptr && from_x) rows_ = activation_rows<T>(*gradient->gradient_of);
  }

  /// Before the rows of a run.
  void begin(const int (&numbers)[2], const KernelArgs& args) {
    activation_ = activation_of(op_, numbers, args);
  }

  /// Whether g' is better kept than made twice.
  bool is_dear() const { return op_ != nullptr && rows_.sums == nullptr; }
  /// What dx is made with in one pass; null: from g'.
  auto dx() const { return rows_.dx; }
  const Numbers& numbers() const { return activation_.numbers; }

  /// Elements of T that a thread has to lend.
  std::int64_t room(const ChannelRows& rows) const { return op_ == nullptr ? 0 : 2 * most_in_chunk(rows); }

  /// Adds to the sums of `norm`; g' is written where its `masked` is not null, which may be g.
  void add_sums(const RowBlock& block, const NormBackward<T>& norm, T* room) const {
    if (op_ == nullptr) return add_gradient_sums(block, norm);
    if (rows_.sums != nullptr) return rows_.sums(block, norm, activation_.numbers);
    for_chunks(block, [&](const RowBlock& chunk) {
      add_gradient_sums({.rows = chunk.rows, .width = chunk.width}, with_gradient(norm, chunk, room));
    });
  }

 private:
  /// The tensors of a chunk from its beginning on, with g' in the place of g: made where it is wanted, or in
  /// the thread's own room.
  NormBackward<T> with_gradient(NormBackward<T> norm, const RowBlock& chunk, T* room) const {
    const std::int64_t count = chunk.rows * chunk.width;
    const auto advance = [&](auto*& tensor) {
      if (tensor != nullptr) tensor += chunk.offset;
    };
    advance(norm.g), advance(norm.g2), advance(norm.y), advance(norm.masked);
    for (int i = 0; i < norm.norms; ++i) advance(norm.x[i]);
    if (norm.masked == nullptr) norm.masked = room;

    const RowBlock alone{.rows = chunk.rows, .width = chunk.width};
    if (rows_.masked != nullptr) {
      rows_.masked(alone, norm, activation_.numbers);
    } else {
      const T* const read = norm.mask == MaskFrom::output ? norm.y : read_again(alone, norm, room + count);
      if (norm.g2 != nullptr) {
        activate({.function = block_function(ops::add_op)}, norm.g, norm.g2, room, count);
        norm.g = room;  // not where g' goes to: y may lie there
      }
      activate(activation_, norm.g, read, norm.masked, count);
    }
    norm.g = norm.masked;
    norm.g2 = nullptr;
    norm.masked = nullptr;
    norm.mask = MaskFrom::nothing;
    return norm;
  }

  /// What the activation's gradient reads, from x.
  const T* read_again(const RowBlock& block, const NormBackward<T>& norm, T* room) const {
    NormForward<T> forward{.y = room};
    forward.x[0] = norm.x[0];
    forward.mean[0] = norm.mean[0];
    forward.a[0] = norm.scale;
    forward.beta[0] = norm.beta;
    apply_norm(block, forward);
    const core::OpDef& activation = *op_->gradient_of;
    if (activation.saves_outputs != 0)
      activate({.function = block_function(activation)}, room, nullptr, room, block.rows * block.width);
    return room;
  }

  const core::OpDef* op_;
  ActivationRows<T> rows_;  ///< where the gradient takes what it reads from x
  Activation activation_;   ///< of this run
};

}  // namespace fusetape::backends::cpu::norm
