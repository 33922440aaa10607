#pragma once
#include <cstddef>
#include <cstdint>

#include "fusetape/dtype.hpp"

namespace fusetape::backends::cpu {

/// Elements as floats: read from memory, converted, or computed as they are asked for.
class RowSource {
 public:
  virtual ~RowSource() = default;
  /// Called by the thread of a part before it reads.
  virtual void begin(int part) const { static_cast<void>(part); }
  /// The `count` ≤ most_run elements from element `at`: in place, or in `buffer`.
  virtual const float* read(int part, std::int64_t at, std::int64_t count, float* buffer) const = 0;

  static constexpr std::int64_t most_run = 1024;
};

/// A tensor of f32, or of 16-bit floats.
class TensorRows final : public RowSource {
 public:
  TensorRows(const std::byte* data, DType dtype) : data_(data), dtype_(dtype) {}
  const float* read(int part, std::int64_t at, std::int64_t count, float* buffer) const override;

 private:
  const std::byte* data_;
  DType dtype_;
};

/// Σ x[i], in double.
double sum_floats(const float* x, std::int64_t count);

/// sums[j] += Σ over rows r of x[first + r·stride + j], j < width: in f32 over short runs of wide rows, else
/// in double. The order depends on the extents only, not on the source.
void add_rows(const RowSource& x, int part, std::int64_t first, std::int64_t rows, std::int64_t width,
              std::int64_t stride, double* sums);

}  // namespace fusetape::backends::cpu
