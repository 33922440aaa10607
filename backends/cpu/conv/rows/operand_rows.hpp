#pragma once
#include "backends/cpu/conv/rows/ahead.hpp"
#include "backends/cpu/norm/activation.hpp"
#include "backends/cpu/norm/batch_norm_simd.hpp"

/// What a convolution reads, a few pixels at a time: an image as it is, or as parts of batch norms and an
/// activation make it, which then need not exist as a whole.
namespace fusetape::backends::cpu::conv::rows {

/// An image's pixels as rows of channels, for one thread.
inline ChannelRows pixel_rows(const plan::Graph& graph, int image) {
  const Shape& shape = graph.value(image).shape;
  return ChannelRows(shape.elements() / shape.back(), shape.back(), 1);
}

/// Pixels are counted over all images. T is float or Bf16; what a kernel reads are floats.
template <class T>
class OperandRows {
 public:
  OperandRows(const plan::Graph& graph, const plan::Group& group, int value, const plan::Prologue& prologue);

  std::int64_t channels() const { return rows_.channels(); }
  /// Whether reading leaves every pixel in `written`: each has to be read once.
  bool is_written() const { return written_; }

  /// Before the pixels of a run. On a null base, room is only counted.
  void begin(const KernelArgs& args, ScratchCarver& carver);

  /// Floats for a thread that reads so many pixels at a time.
  std::int64_t room(std::int64_t pixels) const;
  /// What reading these pixels will read and write.
  void look_ahead(std::int64_t first, std::int64_t count, Ahead& ahead) const;
  /// Of pixels from `first` on. The result is in the tensor or in `room`.
  const float* read(std::int64_t first, std::int64_t count, float* room) const;

 private:
  /// To `to`, for pixels that a norm makes.
  void make(std::int64_t first, std::int64_t count, T* to) const;

  int value_;
  plan::Prologue prologue_;
  ChannelRows rows_;
  bool is_made_, written_;
  void (*in_registers_)(const RowBlock& block, const norm::NormForward<T>& norm,
                        const norm::Numbers& numbers) = nullptr;

  // Of a run.
  const T* plain_ = nullptr;
  T* written_to_ = nullptr;
  norm::NormForward<T> forward_;
  norm::NormBackward<T> gradient_;
  norm::Activation activation_;
};

/// Calls f(RowBlock) for the wide rows of `count` pixels, and for what is left of one.
template <class F>
void for_wide_rows(const ChannelRows& rows, std::int64_t count, F f) {
  const std::int64_t wide = count / rows.repeat(), rest = count % rows.repeat();
  if (wide > 0) f(RowBlock{.rows = wide, .width = rows.width()});
  if (rest > 0) f(RowBlock{.offset = wide * rows.width(), .rows = 1, .width = rest * rows.channels()});
}

}  // namespace fusetape::backends::cpu::conv::rows
