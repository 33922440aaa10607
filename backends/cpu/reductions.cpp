// sum, mean, max and argmax over axes. The axes are joined to {outer, reduce, inner}; what does not fit goes
// through an index loop.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/pointwise_blocks.hpp"
#include "backends/cpu/row_sums.hpp"
#include "core/op_attrs.hpp"
#include "core/reference.hpp"

namespace fusetape::backends::cpu {
namespace {

using core::ReduceAttrs;
using plan::Graph;
using plan::GraphNode;
using plan::Group;
using plan::Pattern;

// Below this many elements for each, a second thread costs more than it brings.
constexpr std::int64_t least_elements = 1 << 14;

struct Extents {
  std::int64_t outer = 1, reduce = 1, inner = 1;
  std::int64_t results() const { return outer * inner; }
  std::int64_t elements() const { return outer * reduce * inner; }
};

/// Kept, reduced, kept; nothing when the reduced axes are not neighbours (but for axes of extent 1).
std::optional<Extents> joined_extents(const Shape& shape, const ReduceAttrs& attrs) {
  Extents extents;
  bool reducing = false, done = false;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (shape[axis] == 1) continue;
    if (attrs.has(axis)) {
      if (done) return std::nullopt;
      reducing = true;
      extents.reduce *= shape[axis];
    } else {
      done = reducing;
      (reducing ? extents.inner : extents.outer) *= shape[axis];
    }
  }
  if (!reducing) std::swap(extents.outer, extents.inner);
  return extents;
}

int parts_for(std::int64_t elements) {
  const std::int64_t wanted = std::max<std::int64_t>(1, elements / least_elements);
  return static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), wanted));
}

Shape kept_shape(const Shape& x, const ReduceAttrs& attrs) {
  Shape y = x;
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (attrs.has(axis)) y[axis] = 1;
  }
  return y;
}

/// sum and mean: each thread takes a share of the results, or of the rows; then partial sums combine in
/// thread order.
class SumKernel final : public Kernel {
 public:
  SumKernel(const Graph& graph, const GraphNode& node, Extents extents)
      : x_(node.inputs[0]), y_(node.outputs[0]), dtype_(graph.value(x_).dtype), extents_(extents) {
    if (node.op->is("mean")) divisor_ = static_cast<double>(extents.reduce);
    parts_ = parts_for(extents.elements());
    if (parts_ > 1 && extents.outer < 4 * parts_) {
      split_ = extents.reduce >= extents.inner ? Split::rows : Split::columns;
    }
  }

  std::size_t scratch_bytes() const override {
    const std::int64_t sums = split_ == Split::rows ? extents_.results() : extents_.inner;
    return static_cast<std::size_t>(sums * (split_ == Split::columns ? 1 : parts_)) * sizeof(double);
  }

  void run(const KernelArgs& args) override {
    const RowSource x{args.in<std::byte>(x_), dtype_};
    auto* const sums = reinterpret_cast<double*>(args.scratch);
    switch (split_) {
      case Split::outer:
        sum_outer(x, sums, args.out<std::byte>(y_));
        return;
      case Split::rows:
        sum_rows(x, sums, args.out<std::byte>(y_));
        return;
      case Split::columns:
        sum_columns(x, sums, args.out<std::byte>(y_));
        return;
    }
  }

 private:
  enum class Split : std::uint8_t { outer, rows, columns };

  std::int64_t share(std::int64_t of, int part) const { return of * part / parts_; }

  void sum_outer(const RowSource& x, double* sums, std::byte* y) const {
    const std::int64_t outer = extents_.outer, reduce = extents_.reduce, inner = extents_.inner;
    for_parts(parts_, [&](int part) {
      double* const mine = sums + part * inner;
      for (std::int64_t o = share(outer, part); o < share(outer, part + 1); ++o) {
        std::fill_n(mine, inner, 0.0);
        add_rows(x, o * reduce * inner, reduce, inner, inner, mine);
        write(mine, inner, y, o * inner);
      }
    });
  }

