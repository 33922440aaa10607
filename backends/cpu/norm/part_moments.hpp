#pragma once
#include <algorithm>
#include <utility>

#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/norm/batch_norm_simd.hpp"
#include "core/numerics/norm_formulas.hpp"

/// The moments of a thread's part of a tensor, a block of rows at a time.
namespace fusetape::backends::cpu::norm {

/// The mean of the part's first rows is subtracted from everything that is summed, and within a block the
/// mean so far: no mean is too large for the sums.
template <class T>
class alignas(128) PartMoments {
 public:
  /// Of the part's room.
  void take(ScratchCarver& carver, const ChannelRows& rows) {
    const std::int64_t row = rows.padded_width();
    for (float** each : {&origin_, &shift_, &chain_sum_, &chain_square_}) *each = carver.take<float>(row);
    for (double** each : {&block_sum_, &block_square_, &sum_, &square_}) *each = carver.take<double>(row);
  }

  static std::size_t room_bytes(const ChannelRows& rows) {
    ScratchCarver counter(nullptr);
    PartMoments().take(counter, rows);
    return counter.used();
  }

  void begin(const ChannelRows& rows) {
    const std::int64_t row = rows.padded_width();
    for (float* each : {origin_, chain_sum_, chain_square_}) std::fill_n(each, row, 0.0f);
    for (double* each : {block_sum_, block_square_, sum_, square_}) std::fill_n(each, row, 0.0);
    elements_ = whole_rows_ = rows_since_ = 0;
  }

  /// `x`: the whole tensor.
  void add(const ChannelRows& rows, const RowBlock& block, const T* x) {
    const bool whole = block.width == rows.width();
    if (elements_ == 0) set_origin(rows, block, x + block.offset);
    if (!whole) end(rows);  // its columns have one row more than the others
    add_shifted_moments(block, x,
                        {.shift = shift_,
                         .chain_sum = chain_sum_,
                         .chain_square = chain_square_,
                         .sum = block_sum_,
                         .square = block_square_});
    elements_ += block.rows * block.width;
    rows_since_ += block.rows;
    constexpr std::int64_t most_rows = 256;
    if (rows_since_ >= most_rows || !whole) fold(rows, block.width);
  }
  /// After the last block.
  void end(const ChannelRows& rows) {
    if (rows_since_ > 0) fold(rows, rows.width());
  }

  /// Of a channel. The square is not finite where f32 could not hold the sums.
  core::Moments of(const ChannelRows& rows, std::int64_t channel) const {
    if (elements_ == 0) return {0, 0, 0};
    const std::int64_t pixels = elements_ / rows.channels();
    const double n = static_cast<double>(pixels);
    double sum = 0, square = 0;
    for (std::int64_t j = channel; j < rows.width(); j += rows.channels())
      sum += sum_[j], square += square_[j];
    return {n, static_cast<double>(origin_[channel]) + sum / n, square - sum * sum / n};
  }

 private:
  /// From moments about the shift to moments about the origin; then the next shift is the mean so far.
  void fold(const ChannelRows& rows, std::int64_t width) {
    const bool whole = width == rows.width();
    const double count = static_cast<double>(rows_since_);
    if (whole) whole_rows_ += rows_since_;
    // Columns of a row that was not whole have a few rows more than that.
    const double mean_of = whole ? 1.0 / static_cast<double>(whole_rows_) : 0;
    for (std::int64_t j = 0; j < width; ++j) {
      const double away = static_cast<double>(shift_[j]) - static_cast<double>(origin_[j]);
      const double s1 = std::exchange(block_sum_[j], 0.0), s2 = std::exchange(block_square_[j], 0.0);
      sum_[j] += s1 + count * away;
      square_[j] += s2 + away * (2 * s1 + count * away);
      if (whole) shift_[j] = static_cast<float>(static_cast<double>(origin_[j]) + sum_[j] * mean_of);
    }
    rows_since_ = 0;
  }

  void set_origin(const ChannelRows& rows, const RowBlock& block, const T* x) {
    const std::int64_t count = std::min<std::int64_t>(16, block.rows * block.width / rows.channels());
    rows.fill(origin_, [&](std::int64_t c) {
      double sum = 0;
      for (std::int64_t row = 0; row < count; ++row) sum += to_float(x[row * rows.channels() + c]);
      return static_cast<float>(sum / static_cast<double>(count));
    });
    std::copy_n(origin_, rows.padded_width(), shift_);
  }

  float *origin_ = nullptr, *shift_ = nullptr, *chain_sum_ = nullptr, *chain_square_ = nullptr;
  double *block_sum_ = nullptr, *block_square_ = nullptr, *sum_ = nullptr, *square_ = nullptr;
  std::int64_t elements_ = 0, whole_rows_ = 0, rows_since_ = 0;  ///< all, and the rows in block_…
};

}  // namespace fusetape::backends::cpu::norm
