#include "backends/cuda/kernels/bias_relu_grad.hpp"

#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"

/// g' = g·[!(y ≤ 0)] and db = Σ g' over all but the last axis. The mask may come as bits: db is summed in the
/// same order.
namespace fusetape::backends::cuda::norm {
namespace {

using plan::Graph;
using plan::Group;

template <class T>
class BiasReluGradKernel final : public DeviceKernel {
 public:
  BiasReluGradKernel(const Graph& graph, const plan::BiasReluGrad& roles, DeviceApi& device)
      : DeviceKernel(graph, device), roles_(roles) {
    const Shape& shape = graph.value(roles_.g).shape;
    const std::int64_t channels = shape.back();
    width_ = channels % 8 == 0 ? 8 : 1;
    parts_ = ChannelParts::of(shape.elements() / channels, channels, width_);
    name = "cuda:bias_relu_grad";
  }

  void run(const KernelArgs& args) override {
    width_ == 8 ? mask<8>(args) : mask<1>(args);
    const Range partial = partial_sums(args);
    launch<ChannelSums<T>>(ChannelTotals::grid(parts_.channels),
                           {static_cast<const double*>(partial.data), args.out<T>(roles_.bias_grad),
                            parts_.blocks, parts_.channels},
                           {{partial}, {whole(args, roles_.bias_grad)}});
  }

  std::size_t scratch_bytes() const override {
    return static_cast<std::size_t>(parts_.blocks * parts_.channels) * sizeof(double);
  }

  std::vector<std::pair<int, int>> in_place() const override {
    if (roles_.y < 0) return {{roles_.g, roles_.masked}};
    return {{roles_.g, roles_.masked}, {roles_.y, roles_.masked}};
  }

 private:
  Range partial_sums(const KernelArgs& args) const { return {args.scratch, scratch_bytes()}; }

  template <int Width>
  void mask(const KernelArgs& args) const {
    const int from = roles_.y >= 0 ? roles_.y : roles_.mask;
    MaskedGradient<T> gradient{.g = args.in<T>(roles_.g)};
    if (roles_.y >= 0) {
      gradient.mask = MaskFrom::output;
      gradient.y = args.in<T>(from);
    } else {
      gradient.mask = MaskFrom::bits;
      gradient.bits = args.in<std::uint8_t>(from);
    }
    launch<BiasReluGrad<T, Width>>(
        parts_.grid(Width),
        {gradient, args.out<T>(roles_.masked), reinterpret_cast<double*>(args.scratch), parts_},
        {{whole(args, roles_.g), whole(args, from)}, {whole(args, roles_.masked), partial_sums(args)}});
  }

  plan::BiasReluGrad roles_;
  int width_;
  ChannelParts parts_;
};

Support supports(const Graph& graph, const Group& group, Device&) {
  const auto* roles = group.as<plan::BiasReluGrad>();
  if (roles == nullptr) return {.ok = false, .reason = ""};
  const plan::GraphValue& g = graph.value(roles->g);
  if (g.shape.rank() == 0 || g.elements() == 0) return {.ok = false, .reason = "no rows of channels"};
  return supports_dtype(g.dtype);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  const auto& roles = *group.as<plan::BiasReluGrad>();
  switch (graph.value(roles.g).dtype) {
    case DType::bf16:
      return std::make_unique<BiasReluGradKernel<Bf16>>(graph, roles, device.api);
    case DType::f16:
      return std::make_unique<BiasReluGradKernel<F16>>(graph, roles, device.api);
    default:
      return std::make_unique<BiasReluGradKernel<float>>(graph, roles, device.api);
  }
}

constexpr Candidate candidates[] = {{"cuda:bias_relu_grad", supports, make}};

}  // namespace

std::span<const Candidate> bias_relu_gradients() { return candidates; }

}  // namespace fusetape::backends::cuda::norm
