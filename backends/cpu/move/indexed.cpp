// index_select, gather and their gradients. A thread owns some of the destinations, and adds to each in the
// order of the indices: the same bits with any number of threads.
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::move {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

bool by_lines(const GraphNode& node) { return node.is(ops::gather_op) || node.is(ops::gather_grad_op); }
bool adds(const GraphNode& node) {
  return node.is(ops::index_select_grad_op) || node.is(ops::gather_grad_op);
}

/// Both tensors are {outer, places, inner}; `chosen` of the places have an index: of y, or of a gradient's g.
/// An index is one for all outer and inner (index_select), or each has its own (gather).
class IndexedKernel final : public Kernel {
 public:
  IndexedKernel(const Graph& graph, const GraphNode& node)
      : x_(node.inputs[0]),
        index_(node.inputs[1]),
        y_(node.outputs[0]),
        adds_(adds(node)),
        by_lines_(by_lines(node)),
        op_(node.op->name),
        at_(node.at),
        module_path_(node.module_path != nullptr ? *node.module_path : std::string()) {
    const std::int64_t axis = node.attrs.as<core::AlongAttrs>().axis;
    const core::AxisView from(graph.value(x_).shape, axis), to(graph.value(y_).shape, axis);
    outer_ = from.outer;
    inner_ = from.inner;
    chosen_ = (adds_ ? from : to).places;
    places_ = (adds_ ? to : from).places;
    size_ = static_cast<std::int64_t>(size_of(graph.value(x_).dtype));
    tensor_passes = 2;
  }

  void run(const KernelArgs& args) override {
    const auto* const index = args.in<std::int64_t>(index_);
    check(index);
    const std::int64_t moved = outer_ * chosen_ * inner_;
    const std::int64_t most = std::clamp<std::int64_t>(moved >> 14, 1, omp_get_max_threads());
    if (adds_) {
      add(args, index, static_cast<int>(std::min(most, std::max<std::int64_t>(1, outer_ * inner_))));
    } else {
      copy(args, index, static_cast<int>(most));
    }
  }

 private:
  void check(const std::int64_t* index) const {
    const std::int64_t count = by_lines_ ? outer_ * chosen_ * inner_ : chosen_;
    for (std::int64_t i = 0; i < count; ++i) {
      if (index[i] >= 0 && index[i] < places_) continue;
      throw Error(std::string(op_),
                  "index[" + std::to_string(i) + "] = " + std::to_string(index[i]) + " is not in [0, " +
                      std::to_string(places_) + ")",
                  at_, module_path_);
    }
  }

  void copy(const KernelArgs& args, const std::int64_t* index, int parts) const {
    const auto* const x = args.in<std::byte>(x_);
    auto* const y = args.out<std::byte>(y_);
    const std::int64_t rows = outer_ * chosen_;
    for_parts(parts, [&](int part) {
      for (std::int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
        const std::int64_t block = row / chosen_ * places_;
        if (!by_lines_) {
          std::memcpy(y + row * inner_ * size_, x + (block + index[row % chosen_]) * inner_ * size_,
                      static_cast<std::size_t>(inner_ * size_));
          continue;
        }
        for (std::int64_t i = 0; i < inner_; ++i) {
          const std::int64_t at = row * inner_ + i;
          std::memcpy(y + at * size_, x + ((block + index[at]) * inner_ + i) * size_,
                      static_cast<std::size_t>(size_));
        }
      }
    });
  }

  /// The destinations {outer, inner} are shared out: each has its own places.
  void add(const KernelArgs& args, const std::int64_t* index, int parts) const {
    const auto* const g = args.in<float>(x_);
    auto* const dx = args.out<float>(y_);
    const std::int64_t lines = outer_ * inner_;
    for_parts(parts, [&](int part) {
      const std::int64_t end = lines * (part + 1) / parts;
      for (std::int64_t line = lines * part / parts; line < end;) {
        const std::int64_t o = line / inner_, first = line % inner_;
        const std::int64_t width = std::min(inner_ - first, end - line);
        float* const to = dx + o * places_ * inner_ + first;
        for (std::int64_t place = 0; place < places_; ++place) std::fill_n(to + place * inner_, width, 0.0F);
        for (std::int64_t k = 0; k < chosen_; ++k) {
          const std::int64_t at = (o * chosen_ + k) * inner_ + first;
          for (std::int64_t i = 0; i < width; ++i)
            to[(by_lines_ ? index[at + i] : index[k]) * inner_ + i] += g[at + i];
        }
        line += width;
      }
    });
  }

  int x_, index_, y_;
  bool adds_, by_lines_;
  std::string_view op_;
  Location at_;
  std::string module_path_;
  std::int64_t outer_ = 1, inner_ = 1, chosen_ = 0, places_ = 0, size_ = 0;
};

Support supports(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  const bool copies = node.is(ops::index_select_op) || node.is(ops::gather_op);
  if (!group.single() || (!copies && !adds(node))) return {.ok = false, .reason = {}};
  if (!copies && graph.value(node.outputs[0]).dtype != DType::f32)
    return {.ok = false, .reason = "sums in f32 only"};
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  return std::make_unique<IndexedKernel>(graph, graph.node(group.nodes[0]));
}

constexpr Candidate candidates[] = {{"cpu:indexed", supports, make}};

}  // namespace

std::span<const Candidate> indexed() { return candidates; }

}  // namespace fusetape::backends::cpu::move
