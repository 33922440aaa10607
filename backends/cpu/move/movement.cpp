// transpose, concat, slice and pad of any dtype: copies of contiguous runs, and a tiled transposition where
// there are none.
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

using core::Strides;
using plan::Graph;
using plan::GraphNode;
using plan::Group;

// Below this many bytes for each, a second thread costs more than it brings.
constexpr std::int64_t least_bytes = 1 << 16;

int parts_for(std::int64_t bytes) {
  const std::int64_t wanted = std::max<std::int64_t>(1, bytes / least_bytes);
  return static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), wanted));
}

std::int64_t product(const Shape& shape, int first, int end) {
  std::int64_t elements = 1;
  for (int axis = first; axis < end; ++axis) elements *= shape[axis];
  return elements;
}

/// outer × inner runs of bytes; what is where in bytes.
struct Runs {
  std::int64_t outer = 1, inner = 1, bytes = 0;
  std::int64_t to_start = 0, to_outer = 0, to_inner = 0;
  std::int64_t from_start = 0, from_outer = 0, from_inner = 0;
};

/// Cut by bytes, so that a single long run is shared too.
void copy_runs(const Runs& runs, const std::byte* from, std::byte* to) {
  const std::int64_t total = runs.outer * runs.inner * runs.bytes;
  if (total == 0) return;
  const int parts = parts_for(total);
  for_parts(parts, [&](int part) {
    const std::int64_t end = total * (part + 1) / parts;
    for (std::int64_t at = total * part / parts; at < end;) {
      const std::int64_t run = at / runs.bytes, skip = at % runs.bytes;
      const std::int64_t outer = run / runs.inner, inner = run % runs.inner;
      const std::int64_t bytes = std::min(runs.bytes - skip, end - at);
      std::memcpy(to + runs.to_start + outer * runs.to_outer + inner * runs.to_inner + skip,
                  from + runs.from_start + outer * runs.from_outer + inner * runs.from_inner + skip,
                  static_cast<std::size_t>(bytes));
      at += bytes;
    }
  });
}

void fill(std::byte* to, std::int64_t count, const std::byte* element, std::int64_t size) {
  const int parts = parts_for(count * size);
  for_parts(parts, [&](int part) {
    const std::int64_t first = count * part / parts, end = count * (part + 1) / parts;
    if (first == end) return;
    std::byte* const mine = to + first * size;
    const std::int64_t bytes = (end - first) * size;
    // Doubling: each copy takes all that is there.
    std::memcpy(mine, element, static_cast<std::size_t>(size));
    for (std::int64_t done = size; done < bytes; done *= 2) {
      std::memcpy(mine + done, mine, static_cast<std::size_t>(std::min(done, bytes - done)));
    }
  });
}

class ConcatKernel final : public Kernel {
 public:
  ConcatKernel(const Graph& graph, const GraphNode& node) : inputs_(node.inputs), y_(node.outputs[0]) {
    const plan::GraphValue& y = graph.value(y_);
    const int axis = static_cast<int>(node.attrs.as<core::ConcatAttrs>().axis);
    const std::int64_t inner =
        product(y.shape, axis + 1, y.shape.rank()) * static_cast<std::int64_t>(size_of(y.dtype));
    std::int64_t start = 0;
    for (const int input : inputs_) {
      const std::int64_t bytes = graph.value(input).shape[axis] * inner;
      runs_.push_back({.outer = product(y.shape, 0, axis),
                       .bytes = bytes,
                       .to_start = start,
                       .to_outer = y.shape[axis] * inner,
                       .from_outer = bytes});
      start += bytes;
    }
  }

  void run(const KernelArgs& args) override {
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      copy_runs(runs_[i], args.in<std::byte>(inputs_[i]), args.out<std::byte>(y_));
    }
  }

 private:
  std::vector<int> inputs_;
  int y_;
  std::vector<Runs> runs_;
};

/// slice; and slice_grad, which writes what slice reads, into zeros.
class SliceKernel final : public Kernel {
 public:
  SliceKernel(const Graph& graph, const GraphNode& node)
      : gradient_(node.is(ops::slice_grad_op)),
        x_(node.inputs[0]),
        start_(node.inputs[1]),
        y_(node.outputs[0]) {
    const auto attrs = node.attrs.as<core::SliceAttrs>();
    const plan::GraphValue& whole = graph.value(gradient_ ? y_ : x_);
    const plan::GraphValue& part = graph.value(gradient_ ? x_ : y_);
    const int axis = static_cast<int>(attrs.axis);
    size_ = static_cast<std::int64_t>(size_of(whole.dtype));
    written_ = graph.value(y_).elements();
    const std::int64_t inner = product(whole.shape, axis + 1, whole.shape.rank()) * size_;
    const std::int64_t count = part.shape[axis];
    const bool dense = attrs.step == 1;
    runs_ = {.outer = product(whole.shape, 0, axis),
             .inner = dense ? 1 : count,
             .bytes = dense ? count * inner : inner,
             .to_outer = count * inner,
             .to_inner = inner,
             .from_outer = whole.shape[axis] * inner,
             .from_inner = attrs.step * inner};
    place_bytes_ = inner;
    if (!gradient_) return;
    std::swap(runs_.to_outer, runs_.from_outer);
    std::swap(runs_.to_inner, runs_.from_inner);
  }

