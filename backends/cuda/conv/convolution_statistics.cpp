#include "backends/cuda/conv/convolutions.hpp"
#include "backends/cuda/norm/batch_norm.hpp"
#include "core/op/op_list.hpp"

/// y = conv(x, w) and the statistics of the batch norm that reads y, from the sums that cuDNN's
/// epilogue ("genstats") leaves: y need not be read for them. Σy² − mean·Σy loses digits where the mean is
/// large beside the deviation; cuDNN offers this for f16 only, whose y has lost them already.
namespace fusetape::backends::cuda::conv {
namespace {

using plan::Graph;

class ConvolutionStatistics final : public DeviceKernel {
 public:
  ConvolutionStatistics(const Graph& graph, const plan::Convolution& roles, DeviceApi& device,
                        std::shared_ptr<LibraryOperation> operation)
      : DeviceKernel(graph, device),
        roles_(roles),
        eps_(graph.node(roles.statistics.node).attrs.as<core::BatchNormAttrs>().eps),
        channels_(graph.value(roles.y).shape.back()),
        rows_(graph.value(roles.y).elements() / channels_),
        operation_(std::move(operation)) {
    name = operation_->name;
  }

  std::size_t scratch_bytes() const override { return carve(nullptr).bytes; }

  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs;
    norm::add_tracked_in_place(roles_.statistics, pairs);
    return pairs;
  }

  void run(const KernelArgs& args) override {
    const Scratch scratch = carve(args.scratch);
    const Range sum = piece(scratch.sum, channels_), square = piece(scratch.square, channels_);
    const int x = roles_.x;
    Access access{{whole(args, x), whole(args, roles_.w)},
                  {whole(args, roles_.y), sum, square, {scratch.workspace, operation_->workspace_bytes()}}};
    device().run(Stream::compute, *operation_,
                 {.a = args.values[x],
                  .b = args.values[roles_.w],
                  .out = args.values[roles_.y],
                  .sum = scratch.sum,
                  .square = scratch.square,
                  .workspace = scratch.workspace},
                 access);
    Access finished{{sum, square}, {}};
    const NormResults results = norm::norm_results(roles_.statistics, eps_, channels_, args, finished);
    launch<NormStatisticsOfSums>({.x = blocks_for(channels_, NormStatisticsOfSums::threads)},
                                 {scratch.sum, scratch.square, rows_, channels_, results}, finished);
  }

 private:
  struct Scratch {
    float *sum, *square;
    std::byte* workspace;
    std::size_t bytes;
  };

  Scratch carve(std::byte* base) const {
    ScratchPieces pieces(base);
    Scratch scratch{};
    scratch.sum = pieces.take<float>(channels_);
    scratch.square = pieces.take<float>(channels_);
    scratch.workspace = pieces.take<std::byte>(static_cast<std::int64_t>(operation_->workspace_bytes()));
    scratch.bytes = pieces.used();
    return scratch;
  }

  plan::Convolution roles_;
  double eps_;
  std::int64_t channels_, rows_;
  std::shared_ptr<LibraryOperation> operation_;
};

Support refuse(std::string reason) { return {.ok = false, .reason = std::move(reason)}; }

/// A convolution without a group of its own, as if its statistics were wanted.
ConvolutionSpec with_statistics(const Graph& graph, const plan::GraphNode& conv) {
  const int id = static_cast<int>(&conv - graph.nodes.data());
  ConvolutionSpec spec = library_convolution(graph, plan::convolution_of(conv, id)).spec;
  spec.statistics = true;
  return spec;
}

}  // namespace

bool pays_with_statistics(double seconds_with, double seconds_without, double pass_seconds) {
  if (seconds_with == 0 || seconds_without == 0) return true;  // not timed: a pass less
  return seconds_with < seconds_without + pass_seconds;
}

Support carries_statistics(const Graph& graph, const plan::GraphNode& conv, Device& device) try {
  if (!conv.is(ops::conv2d_op)) return refuse("only a forward convolution has statistics behind it");
  ConvolutionSpec spec = with_statistics(graph, conv);
  if (Support fits = supports_dtype(spec.dtype); !fits.ok) return fits;
  if (spec.n == 0) return refuse("no images");
  const LibraryCache::Built with = device.libraries.find(spec);
  if (with.operation == nullptr) return refuse(with.refusal);
  spec.statistics = false;
  const LibraryCache::Built without = device.libraries.find(spec);
  if (without.operation == nullptr) return {};
  const auto bytes = static_cast<double>(graph.value(conv.outputs[0]).bytes());
  if (pays_with_statistics(with.operation->seconds, without.operation->seconds,
                           bytes / device.api.facts().bytes_per_second)) {
    return {};
  }
  return refuse("measured slower than the convolution and a pass of its own");
} catch (const OutOfMemory& error) {  // the convolution alone may do with less
  return refuse(error.message());
}

std::unique_ptr<Kernel> make_convolution_statistics(const Graph& graph, const plan::Convolution& conv,
                                                    Device& device) {
  const ConvolutionSpec spec = library_convolution(graph, conv).spec;
  return std::make_unique<ConvolutionStatistics>(graph, conv, device.api,
                                                 device.libraries.find(spec).operation);
}

}  // namespace fusetape::backends::cuda::conv
