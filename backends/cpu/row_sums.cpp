#include "backends/cpu/row_sums.hpp"

#include <algorithm>

#include "backends/cpu/pointwise_blocks.hpp"

namespace fusetape::backends::cpu {
namespace {

constexpr std::int64_t most_columns = RowSource::most_run;  // a row's sums stay in L1
constexpr std::int64_t wide_columns = 512;                  // narrow rows are joined to about this width
constexpr std::int64_t block_rows = 64;                     // summed in f32

/// At most most_columns columns.
void add_columns(const RowSource& x, int part, std::int64_t first, std::int64_t rows, std::int64_t width,
                 std::int64_t stride, double* sums) {
  alignas(64) float total[most_columns];
  alignas(64) float buffer[4][most_columns];
  for (std::int64_t begin = 0; begin < rows; begin += block_rows) {
    const std::int64_t end = std::min(rows, begin + block_rows);
    std::fill_n(total, width, 0.0f);
    std::int64_t row = begin;
    for (; row + 4 <= end; row += 4) {
      const std::int64_t at = first + row * stride;
      const float* const a = x.read(part, at, width, buffer[0]);
      const float* const b = x.read(part, at + stride, width, buffer[1]);
      const float* const c = x.read(part, at + 2 * stride, width, buffer[2]);
      const float* const d = x.read(part, at + 3 * stride, width, buffer[3]);
      for (std::int64_t j = 0; j < width; ++j) total[j] += (a[j] + b[j]) + (c[j] + d[j]);
    }
    for (; row < end; ++row) {
      const float* const a = x.read(part, first + row * stride, width, buffer[0]);
      for (std::int64_t j = 0; j < width; ++j) total[j] += a[j];
    }
    for (std::int64_t j = 0; j < width; ++j) sums[j] += total[j];
  }
}

void add_wide(const RowSource& x, int part, std::int64_t first, std::int64_t rows, std::int64_t width,
              std::int64_t stride, double* sums) {
  for (std::int64_t j = 0; j < width; j += most_columns) {
    add_columns(x, part, first + j, rows, std::min(most_columns, width - j), stride, sums + j);
  }
}

/// Σ of `count` neighbours, in runs.
double sum_run(const RowSource& x, int part, std::int64_t first, std::int64_t count) {
  alignas(64) float buffer[most_columns];
  double sum = 0;
  for (std::int64_t at = 0; at < count; at += most_columns) {
    const std::int64_t length = std::min(most_columns, count - at);
    sum += sum_floats(x.read(part, first + at, length, buffer), length);
  }
  return sum;
}

}  // namespace

double sum_floats(const float* x, std::int64_t count) {
  // As many sums as vectors need to hide the latency of their additions; few for a short rest.
  constexpr std::int64_t lanes = 16, few = 4;
  double sums[few] = {};
  std::int64_t i = 0;
  if (count >= lanes) {
    double wide[lanes] = {};
    for (; i + lanes <= count; i += lanes) {
      for (std::int64_t k = 0; k < lanes; ++k) wide[k] += x[i + k];
    }
    for (std::int64_t k = 0; k < few; ++k)
      sums[k] = (wide[k] + wide[k + few]) + (wide[k + 2 * few] + wide[k + 3 * few]);
  }
  for (; i + few <= count; i += few) {
    for (std::int64_t k = 0; k < few; ++k) sums[k] += x[i + k];
  }
  for (; i < count; ++i) sums[0] += x[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

const float* TensorRows::read(int, std::int64_t at, std::int64_t count, float* buffer) const {
  if (dtype_ == DType::f32) return reinterpret_cast<const float*>(data_) + at;
  load_block(dtype_, data_ + at * static_cast<std::int64_t>(size_of(dtype_)), buffer,
             static_cast<std::size_t>(count));
  return buffer;
}

void add_rows(const RowSource& x, int part, std::int64_t first, std::int64_t rows, std::int64_t width,
              std::int64_t stride, double* sums) {
  if (width == 1 && stride == 1) {
    sums[0] += sum_run(x, part, first, rows);
    return;
  }
  // Dense narrow rows: `joined` of them are one wide row, so that vectors are full; eight wide rows make it
  // worth it.
  const std::int64_t joined = stride == width && width > 0 ? std::min(wide_columns / width, rows / 8) : 0;
  if (joined < 2) return add_wide(x, part, first, rows, width, stride, sums);
  double wide[wide_columns] = {};
  const std::int64_t wide_rows = rows / joined;
  add_wide(x, part, first, wide_rows, joined * width, joined * width, wide);
  for (std::int64_t i = 0; i < joined * width; ++i) sums[i % width] += wide[i];
  const std::int64_t done = wide_rows * joined;
  add_wide(x, part, first + done * width, rows - done, width, stride, sums);
}

}  // namespace fusetape::backends::cpu
