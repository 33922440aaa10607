// transpose of any dtype. Axes that stay neighbours are joined; then it is copies of runs, or square tiles.
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "core/numerics/reference.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::move {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

// Below this many bytes for each, a second thread costs more than it brings.
constexpr std::int64_t least_bytes = 1 << 16;
// The tile's rows on both sides stay in L1.
constexpr std::int64_t tile = 32;

/// An axis of the result: how far its steps reach on both sides, in elements.
struct Axis {
  std::int64_t extent = 1, from = 0, to = 0;
};

class TransposeKernel final : public Kernel {
 public:
  TransposeKernel(const Graph& graph, const GraphNode& node)
      : x_(node.inputs[0]), y_(node.outputs[0]), size_(size_of(graph.value(y_).dtype)) {
    join_axes(graph.value(x_).shape, graph.value(y_).shape, node.attrs.as<core::TransposeAttrs>());
    elements_ = graph.value(y_).elements();
    // What is left besides the inner two axes is walked by `outer_`; the axis that x has last is cut into
    // tiles.
    row_ = axes_.back();
    axes_.pop_back();
    const auto last_of_x =
        std::find_if(axes_.begin(), axes_.end(), [](const Axis& axis) { return axis.from == 1; });
    if (row_.from != 1 && last_of_x != axes_.end()) {
      column_ = *last_of_x;
      axes_.erase(last_of_x);
    }
    column_tiles_ = (column_.extent + tile - 1) / tile;
    tasks_ = column_tiles_;
    for (const Axis& axis : axes_) tasks_ *= axis.extent;
    const std::int64_t wanted = elements_ * static_cast<std::int64_t>(size_) / least_bytes;
    parts_ = static_cast<int>(std::clamp<std::int64_t>(wanted, 1, omp_get_max_threads()));
  }

  void run(const KernelArgs& args) override {
    if (elements_ == 0) return;
    for_parts(parts_, [&](int part) {
      for (std::int64_t task = tasks_ * part / parts_; task < tasks_ * (part + 1) / parts_; ++task) {
        run_task(args, task);
      }
    });
  }

 private:
  void join_axes(const Shape& x, const Shape& y, const core::TransposeAttrs& attrs) {
    const core::Strides from = core::dense_strides(x), to = core::dense_strides(y);
    for (int i = 0; i < y.rank(); ++i) {
      if (y[i] == 1) continue;
      const auto at = static_cast<std::size_t>(i);
      const Axis axis{y[i], from[static_cast<std::size_t>(attrs.permutation[at])], to[at]};
      if (!axes_.empty() && axes_.back().from == axis.from * axis.extent) {
        axes_.back() = {axes_.back().extent * axis.extent, axis.from, axis.to};
      } else {
        axes_.push_back(axis);
      }
    }
    if (axes_.empty()) axes_.push_back({.extent = 1, .from = 1, .to = 1});
  }

  void run_task(const KernelArgs& args, std::int64_t task) const {
    const std::int64_t first_column = task % column_tiles_ * tile;
    const std::int64_t columns = std::min(tile, column_.extent - first_column);
    std::int64_t from = first_column * column_.from, to = first_column * column_.to;
    task /= column_tiles_;
    for (auto axis = axes_.rbegin(); axis != axes_.rend(); ++axis) {
      from += task % axis->extent * axis->from;
      to += task % axis->extent * axis->to;
      task /= axis->extent;
    }
    const std::byte* const x = args.in<std::byte>(x_) + from * static_cast<std::int64_t>(size_);
    std::byte* const y = args.out<std::byte>(y_) + to * static_cast<std::int64_t>(size_);
    switch (size_) {
      case 1:
        copy_tiles<std::uint8_t>(x, y, columns);
        break;
      case 2:
        copy_tiles<std::uint16_t>(x, y, columns);
        break;
      case 4:
        copy_tiles<std::uint32_t>(x, y, columns);
        break;
      default:
        copy_tiles<std::uint64_t>(x, y, columns);
        break;
    }
  }

  template <class T>
  void copy_tiles(const std::byte* from, std::byte* to, std::int64_t columns) const {
    const auto* const x = reinterpret_cast<const T*>(from);
    auto* const y = reinterpret_cast<T*>(to);
    if (row_.from == 1) {
      std::memcpy(y, x, static_cast<std::size_t>(row_.extent) * sizeof(T));
      return;
    }
    for (std::int64_t begin = 0; begin < row_.extent; begin += tile) {
      const std::int64_t end = std::min(row_.extent, begin + tile);
      for (std::int64_t column = 0; column < columns; ++column) {
        for (std::int64_t i = begin; i < end; ++i) {
          y[column * column_.to + i] = x[column * column_.from + i * row_.from];
        }
      }
    }
  }

  int x_, y_;
  std::size_t size_;
  std::vector<Axis> axes_;  ///< of the result, outermost first, without the two inner ones
  Axis row_;                ///< the result's last
  Axis column_;             ///< x's last, where that is another
  std::int64_t elements_ = 0, column_tiles_ = 1, tasks_ = 1;
  int parts_ = 1;
};

Support supports_transpose(const Graph& graph, const Group& group) {
  const bool ok = group.single() && graph.node(group.nodes[0]).is(ops::transpose_op);
  return {.ok = ok, .reason = {}};
}

std::unique_ptr<Kernel> make_transpose(const Graph& graph, const Group& group) {
  return std::make_unique<TransposeKernel>(graph, graph.node(group.nodes[0]));
}

constexpr Candidate candidates[] = {{"cpu:transpose", supports_transpose, make_transpose}};

}  // namespace

std::span<const Candidate> transposes() { return candidates; }

}  // namespace fusetape::backends::cpu::move
