#include "backends/cpu/conv/rows/weight_sums.hpp"

#include <algorithm>

#include "backends/cpu/pointwise_blocks.hpp"

namespace fusetape::backends::cpu::conv::rows {

void WeightSums::add(int part, bool starts, const float* g, const RightRows& x, std::int64_t pixels,
                     Ahead* ahead) const {
  multiply({.m = out_,
            .n = in_,
            .k = pixels,
            .a = g,
            .a_row = 1,
            .a_column = out_,
            .b = x.at,
            .b_row = x.row,
            .b_panel = x.panel,
            .c = sums_[part],
            .c_row = in_,
            .adds = !starts,
            .ahead = ahead});
}

void WeightSums::end(DType dtype, void* dw) const {
  constexpr std::int64_t at_once = 1 << 12;
  const std::int64_t blocks = (size() + at_once - 1) / at_once;
#pragma omp parallel for num_threads(parts_) schedule(static)
  for (std::int64_t block = 0; block < blocks; ++block) {
    float* const first = sums_[0] + block * at_once;
    const std::int64_t count = std::min(at_once, size() - block * at_once);
    for (int part = 1; part < parts_; ++part) {
      const float* other = sums_[part] + block * at_once;
      for (std::int64_t i = 0; i < count; ++i) first[i] += other[i];
    }
    std::byte* const to =
        static_cast<std::byte*>(dw) + block * at_once * static_cast<std::int64_t>(size_of(dtype));
    store_block(dtype, first, to, static_cast<std::size_t>(count));
  }
}

}  // namespace fusetape::backends::cpu::conv::rows
