// transpose, concat, slice and pad of any dtype.
#include <cstring>

#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/kernels/movement.hpp"
#include "core/numerics/reference.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cuda::move {
namespace {

using core::Strides;
using plan::Graph;
using plan::GraphNode;
using plan::Group;

/// Calls f(E()) with the unsigned type of this size.
template <class F>
void with_size(std::size_t size, F&& f) {
  if (size == 1) f(std::uint8_t());
  if (size == 2) f(std::uint16_t());
  if (size == 4) f(std::uint32_t());
  if (size == 8) f(std::uint64_t());
}

Axes axes_of(const Shape& shape, const Strides& strides) {
  Axes axes;
  for (int axis = 0; axis < shape.rank(); ++axis)
    axes.push(shape[axis], strides[static_cast<std::size_t>(axis)]);
  return axes;
}

/// A copy of `count` elements. What is where counts in elements of `size` bytes.
struct Copy {
  std::size_t size = 1;
  std::int64_t count = 0;
  std::int64_t to_start = 0;
  std::int64_t start_stride = 0;  ///< of `from`, by a start that is an input
  Axes from_at, to_at;

  /// Takes sixteen bytes for an element where everything lies in such pieces.
  void widen() {
    const auto together = static_cast<std::int64_t>(16 / size);
    const auto in_pieces = [&](const Axes& axes, std::int64_t start) {
      if (axes.rank == 0 || axes.stride[axes.rank - 1] != 1 || start % together != 0) return false;
      for (int axis = 0; axis + 1 < axes.rank; ++axis) {
        if (axes.stride[axis] % together != 0) return false;
      }
      return axes.extent[axes.rank - 1] % together == 0;
    };
    if (!in_pieces(from_at, start_stride) || !in_pieces(to_at, to_start)) return;
    for (Axes* axes : {&from_at, &to_at}) {
      for (int axis = 0; axis + 1 < axes->rank; ++axis) axes->stride[axis] /= together;
      axes->extent[axes->rank - 1] /= together;
    }
    for (std::int64_t* number : {&count, &start_stride, &to_start}) *number /= together;
    size = 16;
  }
};

/// What concat, slice and transpose share.
class CopyKernel : public DeviceKernel {
 protected:
  using DeviceKernel::DeviceKernel;

  /// `part`: other copies write the rest of `to`. `start`: a value, or -1.
  void run_copy(const KernelArgs& args, const Copy& copy, int from, int to, bool part, int start = -1) const {
    if (copy.count == 0) return;
    Access access{.reads = {whole(args, from)}, .writes = {whole(args, to)}};
    if (part) access.reads.push_back(whole(args, to));
    if (start >= 0) access.reads.push_back(whole(args, start));
    const std::int64_t* const place = start >= 0 ? args.in<std::int64_t>(start) : nullptr;
    if (copy.size == 16) return run_of<SixteenBytes>(args, copy, from, to, place, access);
    with_size(copy.size,
              [&](auto element) { run_of<decltype(element)>(args, copy, from, to, place, access); });
  }

 private:
  template <class E>
  void run_of(const KernelArgs& args, const Copy& copy, int from, int to, const std::int64_t* start,
              const Access& access) const {
    launch<StridedCopy<E>>({.x = blocks_for(copy.count, StridedCopy<E>::threads)},
                           {args.in<E>(from), args.out<E>(to) + copy.to_start, copy.from_at, copy.to_at,
                            copy.count, start, copy.start_stride},
                           access);
  }
};

class ConcatKernel final : public CopyKernel {
 public:
  ConcatKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : CopyKernel(graph, device), inputs_(node.inputs), y_(node.outputs[0]) {
    const plan::GraphValue& y = graph.value(y_);
    const auto axis = static_cast<std::size_t>(node.attrs.as<core::ConcatAttrs>().axis);
    const Strides strides = core::dense_strides(y.shape);
    std::int64_t start = 0;
    for (const int input : inputs_) {
      const Shape& shape = graph.value(input).shape;
      copies_.push_back({.size = size_of(y.dtype),
                         .count = shape.elements(),
                         .to_start = start,
                         .from_at = axes_of(shape, core::dense_strides(shape)),
                         .to_at = axes_of(shape, strides)});
      copies_.back().widen();
      start += shape[static_cast<int>(axis)] * strides[axis];
    }
  }

