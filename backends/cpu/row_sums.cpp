#include "backends/cpu/row_sums.hpp"

#include <algorithm>

#include "backends/cpu/pointwise_blocks.hpp"

namespace fusetape::backends::cpu {
namespace {

constexpr std::int64_t most_columns = 1024;  // a row's sums stay in L1
constexpr std::int64_t wide_columns = 512;   // narrow rows are joined to about this width
constexpr std::int64_t block_rows = 64;      // summed in f32

/// `count` floats from element `at`, in place or converted into `buffer`.
const float* floats(const RowSource& x, std::int64_t at, std::int64_t count, float* buffer) {
  if (x.dtype == DType::f32) return reinterpret_cast<const float*>(x.data) + at;
  load_block(x.dtype, x.data + at * static_cast<std::int64_t>(size_of(x.dtype)), buffer,
             static_cast<std::size_t>(count));
  return buffer;
}

/// At most most_columns columns.
void add_columns(const RowSource& x, std::int64_t first, std::int64_t rows, std::int64_t width,
                 std::int64_t stride, double* sums) {
  alignas(64) float total[most_columns];
  alignas(64) float buffer[4][most_columns];
  for (std::int64_t begin = 0; begin < rows; begin += block_rows) {
    const std::int64_t end = std::min(rows, begin + block_rows);
    std::fill_n(total, width, 0.0f);
    std::int64_t row = begin;
    for (; row + 4 <= end; row += 4) {
      const std::int64_t at = first + row * stride;
      const float* const a = floats(x, at, width, buffer[0]);
      const float* const b = floats(x, at + stride, width, buffer[1]);
      const float* const c = floats(x, at + 2 * stride, width, buffer[2]);
      const float* const d = floats(x, at + 3 * stride, width, buffer[3]);
      for (std::int64_t j = 0; j < width; ++j) total[j] += (a[j] + b[j]) + (c[j] + d[j]);
    }
    for (; row < end; ++row) {
      const float* const a = floats(x, first + row * stride, width, buffer[0]);
      for (std::int64_t j = 0; j < width; ++j) total[j] += a[j];
    }
    for (std::int64_t j = 0; j < width; ++j) sums[j] += total[j];
  }
}

void add_wide(const RowSource& x, std::int64_t first, std::int64_t rows, std::int64_t width,
              std::int64_t stride, double* sums) {
  for (std::int64_t j = 0; j < width; j += most_columns) {
    add_columns(x, first + j, rows, std::min(most_columns, width - j), stride, sums + j);
  }
}

}  // namespace

void add_rows(const RowSource& x, std::int64_t first, std::int64_t rows, std::int64_t width,
              std::int64_t stride, double* sums) {
  // Dense narrow rows: `joined` of them are one wide row, so that vectors are full; eight wide rows make it
  // worth it.
  const std::int64_t joined = stride == width && width > 0 ? std::min(wide_columns / width, rows / 8) : 0;
  if (joined < 2) return add_wide(x, first, rows, width, stride, sums);
  double wide[wide_columns] = {};
  const std::int64_t wide_rows = rows / joined;
  add_wide(x, first, wide_rows, joined * width, joined * width, wide);
  for (std::int64_t i = 0; i < joined * width; ++i) sums[i % width] += wide[i];
  const std::int64_t done = wide_rows * joined;
  add_wide(x, first + done * width, rows - done, width, stride, sums);
}

}  // namespace fusetape::backends::cpu
