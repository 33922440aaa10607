#include <optional>

#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/kernels/pooling.hpp"
#include "core/op/op_list.hpp"

/// Max and average pooling, forward and backward.
namespace fusetape::backends::cuda::reduce {
namespace {

using plan::Graph;
using plan::Group;

enum class PoolOp : std::uint8_t { max, max_grad, max_gather, avg, avg_grad };

/// Which of the five, and its values: the large image, the small one, the index; behind max pooling's
/// gradient, what a ReLU made of the large image, for its mask.
struct Pooling {
  PoolOp op;
  int node = -1;
  int x = -1, y = -1, index = -1, mask = -1;

  bool backward() const { return op == PoolOp::max_grad || op == PoolOp::avg_grad; }
};

std::optional<Pooling> pooling_of(const Graph& graph, const Group& group) {
  if (const auto* grad = group.as<plan::MaxPoolGrad>())
    return Pooling{PoolOp::max_grad, grad->node, grad->dx, grad->g, grad->index, grad->y};
  if (!group.single()) return std::nullopt;
  const int id = group.nodes[0];
  const plan::GraphNode& node = graph.node(id);
  const auto &in = node.inputs, &out = node.outputs;
  if (node.is(ops::max_pool2d_op)) return Pooling{PoolOp::max, id, in[0], out[0], out[1]};
  if (node.is(ops::max_pool2d_gather_op)) return Pooling{PoolOp::max_gather, id, in[0], out[0], in[1]};
  if (node.is(ops::avg_pool2d_op)) return Pooling{PoolOp::avg, id, in[0], out[0]};
  if (node.is(ops::avg_pool2d_grad_op)) return Pooling{PoolOp::avg_grad, id, out[0], in[0]};
  return std::nullopt;
}

bool wide_index(const Graph& graph, const Pooling& pooling) {
  return pooling.index >= 0 && graph.value(pooling.index).dtype == DType::i64;
}

/// Channels of a thread.
int width_of(const Graph& graph, const Pooling& pooling) {
  return graph.value(pooling.x).shape[3] % 8 == 0 && !wide_index(graph, pooling) ? 8 : 1;
}

/// The pixels that are written.
PoolGrid grid_of(const Graph& graph, const Pooling& pooling) {
  const Shape& written = graph.value(pooling.backward() ? pooling.x : pooling.y).shape;
  const int width = width_of(graph, pooling);
  return {.rows = static_cast<std::uint32_t>(written[1]),
          .columns = static_cast<std::uint32_t>(written[2]),
          .stretches = static_cast<std::uint32_t>(written[3] / width),
          .count = written.elements() / width};
}

template <class T>
class PoolingKernel final : public DeviceKernel {
 public:
  PoolingKernel(const Graph& graph, const Group& group, DeviceApi& device)
      : DeviceKernel(graph, device),
        roles_(*pooling_of(graph, group)),
        pool_(graph.value(roles_.x).shape, graph.value(roles_.y).shape,
              graph.node(roles_.node).attrs.as<core::Pool2dAttrs>()),
        grid_(grid_of(graph, roles_)),
        width_(width_of(graph, roles_)),
        wide_index_(wide_index(graph, roles_)) {
    name = "cuda:" + group.name;
  }

  std::vector<std::pair<int, int>> in_place() const override {
    if (roles_.mask < 0) return {};
    return {{roles_.mask, roles_.x}};
  }

  void run(const KernelArgs& args) override {
    if (grid_.count == 0) return;
    if (wide_index_) return run_max<std::int64_t, 1>(args);
    width_ == 8 ? run_narrow<8>(args) : run_narrow<1>(args);
  }

 private:
  template <int Width>
  void run_narrow(const KernelArgs& args) const {
    roles_.index < 0 ? run_avg<Width>(args) : run_max<std::uint8_t, Width>(args);
  }

  template <class Index, int Width>
  void run_max(const KernelArgs& args) const {
    T *const x = args.out<T>(roles_.x), *const y = args.out<T>(roles_.y);
    Index* const index = args.out<Index>(roles_.index);
    const Range image = whole(args, roles_.x), small = whole(args, roles_.y);
    const Range places = whole(args, roles_.index);
    if (roles_.op == PoolOp::max) {
      start<MaxPool<T, Index, Width>>({x, y, index, pool_, grid_}, {{image}, {small, places}});
    } else if (roles_.op == PoolOp::max_gather) {
      start<MaxPoolGather<T, Index, Width>>({x, index, y, pool_, grid_}, {{image, places}, {small}});
    } else if (roles_.mask < 0) {
      start<MaxPoolGrad<T, Index, Width>>({y, index, nullptr, x, pool_, grid_}, {{small, places}, {image}});
    } else {
      start<MaxPoolGrad<T, Index, Width>>({y, index, args.in<T>(roles_.mask), x, pool_, grid_},
                                          {{small, places, whole(args, roles_.mask)}, {image}});
    }
  }

  template <int Width>
  void run_avg(const KernelArgs& args) const {
    T *const x = args.out<T>(roles_.x), *const y = args.out<T>(roles_.y);
    const Range image = whole(args, roles_.x), small = whole(args, roles_.y);
    if (roles_.op == PoolOp::avg) {
      start<AvgPool<T, Width>>({x, y, pool_, grid_}, {{image}, {small}});
    } else {
      start<AvgPoolGrad<T, Width>>({y, x, pool_, grid_}, {{small}, {image}});
    }
  }

  template <class K>
  void start(const typename K::Args& args, const Access& access) const {
    launch<K>({.x = blocks_for(grid_.count, K::threads)}, args, access);
  }

  Pooling roles_;
  core::PoolGeometry pool_;
  PoolGrid grid_;
  int width_;
  bool wide_index_;
};

Support supports(const Graph& graph, const Group& group, Device&) {
  const std::optional<Pooling> pooling = pooling_of(graph, group);
  if (!pooling) return {.ok = false, .reason = ""};
  if (grid_of(graph, *pooling).count > std::int64_t{1} << 31) {
    return {.ok = false, .reason = "more than 2^31 pixels"};
  }
  return supports_dtype(graph.value(pooling->x).dtype);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  switch (graph.value(pooling_of(graph, group)->x).dtype) {
    case DType::bf16:
      return std::make_unique<PoolingKernel<Bf16>>(graph, group, device.api);
    case DType::f16:
      return std::make_unique<PoolingKernel<F16>>(graph, group, device.api);
    default:
      return std::make_unique<PoolingKernel<float>>(graph, group, device.api);
  }
}

constexpr Candidate candidates[] = {{"cuda:pooling", supports, make}};

}  // namespace

std::span<const Candidate> poolings() { return candidates; }

}  // namespace fusetape::backends::cuda::reduce
