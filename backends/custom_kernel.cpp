#include "backends/custom_kernel.hpp"

#include "core/check.hpp"

namespace fusetape::backends {
namespace {

using core::RawTensor;

class CustomKernel final : public Kernel {
 public:
  CustomKernel(const plan::Graph& graph, const plan::GraphNode& node)
      : op_(*node.op), attrs_(node.attrs), inputs_(node.inputs), outputs_(node.outputs) {
    name = "custom";
    tensor_passes = plan::tensor_passes(graph, node);
    for (int id : inputs_) in_.push_back({graph.value(id).shape, graph.value(id).dtype});
    for (int id : outputs_) out_.push_back({graph.value(id).shape, graph.value(id).dtype});
  }

  void run(const KernelArgs& args) override {
    for (std::size_t i = 0; i < in_.size(); ++i) in_[i].data = args.values[inputs_[i]];
    for (std::size_t i = 0; i < out_.size(); ++i) out_[i].data = args.values[outputs_[i]];
    op_.run(attrs_, in_, out_);
  }

 private:
  const core::OpDef& op_;
  core::Attrs attrs_;
  std::vector<int> inputs_, outputs_;
  std::vector<RawTensor> in_, out_;
};

}  // namespace

std::unique_ptr<Kernel> make_custom_kernel(const plan::Graph& graph, const plan::Group& group) {
  FUSETAPE_ASSERT(group.single());
  return std::make_unique<CustomKernel>(graph, graph.node(group.nodes[0]));
}

}  // namespace fusetape::backends
