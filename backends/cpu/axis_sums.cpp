#include "backends/cpu/axis_sums.hpp"

#include <omp.h>

#include <algorithm>

#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/pointwise_blocks.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu {
namespace {

// Below this many elements for each, a second thread costs more than it brings.
constexpr std::int64_t least_elements = 1 << 14;

/// Floats that were read before.
class ReadRows final : public RowSource {
 public:
  explicit ReadRows(const float* data) : data_(data) {}
  const float* read(int, std::int64_t at, std::int64_t, float*) const override { return data_ + at; }

 private:
  const float* data_;
};

}  // namespace

int parts_for(std::int64_t elements) {
  const std::int64_t wanted = std::max<std::int64_t>(1, elements / least_elements);
  return static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), wanted));
}

void write_sums(const double* sums, std::int64_t count, double divisor, DType dtype, std::byte* y,
                std::int64_t at) {
  constexpr std::int64_t run = 256;
  float values[run];
  const auto size = static_cast<std::int64_t>(size_of(dtype));
  for (std::int64_t i = 0; i < count; i += run) {
    const std::int64_t length = std::min(run, count - i);
    for (std::int64_t j = 0; j < length; ++j) values[j] = static_cast<float>(sums[i + j] / divisor);
    store_block(dtype, values, y + (at + i) * size, static_cast<std::size_t>(length));
  }
}

AxisSum::AxisSum(const plan::Graph& graph, const plan::GraphNode& node, const Extents& extents)
    : dtype_(graph.value(node.outputs[0]).dtype), extents_(extents) {
  if (node.is(ops::mean_op)) divisor_ = static_cast<double>(extents.reduce);
  parts_ = parts_for(extents.elements());
  if (parts_ > 1 && extents.outer < 4 * parts_) {
    split_ = extents.reduce >= extents.inner ? Split::rows : Split::columns;
  }
  const std::int64_t slab = extents.reduce * extents.inner;
  if (slab > 0) together_ = std::max<std::int64_t>(1, RowSource::most_run / slab);
}

std::size_t AxisSum::scratch_bytes() const {
  std::int64_t sums = 0;
  switch (split_) {
    case Split::outer:
      sums = together_ * extents_.inner * parts_;
      break;
    case Split::rows:
      sums = extents_.results() * parts_;
      break;
    case Split::columns:
      sums = extents_.inner;
      break;
  }
  return static_cast<std::size_t>(sums) * sizeof(double);
}

void AxisSum::run(const RowSource& x, double* sums, std::byte* y) const {
  switch (split_) {
    case Split::outer:
      sum_outer(x, sums, y);
      return;
    case Split::rows:
      sum_rows(x, sums, y);
      return;
    case Split::columns:
      sum_columns(x, sums, y);
      return;
  }
}

void AxisSum::sum_outer(const RowSource& x, double* sums, std::byte* y) const {
  const std::int64_t reduce = extents_.reduce, inner = extents_.inner, slab = reduce * inner;
  for_parts(parts_, [&](int part) {
    x.begin(part);
    alignas(64) float buffer[RowSource::most_run];
    double* const mine = sums + part * together_ * inner;
    const std::int64_t end = share(extents_.outer, part + 1);
    for (std::int64_t o = share(extents_.outer, part); o < end; o += together_) {
      const std::int64_t slabs = std::min(together_, end - o), first = o * slab;
      std::fill_n(mine, slabs * inner, 0.0);
      if (together_ == 1) {
        add_rows(x, part, first, reduce, inner, inner, mine);
      } else {
        add_slabs(x.read(part, first, slabs * slab, buffer), slabs, mine);
      }
      write_sums(mine, slabs * inner, divisor_, dtype_, y, o * inner);
    }
  });
}

/// Of small slabs that lie in memory one after the other.
void AxisSum::add_slabs(const float* x, std::int64_t slabs, double* sums) const {
  const std::int64_t reduce = extents_.reduce, inner = extents_.inner, slab = reduce * inner;
  const ReadRows rows(x);
  for (std::int64_t i = 0; i < slabs; ++i) {
    if (inner == 1) {
      sums[i] = sum_floats(x + i * slab, reduce);
    } else {
      add_rows(rows, 0, i * slab, reduce, inner, inner, sums + i * inner);
    }
  }
}

void AxisSum::sum_rows(const RowSource& x, double* sums, std::byte* y) const {
  const std::int64_t outer = extents_.outer, reduce = extents_.reduce, inner = extents_.inner;
  const std::int64_t results = extents_.results();
  for_parts(parts_, [&](int part) {
    x.begin(part);
    double* const mine = sums + part * results;
    std::fill_n(mine, results, 0.0);
    const std::int64_t first = share(reduce, part);
    for (std::int64_t o = 0; o < outer; ++o) {
      add_rows(x, part, (o * reduce + first) * inner, share(reduce, part + 1) - first, inner, inner,
               mine + o * inner);
    }
  });
  for (int part = 1; part < parts_; ++part) {
    for (std::int64_t i = 0; i < results; ++i) sums[i] += sums[part * results + i];
  }
  write_sums(sums, results, divisor_, dtype_, y, 0);
}

void AxisSum::sum_columns(const RowSource& x, double* sums, std::byte* y) const {
  const std::int64_t outer = extents_.outer, reduce = extents_.reduce, inner = extents_.inner;
  for_parts(parts_, [&](int part) {
    x.begin(part);
    const std::int64_t first = share(inner, part), width = share(inner, part + 1) - first;
    for (std::int64_t o = 0; o < outer; ++o) {
      std::fill_n(sums + first, width, 0.0);
      add_rows(x, part, o * reduce * inner + first, reduce, width, inner, sums + first);
      write_sums(sums + first, width, divisor_, dtype_, y, o * inner + first);
    }
  });
}

}  // namespace fusetape::backends::cpu
