// sum, mean, max and argmax over axes. The axes are joined to {outer, reduce, inner}; what does not fit goes
// through an index loop.
#include <algorithm>
#include <cmath>

#include "backends/cpu/axis_sums.hpp"
#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "core/numerics/reference.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::reduce {
namespace {

using core::ReduceAttrs;
using plan::Graph;
using plan::GraphNode;
using plan::Group;

Shape kept_shape(const Shape& x, const ReduceAttrs& attrs) {
  Shape y = x;
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (attrs.has(axis)) y[axis] = 1;
  }
  return y;
}

/// sum and mean over neighbouring axes.
class SumKernel final : public Kernel {
 public:
  SumKernel(const Graph& graph, const GraphNode& node, const Extents& extents)
      : x_(node.inputs[0]), y_(node.outputs[0]), dtype_(graph.value(x_).dtype), sum_(graph, node, extents) {}

  std::size_t scratch_bytes() const override { return sum_.scratch_bytes(); }
  void run(const KernelArgs& args) override {
    sum_.run(TensorRows(args.in<std::byte>(x_), dtype_), reinterpret_cast<double*>(args.scratch),
             args.out<std::byte>(y_));
  }

 private:
  int x_, y_;
  DType dtype_;
  AxisSum sum_;
};

/// sum and mean over axes that are no neighbours: one pass in the order of x, in pieces {reduce, inner} of
/// its last axes.
class IndexedSumKernel final : public Kernel {
 public:
  IndexedSumKernel(const Graph& graph, const GraphNode& node)
      : x_(node.inputs[0]),
        y_(node.outputs[0]),
        dtype_(graph.value(x_).dtype),
        results_(graph.value(y_).elements()) {
    const Shape& shape = graph.value(x_).shape;
    const auto attrs = node.attrs.as<ReduceAttrs>();
    int leading = shape.rank();
    for (; leading > 0 && !attrs.has(leading - 1); --leading) inner_ *= shape[leading - 1];
    for (; leading > 0 && attrs.has(leading - 1); --leading) reduce_ *= shape[leading - 1];
    for (int axis = 0; axis < leading; ++axis) leading_.push_back(shape[axis]);
    strides_ = core::broadcast_strides(kept_shape(shape, attrs), shape);
    if (node.is(ops::mean_op)) {
      divisor_ = static_cast<double>(shape.elements()) / static_cast<double>(results_);
    }
  }

  std::size_t scratch_bytes() const override { return static_cast<std::size_t>(results_) * sizeof(double); }

  void run(const KernelArgs& args) override {
    auto* const sums = reinterpret_cast<double*>(args.scratch);
    const TensorRows x(args.in<std::byte>(x_), dtype_);
    std::fill_n(sums, results_, 0.0);
    core::for_each_offset(leading_, strides_, [&](std::int64_t i, std::int64_t result) {
      add_rows(x, 0, i * reduce_ * inner_, reduce_, inner_, inner_, sums + result);
    });
    write_sums(sums, results_, divisor_, dtype_, args.out<std::byte>(y_), 0);
  }

 private:
  int x_, y_;
  DType dtype_;
  std::int64_t results_, reduce_ = 1, inner_ = 1;
  Shape leading_;
  core::Strides strides_;  ///< into the results
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

/// max, argmax and max_grad of f32: what is done with the largest element and its place.
class LargestKernel final : public Kernel {
 public:
  LargestKernel(const GraphNode& node, Extents extents)
      : extents_(extents), parts_(parts_for(extents.elements())) {
    const bool gradient = node.is(ops::max_grad_op);
    use_ = gradient ? Use::gradient : node.is(ops::max_op) ? Use::value : Use::index;
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
            spread(x + first, x[first + place * inner], args.in<float>(g_)[result],
                   args.out<float>(y_) + first);
            break;
        }
      }
    });
  }

 private:
  enum class Use : std::uint8_t { value, index, gradient };

  /// Equal shares to all that are as large as the largest; to every NaN, where it is one.
  void spread(const float* x, float largest, float g, float* dx) const {
    const bool undefined = std::isnan(largest);
    const auto is_chosen = [&](std::int64_t i) {
      const float value = x[i * extents_.inner];
      return undefined ? std::isnan(value) : value == largest;
    };
    std::int64_t chosen = 0;
    for (std::int64_t i = 0; i < extents_.reduce; ++i) chosen += is_chosen(i) ? 1 : 0;
    const float share = g / static_cast<float>(chosen);
    for (std::int64_t i = 0; i < extents_.reduce; ++i) dx[i * extents_.inner] = is_chosen(i) ? share : 0.0f;
  }

  Extents extents_;
  int parts_;
  Use use_ = Use::value;
  int x_ = -1, g_ = -1, y_ = -1;
};

bool is_sum(const GraphNode& node) { return node.is(ops::sum_op) || node.is(ops::mean_op); }
bool is_largest(const GraphNode& node) {
  return node.is(ops::max_op) || node.is(ops::argmax_op) || node.is(ops::max_grad_op);
}
const Shape& reduced_input(const Graph& graph, const GraphNode& node) {
  return graph.value(node.inputs[node.is(ops::max_grad_op) ? 1 : 0]).shape;
}

Support supports_sum(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (!group.single() || !is_sum(node)) return {.ok = false, .reason = {}};
  const DType dtype = graph.value(node.inputs[0]).dtype;
  if (dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16) return {};
  return {.ok = false, .reason = "sums of " + std::string(name_of(dtype))};
}

std::unique_ptr<Kernel> make_sum(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  const auto extents = joined_extents(graph.value(node.inputs[0]).shape, node.attrs.as<ReduceAttrs>());
  if (!extents) return std::make_unique<IndexedSumKernel>(graph, node);
  return std::make_unique<SumKernel>(graph, node, *extents);
}

Support supports_largest(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (!group.single() || !is_largest(node)) return {.ok = false, .reason = {}};
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

}  // namespace fusetape::backends::cpu::reduce
