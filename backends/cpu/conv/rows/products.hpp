#pragma once
#include <cstddef>
#include <cstdint>

#include "backends/cpu/conv/rows/ahead.hpp"

/// Products of a few rows with a matrix that stays in a cache, as all three passes of a 1×1 convolution need
/// them. f32, one thread.
namespace fusetape::backends::cpu::conv::rows {

/// c(i, j) = Σ_k a(i, k)·b(k, j), or that added to c. Strides are in elements; those of one are left out.
struct Products {
  std::int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  std::int64_t a_row = 0, a_column = 0;  ///< from i to i + 1, from k to k + 1
  const float* b = nullptr;
  std::int64_t b_row = 0;    ///< from k to k + 1
  std::int64_t b_panel = 0;  ///< from a panel of panel_width() columns to the next one
  float* c = nullptr;
  std::int64_t c_row = 0;
  bool adds = false;
  Ahead* ahead = nullptr;  ///< fetched in the meantime
};
void multiply(const Products& products);

/// Columns of b that are in registers together: a whole number of vectors.
std::int64_t panel_width();
/// Floats that `pack` fills: whole panels, of which the last is filled up with zeros.
std::int64_t packed_size(std::int64_t k, std::int64_t n);
/// b(k, j) at k·row + j·column, panel by panel, as `multiply` reads it fast: b_row is panel_width() then, and
/// b_panel the `panel` floats from one to the next, k·panel_width() or more.
void pack(const float* b, std::int64_t k, std::int64_t n, std::int64_t row, std::int64_t column,
          float* packed, std::int64_t panel, int threads);

}  // namespace fusetape::backends::cpu::conv::rows
