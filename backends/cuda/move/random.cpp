// rand, randn and dropout.
#include "backends/cuda/kernels/random.hpp"
#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/element_types.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cuda::move {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

class RandomKernel final : public DeviceKernel {
 public:
  RandomKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : DeviceKernel(graph, device),
        y_(node.outputs[0]),
        dtype_(graph.value(y_).dtype),
        count_(graph.value(y_).elements()) {
    const bool dropout = node.is(ops::dropout_op);
    draw_ = dropout ? Draw::dropout : node.is(ops::rand_op) ? Draw::uniform : Draw::normal;
    x_ = dropout ? node.inputs[0] : -1;
    seed_ = node.inputs[dropout ? 1 : 0];
    counter_ = node.inputs[dropout ? 2 : 1];
    if (dropout) p_ = node.inputs[3];
  }

  std::vector<std::pair<int, int>> in_place() const override {
    if (x_ < 0) return {};
    return {{x_, y_}};
  }

  void run(const KernelArgs& args) override {
    if (count_ == 0) return;
    with_element_type(dtype_, [&](auto element) {
      using T = decltype(element);
      Access access{.reads = {whole(args, seed_), whole(args, counter_)}, .writes = {whole(args, y_)}};
      if (x_ >= 0) access.reads.insert(access.reads.end(), {whole(args, x_), whole(args, p_)});
      launch<RandomDraw<T>>({.x = blocks_for(count_, 8 * RandomDraw<T>::threads)},
                            {args.in<std::int64_t>(seed_), args.in<std::int64_t>(counter_),
                             x_ >= 0 ? args.in<T>(x_) : nullptr, args.out<T>(y_), count_,
                             x_ >= 0 ? args.in<double>(p_) : nullptr, core::uniform_steps(dtype_), draw_},
                            access);
    });
  }

 private:
  int x_ = -1, seed_ = -1, counter_ = -1, p_ = -1, y_ = -1;
  DType dtype_;
  std::int64_t count_;
  Draw draw_ = Draw::uniform;
};

Support supports(const Graph& graph, const Group& group, Device&) {
  const GraphNode& node = graph.node(group.nodes[0]);
  const bool ours = node.is(ops::rand_op) || node.is(ops::randn_op) || node.is(ops::dropout_op);
  if (!group.single() || !ours) return {.ok = false, .reason = {}};
  return f32_or_half_only(graph, node);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  return std::make_unique<RandomKernel>(graph, graph.node(group.nodes[0]), device.api);
}

constexpr Candidate candidates[] = {{"cuda:philox", supports, make}};

}  // namespace

std::span<const Candidate> random_draws() { return candidates; }

}  // namespace fusetape::backends::cuda::move