  void sum_rows(const RowSource& x, double* sums, std::byte* y) const {
    const std::int64_t outer = extents_.outer, reduce = extents_.reduce, inner = extents_.inner;
    const std::int64_t results = extents_.results();
    for_parts(parts_, [&](int part) {
      double* const mine = sums + part * results;
      std::fill_n(mine, results, 0.0);
      const std::int64_t first = share(reduce, part);
      for (std::int64_t o = 0; o < outer; ++o) {
        add_rows(x, (o * reduce + first) * inner, share(reduce, part + 1) - first, inner, inner,
                 mine + o * inner);
      }
    });
    for (int part = 1; part < parts_; ++part) {
      for (std::int64_t i = 0; i < results; ++i) sums[i] += sums[part * results + i];
    }
    write(sums, results, y, 0);
  }

  void sum_columns(const RowSource& x, double* sums, std::byte* y) const {
    const std::int64_t outer = extents_.outer, reduce = extents_.reduce, inner = extents_.inner;
    for_parts(parts_, [&](int part) {
      const std::int64_t first = share(inner, part), width = share(inner, part + 1) - first;
      for (std::int64_t o = 0; o < outer; ++o) {
        std::fill_n(sums + first, width, 0.0);
        add_rows(x, o * reduce * inner + first, reduce, width, inner, sums + first);
        write(sums + first, width, y, o * inner + first);
      }
    });
  }

  void write(const double* sums, std::int64_t count, std::byte* y, std::int64_t at) const {
    const auto size = static_cast<std::int64_t>(size_of(dtype_));
    for (std::int64_t i = 0; i < count; ++i) {
      const auto value = static_cast<float>(sums[i] / divisor_);
      if (dtype_ == DType::f32) {
        std::memcpy(y + (at + i) * size, &value, sizeof(value));
      } else {
        store_block(dtype_, &value, y + (at + i) * size, 1);
      }
    }
  }

  int x_, y_;
  DType dtype_;
  Extents extents_;
  double divisor_ = 1;
  int parts_ = 1;
  Split split_ = Split::outer;
};

/// sum and mean of f32 over axes that are no neighbours: one pass in the order of x.
class IndexedSumKernel final : public Kernel {
 public:
  IndexedSumKernel(const Graph& graph, const GraphNode& node)
      : x_(node.inputs[0]),
        y_(node.outputs[0]),
        shape_(graph.value(x_).shape),
        results_(graph.value(y_).elements()) {
    const auto attrs = node.attrs.as<ReduceAttrs>();
    strides_ = core::broadcast_strides(kept_shape(shape_, attrs), shape_);
    if (node.op->is("mean")) {
      divisor_ = static_cast<double>(shape_.elements()) / static_cast<double>(results_);
    }
  }

  std::size_t scratch_bytes() const override { return static_cast<std::size_t>(results_) * sizeof(double); }

  void run(const KernelArgs& args) override {
    auto* const sums = reinterpret_cast<double*>(args.scratch);
    const auto* const x = args.in<float>(x_);
    std::fill_n(sums, results_, 0.0);
    core::for_each_offset(shape_, strides_, [&](std::int64_t i, std::int64_t o) { sums[o] += x[i]; });
    for (std::int64_t o = 0; o < results_; ++o)
      args.out<float>(y_)[o] = static_cast<float>(sums[o] / divisor_);
  }

 private:
  int x_, y_;
  Shape shape_;
  std::int64_t results_;
  core::Strides strides_;
  double divisor_ = 1;
};

/// The first NaN, else the first of the largest, of `count` > 0 elements `stride` apart.
std::int64_t place_of_largest(const float* x, std::int64_t count, std::int64_t stride) {
  std::int64_t place = 0;
  float largest = x[0];
  if (std::isnan(largest)) return 0;
  for (std::int64_t i = 1; i < count; ++i) {
    const float value = x[i * stride];
    if (value <= largest) continue;
    place = i;
    largest = value;
    if (std::isnan(value)) break;
  }
  return place;
}