  void run(const KernelArgs& args) override {
    for (std::size_t i = 0; i < inputs_.size(); ++i) run_copy(args, copies_[i], inputs_[i], y_, true);
  }

 private:
  std::vector<int> inputs_;
  int y_;
  std::vector<Copy> copies_;
};

class SliceKernel final : public CopyKernel {
 public:
  SliceKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : CopyKernel(graph, device), x_(node.inputs[0]), start_(node.inputs[1]), y_(node.outputs[0]) {
    const auto attrs = node.attrs.as<core::SliceAttrs>();
    const plan::GraphValue& y = graph.value(y_);
    Strides strides = core::dense_strides(graph.value(x_).shape);
    std::int64_t& stride = strides[static_cast<std::size_t>(attrs.axis)];
    copy_ = {.size = size_of(y.dtype), .count = y.elements(), .start_stride = stride};
    stride *= attrs.step;
    copy_.from_at = axes_of(y.shape, strides);
    copy_.to_at = axes_of(y.shape, core::dense_strides(y.shape));
    copy_.widen();
  }

  void run(const KernelArgs& args) override { run_copy(args, copy_, x_, y_, false, start_); }

 private:
  int x_, start_, y_;
  Copy copy_;
};

class TransposeKernel final : public CopyKernel {
 public:
  TransposeKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : CopyKernel(graph, device), x_(node.inputs[0]), y_(node.outputs[0]) {
    const auto attrs = node.attrs.as<core::TransposeAttrs>();
    const plan::GraphValue& y = graph.value(y_);
    const Strides dense = core::dense_strides(graph.value(x_).shape);
    Strides strides{};
    for (std::size_t axis = 0; axis < static_cast<std::size_t>(y.shape.rank()); ++axis) {
      strides[axis] = dense[static_cast<std::size_t>(attrs.permutation[axis])];
    }
    copy_ = {.size = size_of(y.dtype),
             .count = y.elements(),
             .from_at = axes_of(y.shape, strides),
             .to_at = axes_of(y.shape, core::dense_strides(y.shape))};
    if (!of_matrices()) copy_.widen();
  }

  void run(const KernelArgs& args) override {
    if (!of_matrices()) return run_copy(args, copy_, x_, y_, false);
    if (copy_.count == 0) return;
    const Axes& from = copy_.from_at;
    const std::int64_t rows = from.extent[from.rank - 1], columns = from.extent[from.rank - 2];
    const std::int64_t matrices = copy_.count / (rows * columns);
    with_size(copy_.size, [&](auto element) {
      using E = decltype(element);
      launch<TransposeTiles<E>>(
          {.x = TransposeTiles<E>::blocks(matrices, rows, columns)},
          {args.in<E>(x_), args.out<E>(y_), rows, columns, from.rank == 3 ? from.stride[0] : 0},
          {{whole(args, x_)}, {whole(args, y_)}});
    });
  }

 private:
  /// Whether it is the transposition of a matrix, or of several that lie apart by one stride.
  bool of_matrices() const {
    const Axes& from = copy_.from_at;
    const int last = from.rank - 1;
    return (from.rank == 2 || from.rank == 3) && from.stride[last - 1] == 1 &&
           from.stride[last] == from.extent[last - 1];
  }

