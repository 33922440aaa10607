#pragma once
#include <cstddef>
#include <cstdint>

#include "backends/axis_extents.hpp"
#include "backends/cpu/row_sums.hpp"
#include "core/op/op_attrs.hpp"
#include "core/plan/graph.hpp"

/// sum and mean over neighbouring axes of anything that gives rows of floats.
namespace fusetape::backends::cpu {

/// How many threads share this many elements.
int parts_for(std::int64_t elements);

/// Writes sums[i] / divisor to y[at + i].
void write_sums(const double* sums, std::int64_t count, double divisor, DType dtype, std::byte* y,
                std::int64_t at);

/// Each thread takes a share of the results, or of the rows; then partial sums combine in thread order. Equal
/// extents add in the same order whatever the source, and every element is read once.
class AxisSum {
 public:
  AxisSum(const plan::Graph& graph, const plan::GraphNode& node, const Extents& extents);

  int parts() const { return parts_; }
  std::size_t scratch_bytes() const;
  /// `sums`: scratch_bytes() of room; y: the result of the node.
  void run(const RowSource& x, double* sums, std::byte* y) const;

 private:
  enum class Split : std::uint8_t { outer, rows, columns };

  std::int64_t share(std::int64_t of, int part) const { return of * part / parts_; }
  void sum_outer(const RowSource& x, double* sums, std::byte* y) const;
  void add_slabs(const float* x, std::int64_t slabs, double* sums) const;
  void sum_rows(const RowSource& x, double* sums, std::byte* y) const;
  void sum_columns(const RowSource& x, double* sums, std::byte* y) const;

  DType dtype_;
  Extents extents_;
  double divisor_ = 1;
  int parts_ = 1;
  Split split_ = Split::outer;
  std::int64_t together_ = 1;  ///< small slabs {reduce, inner} that are read at once
};

}  // namespace fusetape::backends::cpu
