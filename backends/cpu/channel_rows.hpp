#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>

#include "backends/cpu/scratch.hpp"

/// How a dense {rows, channels} tensor is cut for per-channel kernels: into wide rows, blocks of them, and
/// parts for threads.
namespace fusetape::backends::cpu {

/// A rectangle of a wide-row tensor: from element `offset` on, `rows` rows of `width` elements.
struct RowBlock {
  /// Sums of so many rows are in f32; then they are added to a total.
  static constexpr std::int64_t chain_rows = 16;

  std::int64_t offset = 0;
  std::int64_t rows = 0;
  std::int64_t width = 0;
};

/// `repeat` rows are joined to one wide row so that few channels, or an odd number of them, still fill whole
/// vectors; what belongs to a channel is then replicated `repeat` times. The cut depends on the shape and the
/// number of threads only, and so do the bits of every sum.
class ChannelRows {
 public:
  ChannelRows(std::int64_t rows, std::int64_t channels, int threads)
      : rows_(rows), channels_(channels), repeat_(repeat_for(channels)) {
    constexpr std::int64_t least_elements = 1 << 13;  // below it a second thread costs more than it brings
    const std::int64_t wanted = std::max<std::int64_t>(1, rows * channels / least_elements);
    parts_ =
        static_cast<int>(std::min<std::int64_t>({threads, wanted, std::max<std::int64_t>(1, wide_rows())}));
  }

  std::int64_t rows() const { return rows_; }
  std::int64_t channels() const { return channels_; }
  std::int64_t repeat() const { return repeat_; }
  std::int64_t width() const { return repeat_ * channels_; }
  /// Room for a vector over a wide row, whole cache lines.
  std::int64_t padded_width() const { return (width() + 15) / 16 * 16; }
  int parts() const { return parts_; }

  /// Calls f(RowBlock) for each block of a part, in order or from the last to the first.
  template <class F>
  void for_blocks(int part, bool backwards, F&& f) const {
    const std::int64_t begin = wide_rows() * part / parts_, end = wide_rows() * (part + 1) / parts_;
    const std::int64_t whole = (end - begin + block_rows - 1) / block_rows;
    const std::int64_t rest = part == parts_ - 1 ? (rows_ % repeat_) * channels_ : 0;
    const std::int64_t count = whole + (rest != 0 ? 1 : 0);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t block = backwards ? count - 1 - i : i;
      const std::int64_t first = begin + block * block_rows;
      if (block < whole) {
        f(RowBlock{.offset = first * width(), .rows = std::min(block_rows, end - first), .width = width()});
      } else {
        f(RowBlock{.offset = end * width(), .rows = 1, .width = rest});
      }
    }
  }

  /// Writes value(channel) to every place of a wide row; every NaN as the plain one.
  template <class F>
  void fill(float* pattern, F&& value) const {
    for (std::int64_t c = 0; c < channels_; ++c) {
      const float v = value(c);
      pattern[c] = v == v ? v : std::numeric_limits<float>::quiet_NaN();
    }
    for (std::int64_t i = channels_; i < width(); ++i) pattern[i] = pattern[i - channels_];
  }

  /// The total of a channel over all parts, in their order; `sums` holds width() doubles for each.
  double total(const InRooms<double>& sums, std::int64_t channel) const {
    double total = 0;
    for (int part = 0; part < parts_; ++part) {
      for (std::int64_t i = channel; i < width(); i += channels_) total += sums[part][i];
    }
    return total;
  }

 private:
  // What a kernel works on at a time.
  static constexpr std::int64_t block_rows = 256;

  static std::int64_t repeat_for(std::int64_t channels) {
    constexpr std::int64_t most_elements = 2048;  // a few patterns of this length stay in L1
    for (const std::int64_t step : {64, 16}) {
      const std::int64_t repeat = step / std::gcd(channels, step);
      if (repeat * channels <= most_elements) return repeat;
    }
    return 1;
  }

  std::int64_t wide_rows() const { return rows_ / repeat_; }

  std::int64_t rows_, channels_, repeat_;
  int parts_ = 1;
};

/// Runs f(part) once for each part, one thread to a part, whatever the size of the team that OpenMP gives.
template <class F>
void for_parts(int parts, F&& f) {
  if (parts == 1) return f(0);
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int part = 0; part < parts; ++part) f(part);
}

}  // namespace fusetape::backends::cpu
