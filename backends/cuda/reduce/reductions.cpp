// sum, mean, max and argmax over axes.
#include <algorithm>

#include "backends/axis_extents.hpp"
#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/element_types.hpp"
#include "backends/cuda/kernels/largest.hpp"
#include "backends/cuda/kernels/sums.hpp"
#include "backends/cuda/lines.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cuda::reduce {
namespace {

using core::ReduceAttrs;
using plan::Graph;
using plan::GraphNode;
using plan::Group;

/// How rows of consecutive elements are shared out: so that a few rows still fill a large device.
struct RowParts {
  std::int64_t blocks = 1;   ///< for each row
  std::int64_t stretch = 8;  ///< of a row, for one of them
  unsigned lanes = 1;        ///< threads for each row

  RowParts(std::int64_t rows, std::int64_t length, unsigned threads) {
    constexpr std::int64_t enough_blocks = 512, least_stretch = 4096;
    while (lanes < threads && lanes * 16 < length) lanes *= 2;
    const std::int64_t beside = std::max<std::int64_t>(1, rows * lanes / threads);
    const std::int64_t wanted = std::max<std::int64_t>(1, enough_blocks / beside);
    blocks = std::clamp<std::int64_t>(length / least_stretch, 1, wanted);
    stretch = std::max<std::int64_t>(8, ((length + blocks - 1) / blocks + 7) / 8 * 8);
    blocks = std::max<std::int64_t>(1, (length + stretch - 1) / stretch);
  }
};

/// sum and mean over neighbouring axes, of f32 and 16 bits.
template <class T>
class JoinedSumKernel final : public DeviceKernel {
 public:
  JoinedSumKernel(const Graph& graph, const GraphNode& node, const Extents& extents, DeviceApi& device)
      : DeviceKernel(graph, device),
        x_(node.inputs[0]),
        y_(node.outputs[0]),
        extents_(extents),
        divisor_(node.is(ops::mean_op) ? static_cast<double>(extents.reduce) : 1),
        width_(extents.inner % 8 == 0 ? 8 : 1),
        rows_(extents.outer, extents.reduce, RowSums<T>::threads),
        columns_(ChannelParts::of(extents.reduce, extents.inner, width_)) {}

  std::size_t scratch_bytes() const override {
    return blocks() > 1 ? static_cast<std::size_t>(blocks() * extents_.results()) * sizeof(double) : 0;
  }

  void run(const KernelArgs& args) override {
    if (extents_.results() == 0) return;
    const SumsTo<T> y{
        .parts = nullptr, .y = args.out<T>(y_), .sums = extents_.results(), .divisor = divisor_};
    const Range all_y = whole(args, y_);
    if (blocks() == 1) return add(args, y, all_y);
    auto* const parts = reinterpret_cast<double*>(args.scratch);
    const Range all_parts = piece(parts, blocks() * y.sums);
    add(args, {.parts = parts, .y = nullptr, .sums = y.sums, .divisor = 1}, all_parts);
    launch<SumTotals<T>>(ChannelTotals::grid(y.sums), {parts, blocks(), y}, {{all_parts}, {all_y}});
  }

 private:
  bool of_rows() const { return extents_.inner == 1; }
  std::int64_t blocks() const { return of_rows() ? rows_.blocks : columns_.blocks; }

  void add(const KernelArgs& args, const SumsTo<T>& to, const Range& written) const {
    if (of_rows()) return add_rows(args, to, written);
    width_ == 8 ? add_columns<8>(args, to, written) : add_columns<1>(args, to, written);
  }

  void add_rows(const KernelArgs& args, const SumsTo<T>& to, const Range& written) const {
    const bool packed = extents_.outer == 1 || extents_.reduce % 8 == 0;
    const std::int64_t per_block = RowSums<T>::threads / rows_.lanes;
    launch<RowSums<T>>({.x = (extents_.outer + per_block - 1) / per_block, .y = rows_.blocks},
                       {args.in<T>(x_), to, extents_.reduce, rows_.stretch, rows_.lanes, packed},
                       {{whole(args, x_)}, {written}});
  }

  template <int Width>
  void add_columns(const KernelArgs& args, const SumsTo<T>& to, const Range& written) const {
    Grid grid = columns_.grid(Width);
    grid.x *= extents_.outer;
    launch<ColumnSums<T, Width>>(grid, {args.in<T>(x_), to, columns_}, {{whole(args, x_)}, {written}});
  }