  void run(const KernelArgs& args) override {
    constexpr std::byte zero[8] = {};
    if (gradient_) fill(args.out<std::byte>(y_), written_, zero, size_);
    Runs runs = runs_;
    (gradient_ ? runs.to_start : runs.from_start) = *args.in<std::int64_t>(start_) * place_bytes_;
    copy_runs(runs, args.in<std::byte>(x_), args.out<std::byte>(y_));
  }

 private:
  bool gradient_;
  int x_, start_, y_;
  std::int64_t size_ = 0, written_ = 0;
  std::int64_t place_bytes_ = 0;  ///< of the whole, from one place on the axis to the next
  Runs runs_;
};

/// The value everywhere, then x row by row.
class PadKernel final : public Kernel {
 public:
  PadKernel(const Graph& graph, const GraphNode& node)
      : x_(node.inputs[0]), value_(node.inputs[1]), y_(node.outputs[0]), shape_(graph.value(x_).shape) {
    const auto attrs = node.attrs.as<core::PadAttrs>();
    const plan::GraphValue& y = graph.value(y_);
    size_ = static_cast<std::int64_t>(size_of(y.dtype));
    written_ = y.elements();
    strides_ = core::dense_strides(y.shape);
    for (int axis = 0; axis < shape_.rank(); ++axis) {
      first_ += attrs.before[static_cast<std::size_t>(axis)] * strides_[static_cast<std::size_t>(axis)];
    }
    row_ = shape_.rank() == 0 ? 1 : shape_.back();
    rows_ = row_ == 0 ? 0 : shape_.elements() / row_;
  }

  void run(const KernelArgs& args) override {
    fill(args.out<std::byte>(y_), written_, args.in<std::byte>(value_), size_);
    const int parts = parts_for(shape_.elements() * size_);
    for_parts(parts, [&](int part) {
      for (std::int64_t row = rows_ * part / parts; row < rows_ * (part + 1) / parts; ++row) {
        std::memcpy(args.out<std::byte>(y_) + place(row) * size_, args.in<std::byte>(x_) + row * row_ * size_,
                    static_cast<std::size_t>(row_ * size_));
      }
    });
  }

 private:
  /// Where a row of x begins in y, in elements.
  std::int64_t place(std::int64_t row) const {
    std::int64_t at = first_;
    for (int axis = shape_.rank() - 2; axis >= 0; --axis) {
      at += row % shape_[axis] * strides_[static_cast<std::size_t>(axis)];
      row /= shape_[axis];
    }
    return at;
  }

  int x_, value_, y_;
  Shape shape_;
  Strides strides_{};
  std::int64_t size_ = 0, written_ = 0, first_ = 0, row_ = 0, rows_ = 0;
};

bool is_slice(const GraphNode& node) { return node.is(ops::slice_op) || node.is(ops::slice_grad_op); }

template <class Made>
std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  return std::make_unique<Made>(graph, graph.node(group.nodes[0]));
}

template <class Is>
Support supports_if(const Graph& graph, const Group& group, Is is) {
  const bool ok = group.single() && is(graph.node(group.nodes[0]));
  return {.ok = ok, .reason = {}};
}

Support supports_concat(const Graph& graph, const Group& group) {
  return supports_if(graph, group, [](const GraphNode& node) { return node.is(ops::concat_op); });
}
Support supports_slice(const Graph& graph, const Group& group) { return supports_if(graph, group, is_slice); }
Support supports_pad(const Graph& graph, const Group& group) {
  return supports_if(graph, group, [](const GraphNode& node) { return node.is(ops::pad_op); });
}

constexpr Candidate candidates[] = {{"cpu:concat", supports_concat, make<ConcatKernel>},
                                    {"cpu:slice", supports_slice, make<SliceKernel>},
                                    {"cpu:pad", supports_pad, make<PadKernel>}};

}  // namespace

std::span<const Candidate> movements() { return candidates; }

}  // namespace fusetape::backends::cpu::move
