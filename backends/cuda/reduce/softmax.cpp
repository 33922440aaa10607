// softmax and log_softmax along an axis, with gradients.
#include "backends/cuda/kernels/softmax.hpp"
#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/element_types.hpp"
#include "backends/cuda/lines.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cuda::reduce {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

class SoftmaxKernel final : public DeviceKernel {
 public:
  SoftmaxKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : DeviceKernel(graph, device),
        inputs_(node.inputs),
        y_(node.outputs[0]),
        dtype_(graph.value(y_).dtype),
        log_(node.is(ops::log_softmax_op) || node.is(ops::log_softmax_grad_op)) {
    const auto axis = static_cast<int>(node.attrs.as<core::AxisAttrs>().axis);
    lines_ = lines_of(graph.value(y_).shape, [&](int other) { return other == axis; });
  }

  /// Every element is read for the last time where it is written.
  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs;
    for (const int input : inputs_) pairs.emplace_back(input, y_);
    return pairs;
  }

  void run(const KernelArgs& args) override {
    if (lines_.count * lines_.length == 0) return;
    with_element_type(dtype_, [&](auto element) {
      using T = decltype(element);
      const Grid grid{.x = lines_.blocks()};
      Access access{.reads = {}, .writes = {whole(args, y_)}};
      for (const int input : inputs_) access.reads.push_back(whole(args, input));
      const T* const first = args.in<T>(inputs_[0]);
      if (inputs_.size() == 1) {
        launch<Softmax<T>>(grid, {first, args.out<T>(y_), lines_, log_}, access);
      } else {
        launch<SoftmaxGrad<T>>(grid, {first, args.in<T>(inputs_[1]), args.out<T>(y_), lines_, log_}, access);
      }
    });
  }

 private:
  std::vector<int> inputs_;
  int y_;
  DType dtype_;
  bool log_;
  Lines lines_;
};

Support supports(const Graph& graph, const Group& group, Device&) {
  const GraphNode& node = graph.node(group.nodes[0]);
  const bool ours = node.is(ops::softmax_op) || node.is(ops::log_softmax_op) ||
                    node.is(ops::softmax_grad_op) || node.is(ops::log_softmax_grad_op);
  if (!group.single() || !ours) return {.ok = false, .reason = {}};
  return f32_or_half_only(graph, node);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  return std::make_unique<SoftmaxKernel>(graph, graph.node(group.nodes[0]), device.api);
}

constexpr Candidate candidates[] = {{"cuda:softmax", supports, make}};

}  // namespace

std::span<const Candidate> softmaxes() { return candidates; }

}  // namespace fusetape::backends::cuda::reduce