/// max, argmax and max_grad of f32: what is done with the place of each largest element.
class LargestKernel final : public Kernel {
 public:
  LargestKernel(const GraphNode& node, Extents extents)
      : extents_(extents), parts_(parts_for(extents.elements())) {
    const bool gradient = node.op->is("max_grad");
    use_ = gradient ? Use::gradient : node.op->is("max") ? Use::value : Use::index;
    x_ = node.inputs[gradient ? 1 : 0];
    g_ = gradient ? node.inputs[0] : -1;
    y_ = node.outputs[0];
  }

  void run(const KernelArgs& args) override {
    const auto* const x = args.in<float>(x_);
    const std::int64_t reduce = extents_.reduce, inner = extents_.inner;
    for_parts(parts_, [&](int part) {
      const std::int64_t end = extents_.results() * (part + 1) / parts_;
      for (std::int64_t result = extents_.results() * part / parts_; result < end; ++result) {
        const std::int64_t first = result / inner * reduce * inner + result % inner;
        const std::int64_t place = place_of_largest(x + first, reduce, inner);
        switch (use_) {
          case Use::value:
            args.out<float>(y_)[result] = x[first + place * inner];
            break;
          case Use::index:
            args.out<std::int64_t>(y_)[result] = place;
            break;
          case Use::gradient:
            spread(args.out<float>(y_) + first, place, args.in<float>(g_)[result]);
            break;
        }
      }
    });
  }

 private:
  enum class Use : std::uint8_t { value, index, gradient };

  void spread(float* dx, std::int64_t place, float g) const {
    for (std::int64_t i = 0; i < extents_.reduce; ++i) dx[i * extents_.inner] = i == place ? g : 0.0f;
  }

  Extents extents_;
  int parts_;
  Use use_ = Use::value;
  int x_ = -1, g_ = -1, y_ = -1;
};

bool is_sum(const GraphNode& node) { return node.op->is("sum") || node.op->is("mean"); }
bool is_largest(const GraphNode& node) {
  return node.op->is("max") || node.op->is("argmax") || node.op->is("max_grad");
}
const Shape& reduced_input(const Graph& graph, const GraphNode& node) {
  return graph.value(node.inputs[node.op->is("max_grad") ? 1 : 0]).shape;
}

Support supports_sum(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (group.pattern != Pattern::single || !is_sum(node)) return {.ok = false, .reason = {}};
  const DType dtype = graph.value(node.inputs[0]).dtype;
  if (dtype == DType::f32) return {};
  if (dtype != DType::bf16 && dtype != DType::f16) {
    return {.ok = false, .reason = "sums of " + std::string(name_of(dtype))};
  }
  const bool joined =
      joined_extents(graph.value(node.inputs[0]).shape, node.attrs.as<ReduceAttrs>()).has_value();
  return {.ok = joined, .reason = joined ? "" : "16-bit sums over axes that are no neighbours"};
}

std::unique_ptr<Kernel> make_sum(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  const auto extents = joined_extents(graph.value(node.inputs[0]).shape, node.attrs.as<ReduceAttrs>());
  if (!extents) return std::make_unique<IndexedSumKernel>(graph, node);
  return std::make_unique<SumKernel>(graph, node, *extents);
}

Support supports_largest(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (group.pattern != Pattern::single || !is_largest(node)) return {.ok = false, .reason = {}};
  for (const int input : node.inputs) {
    if (graph.value(input).dtype != DType::f32) return {.ok = false, .reason = "f32 only"};
  }
  const auto extents = joined_extents(reduced_input(graph, node), node.attrs.as<ReduceAttrs>());
  if (!extents) return {.ok = false, .reason = "axes that are no neighbours"};
  return {};
}

std::unique_ptr<Kernel> make_largest(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  return std::make_unique<LargestKernel>(
      node, *joined_extents(reduced_input(graph, node), node.attrs.as<ReduceAttrs>()));
}

constexpr Candidate candidates[] = {{"cpu:sum", supports_sum, make_sum},
                                    {"cpu:largest", supports_largest, make_largest}};

}  // namespace

std::span<const Candidate> reductions() { return candidates; }

}  // namespace fusetape::backends::cpu