  int x_, y_;
  Copy copy_;
};

/// pad and slice_grad: x in a larger tensor.
class EmbedKernel final : public DeviceKernel {
 public:
  EmbedKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : DeviceKernel(graph, device),
        pads_(node.is(ops::pad_op)),
        x_(node.inputs[0]),
        number_(node.inputs[1]),
        y_(node.outputs[0]),
        size_(size_of(graph.value(y_).dtype)),
        count_(graph.value(y_).elements()) {
    const Shape &x = graph.value(x_).shape, &y = graph.value(y_).shape;
    const Strides strides = core::dense_strides(x);
    for (int axis = 0; axis < y.rank(); ++axis) {
      const auto a = static_cast<std::size_t>(axis);
      EmbeddedAxis embedded{
          .extent = y[axis], .before = 0, .per_start = 0, .step = 1, .part = x[axis], .stride = strides[a]};
      if (pads_) embedded.before = node.attrs.as<core::PadAttrs>().before[a];
      if (!pads_ && axis == node.attrs.as<core::SliceAttrs>().axis) {
        embedded.per_start = 1;
        embedded.step = node.attrs.as<core::SliceAttrs>().step;
      }
      push(embedded);
    }
  }

  void run(const KernelArgs& args) override {
    if (count_ == 0) return;
    with_size(size_, [&](auto element) {
      using E = decltype(element);
      typename Embed<E>::Args arguments{.x = args.in<E>(x_),
                                        .y = args.out<E>(y_),
                                        .rank = rank_,
                                        .count = count_,
                                        .start = pads_ ? nullptr : args.in<std::int64_t>(number_),
                                        .otherwise = pads_ ? args.in<E>(number_) : nullptr};
      std::copy_n(axes_, rank_, arguments.axes);
      launch<Embed<E>>({.x = blocks_for(count_, Embed<E>::threads)}, arguments,
                       {{whole(args, x_), whole(args, number_)}, {whole(args, y_)}});
    });
  }

 private:
  /// Joined with the axis before it where it is filled, and that one is without gaps.
  void push(const EmbeddedAxis& axis) {
    if (rank_ > 0 && axis.part == axis.extent && axes_[rank_ - 1].step == 1) {
      EmbeddedAxis& outer = axes_[rank_ - 1];
      outer = {.extent = outer.extent * axis.extent,
               .before = outer.before * axis.extent,
               .per_start = outer.per_start * axis.extent,
               .step = 1,
               .part = outer.part * axis.extent,
               .stride = axis.stride};
    } else {
      axes_[rank_++] = axis;
    }
  }

  bool pads_;
  int x_;
  int number_;  ///< the value around x, or where it starts
  int y_;
  std::size_t size_;
  std::int64_t count_;
  EmbeddedAxis axes_[Shape::max_rank] = {};
  int rank_ = 0;
};

struct Movement {
  const core::OpDef* op;
  std::unique_ptr<Kernel> (*make)(const Graph& graph, const GraphNode& node, DeviceApi& device);
};

template <class K>
std::unique_ptr<Kernel> make_kernel(const Graph& graph, const GraphNode& node, DeviceApi& device) {
  return std::make_unique<K>(graph, node, device);
}

constexpr Movement movement_ops[] = {{&ops::concat_op, make_kernel<ConcatKernel>},
                                     {&ops::slice_op, make_kernel<SliceKernel>},
                                     {&ops::slice_grad_op, make_kernel<EmbedKernel>},
                                     {&ops::pad_op, make_kernel<EmbedKernel>},
                                     {&ops::transpose_op, make_kernel<TransposeKernel>}};

const Movement* find_movement(const GraphNode& node) {
  for (const Movement& movement : movement_ops) {
    if (node.op == movement.op) return &movement;
  }
  return nullptr;
}

Support supports(const Graph& graph, const Group& group, Device&) {
  const bool ours = group.single() && find_movement(graph.node(group.nodes[0])) != nullptr;
  return {.ok = ours, .reason = {}};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  const GraphNode& node = graph.node(group.nodes[0]);
  return find_movement(node)->make(graph, node, device.api);
}

constexpr Candidate candidates[] = {{"cuda:copy", supports, make}};

}  // namespace

std::span<const Candidate> movements() { return candidates; }

}  // namespace fusetape::backends::cuda::move