  int x_, y_;
  Extents extents_;
  double divisor_;
  int width_;
  RowParts rows_;
  ChannelParts columns_;
};

/// sum and mean over any axes, and of whole numbers and bools.
template <class T>
class LineSumKernel final : public DeviceKernel {
 public:
  LineSumKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : DeviceKernel(graph, device), x_(node.inputs[0]), y_(node.outputs[0]) {
    const auto attrs = node.attrs.as<ReduceAttrs>();
    lines_ = lines_of(graph.value(x_).shape, [&](int axis) { return attrs.has(axis); });
    if (node.is(ops::mean_op)) divisor_ = static_cast<double>(lines_.length);
  }

  void run(const KernelArgs& args) override {
    if (lines_.count == 0) return;
    using Result = typename LineSums<T>::Result;
    launch<LineSums<T>>({.x = lines_.blocks()}, {args.in<T>(x_), args.out<Result>(y_), lines_, divisor_},
                        {{whole(args, x_)}, {whole(args, y_)}});
  }

 private:
  int x_, y_;
  Lines lines_;
  double divisor_ = 1;
};

/// max, argmax and max_grad.
template <class T>
class LargestKernel final : public DeviceKernel {
 public:
  LargestKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : DeviceKernel(graph, device),
        gradient_(node.is(ops::max_grad_op)),
        index_(node.is(ops::argmax_op)),
        x_(node.inputs[gradient_ ? 1 : 0]),
        g_(gradient_ ? node.inputs[0] : -1),
        y_(node.outputs[0]) {
    const auto attrs = node.attrs.as<ReduceAttrs>();
    lines_ = lines_of(graph.value(x_).shape, [&](int axis) { return attrs.has(axis); });
  }

  void run(const KernelArgs& args) override {
    if (lines_.count == 0) return;
    typename Largest<T>::Args arguments{.x = args.in<T>(x_), .lines = lines_};
    Access access{.reads = {whole(args, x_)}, .writes = {whole(args, y_)}};
    if (gradient_) {
      arguments.dx = args.out<T>(y_);
      arguments.g = args.in<T>(g_);
      access.reads.push_back(whole(args, g_));
    } else if (index_) {
      arguments.place = args.out<std::int64_t>(y_);
    } else {
      arguments.largest = args.out<T>(y_);
    }
    launch<Largest<T>>({.x = lines_.blocks()}, arguments, access);
  }

 private:
  bool gradient_, index_;
  int x_, g_, y_;
  Lines lines_;
};

bool is_sum(const GraphNode& node) { return node.is(ops::sum_op) || node.is(ops::mean_op); }
bool is_largest(const GraphNode& node) {
  return node.is(ops::max_op) || node.is(ops::argmax_op) || node.is(ops::max_grad_op);
}

Support supports(const Graph& graph, const Group& group, Device&) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (!group.single() || !(is_sum(node) || is_largest(node))) {
    return {.ok = false, .reason = {}};
  }
  return f32_or_half_only(graph, node);
}

/// A grid has fewer blocks in y than in x.
bool fits_grid(const Extents& extents) { return extents.inner <= std::int64_t{1} << 20; }

template <class T>
std::unique_ptr<Kernel> make_for(const Graph& graph, const GraphNode& node, DeviceApi& device) {
  if (!is_sum(node)) return std::make_unique<LargestKernel<T>>(graph, node, device);
  if constexpr (!std::is_integral_v<T>) {
    const auto extents = joined_extents(graph.value(node.inputs[0]).shape, node.attrs.as<ReduceAttrs>());
    if (extents && fits_grid(*extents)) {
      return std::make_unique<JoinedSumKernel<T>>(graph, node, *extents, device);
    }
  }
  return std::make_unique<LineSumKernel<T>>(graph, node, device);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  const GraphNode& node = graph.node(group.nodes[0]);
  const DType dtype = graph.value(node.inputs[0]).dtype;
  std::unique_ptr<Kernel> kernel;
  with_element_type(dtype,
                    [&](auto element) { kernel = make_for<decltype(element)>(graph, node, device.api); });
  if (dtype == DType::i64) kernel = make_for<std::int64_t>(graph, node, device.api);
  if (dtype == DType::u8 || dtype == DType::boolean) kernel = make_for<std::uint8_t>(graph, node, device.api);
  return kernel;
}

constexpr Candidate candidates[] = {{"cuda:reduce", supports, make}};

}  // namespace

std::span<const Candidate> reductions() { return candidates; }

}  // namespace fusetape::backends::cuda::reduce
