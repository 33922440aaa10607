#include <omp.h>

#include <memory>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/norm/relu_mask_simd.hpp"
#include "core/op/op_list.hpp"

/// relu_mask and relu_grad_mask, each alone.
namespace fusetape::backends::cpu::norm {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

class MaskKernel final : public Kernel {
 public:
  MaskKernel(const Graph& graph, const GraphNode& node)
      : writes_mask_(node.is(ops::relu_mask_op)),
        tensor_(node.inputs[0]),
        mask_(writes_mask_ ? node.outputs[0] : node.inputs[1]),
        dx_(writes_mask_ ? -1 : node.outputs[0]),
        dtype_(graph.value(tensor_).dtype),
        count_(graph.value(tensor_).elements()) {
    // A part is whole cache lines of the mask.
    constexpr std::int64_t least_elements = 1 << 15;
    parts_ = static_cast<int>(
        std::min<std::int64_t>(omp_get_max_threads(), std::max<std::int64_t>(1, count_ / least_elements)));
  }

  void run(const KernelArgs& args) override {
    for_parts(parts_, [&](int part) {
      switch (dtype_) {
        case DType::bf16:
          return run_part(args, part, static_cast<std::int16_t>(0xff80));
        case DType::f16:
          return run_part(args, part, static_cast<std::int16_t>(0xfc00));
        default:
          return run_part(args, part, static_cast<std::int32_t>(0xff800000));
      }
    });
  }

  std::vector<std::pair<int, int>> in_place() const override {
    if (writes_mask_) return {};
    return {{tensor_, dx_}};
  }

 private:
  std::int64_t start_of(int part) const {
    constexpr std::int64_t line = 512;
    return part == parts_ ? count_ : count_ / line * part / parts_ * line;
  }

  /// T has the size of the dtype, whose −infinity is given.
  template <class T>
  void run_part(const KernelArgs& args, int part, T infinity) const {
    const std::int64_t begin = start_of(part), count = start_of(part + 1) - begin;
    const T* from = args.in<T>(tensor_) + begin;
    if (writes_mask_) {
      write_relu_mask(from, infinity, count, args.out<std::uint8_t>(mask_) + begin / 8);
    } else {
      apply_relu_mask(from, args.in<std::uint8_t>(mask_) + begin / 8, count, args.out<T>(dx_) + begin);
    }
  }

  bool writes_mask_;
  int tensor_, mask_, dx_;
  DType dtype_;
  std::int64_t count_;
  int parts_ = 1;
};

Support supports(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  const bool ours = group.single() && (node.is(ops::relu_mask_op) || node.is(ops::relu_grad_mask_op));
  if (!ours) return {.ok = false, .reason = ""};
  const DType dtype = graph.value(node.inputs[0]).dtype;
  if (dtype == DType::f64) return {.ok = false, .reason = "expected f32, bf16 or f16, got f64"};
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  return std::make_unique<MaskKernel>(graph, graph.node(group.nodes[0]));
}

constexpr Candidate candidates[] = {{"highway:relu_mask", supports, make}};

}  // namespace

std::span<const Candidate> relu_masks() { return candidates; }

}  // namespace fusetape::backends::cpu::norm
