#include "backends/cuda/kernels/relu_masks.hpp"

#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "core/op/op_list.hpp"

/// relu_mask and relu_grad_mask, each alone.
namespace fusetape::backends::cuda::norm {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

template <class T>
class MaskKernel final : public DeviceKernel {
 public:
  MaskKernel(const Graph& graph, int y, int mask, DeviceApi& device)
      : DeviceKernel(graph, device), y_(y), mask_(mask), count_(graph.value(y).elements()) {
    name = "cuda:relu_mask";
  }

  void run(const KernelArgs& args) override {
    if (count_ == 0) return;
    launch<ReluMask<T>>({.x = blocks_for(count_, 8 * ReluMask<T>::threads)},
                        {args.in<T>(y_), args.out<std::uint8_t>(mask_), count_},
                        {{whole(args, y_)}, {whole(args, mask_)}});
  }

 private:
  int y_, mask_;
  std::int64_t count_;
};

template <class T>
class MaskedKernel final : public DeviceKernel {
 public:
  MaskedKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : DeviceKernel(graph, device),
        g_(node.inputs[0]),
        mask_(node.inputs[1]),
        masked_(node.outputs[0]),
        count_(graph.value(g_).elements()) {
    name = "cuda:relu_grad_mask";
  }

  std::vector<std::pair<int, int>> in_place() const override { return {{g_, masked_}}; }

  void run(const KernelArgs& args) override {
    if (count_ == 0) return;
    const MaskedGradient<T> gradient{
        .g = args.in<T>(g_), .mask = MaskFrom::bits, .bits = args.in<std::uint8_t>(mask_)};
    launch<ReluGradMask<T>>({.x = blocks_for(count_, 8 * ReluGradMask<T>::threads)},
                            {gradient, args.out<T>(masked_), count_},
                            {{whole(args, g_), whole(args, mask_)}, {whole(args, masked_)}});
  }

 private:
  int g_, mask_, masked_;
  std::int64_t count_;
};

Support supports(const Graph& graph, const Group& group, Device&) {
  const GraphNode& node = graph.node(group.nodes[0]);
  const bool ours = group.single() && (node.is(ops::relu_mask_op) || node.is(ops::relu_grad_mask_op));
  if (!ours) return {.ok = false, .reason = ""};
  return supports_dtype(graph.value(node.inputs[0]).dtype);
}

template <class T>
std::unique_ptr<Kernel> make_of(const Graph& graph, const GraphNode& node, DeviceApi& device) {
  if (node.is(ops::relu_grad_mask_op)) return std::make_unique<MaskedKernel<T>>(graph, node, device);
  return std::make_unique<MaskKernel<T>>(graph, node.inputs[0], node.outputs[0], device);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  const GraphNode& node = graph.node(group.nodes[0]);
  switch (graph.value(node.inputs[0]).dtype) {
    case DType::bf16:
      return make_of<Bf16>(graph, node, device.api);
    case DType::f16:
      return make_of<F16>(graph, node, device.api);
    default:
      return make_of<float>(graph, node, device.api);
  }
}

constexpr Candidate candidates[] = {{"cuda:relu_mask", supports, make}};

}  // namespace

std::span<const Candidate> relu_masks() { return candidates; }

}  // namespace fusetape::backends::cuda::norm
