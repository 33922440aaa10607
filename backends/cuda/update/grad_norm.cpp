#include "backends/cuda/update/grad_norm.hpp"

#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/element_types.hpp"
#include "backends/cuda/kernels/grad_norm.hpp"
#include "backends/cuda/tensor_list.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cuda::update {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

class GradNormKernel final : public DeviceKernel {
 public:
  GradNormKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : DeviceKernel(graph, device), norm_(node.outputs[0]) {
    for (const int id : node.inputs) {
      const plan::GraphValue& value = graph.value(id);
      gradients_.push_back({id, value.dtype, value.elements()});
      blocks_ += (value.elements() + elements_per_block - 1) / elements_per_block;
    }
    tensor_passes = 1;
  }

  std::size_t scratch_bytes() const override { return static_cast<std::size_t>(blocks_) * sizeof(double); }

  void run(const KernelArgs& args) override {
    auto* const sums = reinterpret_cast<double*>(args.scratch);
    std::int64_t done = 0;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      with_element_type(dtype,
                        [&](auto element) { add_squares<decltype(element)>(args, dtype, sums, done); });
    }
    launch<RootOfSum>({}, {sums, blocks_, args.out<float>(norm_)},
                      {{piece(sums, blocks_)}, {whole(args, norm_)}});
  }

 private:
  struct Gradient {
    int id;
    DType dtype;
    std::int64_t elements;
  };

  /// Of the gradients of this dtype, behind the `done` sums of others.
  template <class T>
  void add_squares(const KernelArgs& args, DType dtype, double* sums, std::int64_t& done) const {
    TensorList<SquareSums<T>> list({}, {});
    for (const Gradient& gradient : gradients_) {
      if (gradient.dtype != dtype) continue;
      list.add(gradient.elements, {{whole(args, gradient.id)}, {}}, [&](std::int64_t first) {
        return typename SquareSums<T>::Entry{.data = args.in<T>(gradient.id) + first};
      });
    }
    for (auto& part : list.parts()) {
      part.args.sums = sums + done;
      part.access.writes.push_back(piece(part.args.sums, part.blocks));
      launch<SquareSums<T>>({.x = part.blocks}, part.args, part.access);
      done += part.blocks;
    }
  }

  std::vector<Gradient> gradients_;
  std::int64_t blocks_ = 0;
  int norm_;
};

}  // namespace

Support supports_grad_norm(const Graph& graph, const Group& group, Device&) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (!group.single() || !node.is(ops::grad_norm_op)) return {.ok = false, .reason = ""};
  if (graph.value(node.outputs[0]).dtype == DType::f64) {
    return {.ok = false, .reason = "f32 and 16 bits only, not f64"};
  }
  return {};
}

std::unique_ptr<Kernel> make_grad_norm(const Graph& graph, const Group& group, Device& device) {
  return std::make_unique<GradNormKernel>(graph, graph.node(group.nodes[0]), device.api);
}

}  // namespace fusetape::backends::cuda::update
