#include "backends/cuda/conv/convolutions.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/kernels/fold_weights.hpp"
#include "core/op/op_attrs.hpp"

/// In evaluation a batch norm is a scale and a shift per channel, which the convolution before it can do: its
/// filters and bias are made anew in each run, then the library convolves with them.
namespace fusetape::backends::cuda::conv {
namespace {

using plan::Convolution;
using plan::Graph;

ConvolutionSpec folded_spec(const Graph& graph, const Convolution& conv) {
  ConvolutionSpec spec = library_convolution(graph, conv).spec;
  spec.bias = true;
  return spec;
}

template <class T>
class FoldedConvolution final : public DeviceKernel {
 public:
  FoldedConvolution(const Graph& graph, const Convolution& conv, Device& device)
      : DeviceKernel(graph, device.api),
        roles_(conv),
        eps_(graph.node(roles_.folded.node).attrs.as<core::BatchNormAttrs>().eps),
        channels_(graph.value(roles_.w).shape[0]),
        filter_(graph.value(roles_.w).elements() / channels_),
        operation_(device.libraries.find(folded_spec(graph, conv)).operation) {
    name = operation_->name + ", norm folded in";
  }

  std::size_t scratch_bytes() const override { return carve(nullptr).bytes; }

  void run(const KernelArgs& args) override {
    const Scratch scratch = carve(args.scratch);
    const Range weights = piece(scratch.weights, channels_ * filter_),
                shift = piece(scratch.shift, channels_);
    fold(args, scratch, {weights, shift});
    Access access{{whole(args, roles_.x), weights, shift},
                  {whole(args, roles_.y), {scratch.workspace, operation_->workspace_bytes()}}};
    if (roles_.z >= 0) access.reads.push_back(whole(args, roles_.z));
    device().run(Stream::compute, *operation_,
                 {.a = args.values[roles_.x],
                  .b = scratch.weights,
                  .bias = scratch.shift,
                  .z = roles_.z >= 0 ? args.values[roles_.z] : nullptr,
                  .out = args.values[roles_.y],
                  .workspace = scratch.workspace},
                 access);
  }

 private:
  struct Scratch {
    T *weights, *shift;
    std::byte* workspace;
    std::size_t bytes;
  };

  Scratch carve(std::byte* base) const {
    ScratchPieces pieces(base);
    Scratch scratch{};
    scratch.weights = pieces.take<T>(channels_ * filter_);
    scratch.shift = pieces.take<T>(channels_);
    scratch.workspace = pieces.take<std::byte>(static_cast<std::int64_t>(operation_->workspace_bytes()));
    scratch.bytes = pieces.used();
    return scratch;
  }

  void fold(const KernelArgs& args, const Scratch& scratch, std::vector<Range> writes) const {
    const Convolution& r = roles_;
    const plan::NormRoles& norm = r.folded;
    Access access{{}, std::move(writes)};
    for (const int value : {r.w, r.bias, norm.gamma, norm.beta, norm.running_mean, norm.running_var}) {
      if (value >= 0) access.reads.push_back(whole(args, value));
    }
    launch<FoldWeights<T>>({.x = blocks_for(channels_ * filter_, FoldWeights<T>::threads)},
                           {.w = args.in<T>(r.w),
                            .bias = r.bias >= 0 ? args.in<T>(r.bias) : nullptr,
                            .gamma = args.in<float>(norm.gamma),
                            .beta = args.in<float>(norm.beta),
                            .mean = args.in<float>(norm.running_mean),
                            .var = args.in<float>(norm.running_var),
                            .eps = eps_,
                            .weights = scratch.weights,
                            .shift = scratch.shift,
                            .channels = channels_,
                            .filter = filter_},
                           access);
  }

  Convolution roles_;
  double eps_;
  std::int64_t channels_, filter_;
  std::shared_ptr<LibraryOperation> operation_;
};

}  // namespace

Support supports_folded_convolution(const Graph& graph, const Convolution& conv, Device& device) {
  const plan::NormRoles& norm = conv.folded;
  for (const int value : {norm.gamma, norm.beta, norm.running_mean, norm.running_var}) {
    if (graph.value(value).dtype != DType::f32) {
      return {.ok = false, .reason = "a batch norm whose parameters are not f32"};
    }
  }
  const LibraryCache::Built built = device.libraries.find(folded_spec(graph, conv));
  return {.ok = built.operation != nullptr, .reason = built.refusal};
}

std::unique_ptr<Kernel> make_folded_convolution(const Graph& graph, const Convolution& conv, Device& device) {
  switch (graph.value(conv.x).dtype) {
    case DType::bf16:
      return std::make_unique<FoldedConvolution<Bf16>>(graph, conv, device);
    case DType::f16:
      return std::make_unique<FoldedConvolution<F16>>(graph, conv, device);
    default:
      return std::make_unique<FoldedConvolution<float>>(graph, conv, device);
  }
}

}  // namespace fusetape::backends::cuda::conv
