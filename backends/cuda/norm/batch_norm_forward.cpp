#include "backends/cuda/norm/batch_norm.hpp"

/// y = [relu] (norm₁(x₁) [+ norm₂(x₂)] [+ z]): a pass for the statistics, if they are not given, and one for
/// y and what else somebody reads of it.
namespace fusetape::backends::cuda::norm {
namespace {

using plan::Graph;
using plan::Group;
using plan::NormRoles;
using plan::Statistics;

template <class T>
class NormForwardKernel final : public DeviceKernel {
 public:
  NormForwardKernel(const Graph& graph, const plan::NormForward& roles, DeviceApi& device)
      : DeviceKernel(graph, device),
        roles_(roles),
        relu_(roles.activation != nullptr),
        parts_(norm_parts(graph.value(roles_.norm[0].x))),
        width_(norm_width(graph.value(roles_.norm[0].x))) {
    for (int i = 0; i < roles_.norms; ++i) {
      eps_[i] = graph.node(roles_.norm[i].node).attrs.template as<core::BatchNormAttrs>().eps;
    }
    for (const int output : {roles_.y, roles_.sum, roles_.norm[0].normed, roles_.norm[1].normed}) {
      if (output >= 0) written_.push_back(output);
    }
    applies_ = !written_.empty() || roles_.mask >= 0;
    const int statistics = roles_.statistics == Statistics::batch ? roles_.norms : 0;
    const int sources = applies_ ? roles_.norms + (roles_.z >= 0 ? 1 : 0) : 0;
    tensor_passes = statistics + sources + static_cast<double>(written_.size());
    name = relu_ ? "cuda:batch_norm_relu" : "cuda:batch_norm";
  }

  void run(const KernelArgs& args) override {
    for (int i = 0; i < roles_.norms; ++i) {
      if (roles_.statistics == Statistics::batch) {
        width_ == 8 ? measure<8>(args, i) : measure<1>(args, i);
        finish_statistics(args, i);
      } else {
        take_statistics(args, i);
      }
    }
    if (applies_) apply(args);
  }

  std::size_t scratch_bytes() const override { return carve(nullptr).bytes; }

  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs;
    for (const int output : written_) {
      if (roles_.z >= 0) pairs.emplace_back(roles_.z, output);
      for (int i = 0; i < roles_.norms; ++i) pairs.emplace_back(roles_.norm[i].x, output);
    }
    for (int i = 0; i < roles_.norms; ++i) add_tracked_in_place(roles_.norm[i], pairs);
    return pairs;
  }

 private:
  struct Scratch {
    double *mean = nullptr, *square = nullptr;  ///< of one norm after the other
    float *mean_of[2] = {}, *a[2] = {};         ///< of y; the mean only where the batch's is measured
    std::size_t bytes = 0;
  };

  Scratch carve(std::byte* base) const {
    ScratchPieces pieces(base);
    Scratch scratch;
    if (roles_.statistics == Statistics::batch) {
      scratch.mean = pieces.take<double>(parts_.blocks * parts_.channels);
      scratch.square = pieces.take<double>(parts_.blocks * parts_.channels);
    }
    for (int i = 0; i < roles_.norms; ++i) {
      if (roles_.statistics == Statistics::batch) scratch.mean_of[i] = pieces.take<float>(parts_.channels);
      scratch.a[i] = pieces.take<float>(parts_.channels);
    }
    scratch.bytes = pieces.used();
    return scratch;
  }

  Range partial(const double* sums) const { return piece(sums, parts_.blocks * parts_.channels); }
  Range channels(const float* of) const { return piece(of, parts_.channels); }

  template <int Width>
  void measure(const KernelArgs& args, int i) const {
    const Scratch scratch = carve(args.scratch);
    const int x = roles_.norm[i].x;
    launch<NormMoments<T, Width>>(parts_.grid(Width), {args.in<T>(x), scratch.mean, scratch.square, parts_},
                                  {{whole(args, x)}, {partial(scratch.mean), partial(scratch.square)}});
  }

  void finish_statistics(const KernelArgs& args, int i) const {
    const Scratch scratch = carve(args.scratch);
    const NormRoles& norm = roles_.norm[i];
    Access access{{partial(scratch.mean), partial(scratch.square)}, {}};
    NormStatistics::Args to{.mean = scratch.mean,
                            .square = scratch.square,
                            .parts = parts_,
                            .results = norm_results(norm, eps_[i], parts_.channels, args, access)};
    if (applies_) {
      to.results.gamma = args.in<float>(norm.gamma);
      to.results.mean = scratch.mean_of[i];
      to.results.a = scratch.a[i];
      access.reads.push_back(whole(args, norm.gamma));
      access.writes.insert(access.writes.end(), {channels(to.results.mean), channels(to.results.a)});
    }
    launch<NormStatistics>(ChannelTotals::grid(parts_.channels), to, access);
  }

  /// From inputs: the running mean and variance, or a batch's mean and inverse deviation.
  void take_statistics(const KernelArgs& args, int i) const {
    if (!applies_) return;
    const Scratch scratch = carve(args.scratch);
    const NormRoles& norm = roles_.norm[i];
    const bool running = roles_.statistics == Statistics::running;
    const int spread = running ? norm.running_var : norm.inv_std;
    launch<NormScale>(
        {.x = blocks_for(parts_.channels, NormScale::threads)},
        {args.in<float>(norm.gamma), args.in<float>(spread), scratch.a[i], parts_.channels, eps_[i], running},
        {{whole(args, norm.gamma), whole(args, spread)}, {channels(scratch.a[i])}});
  }

  /// The mean that y is made with.
  const float* mean_of(const KernelArgs& args, int i) const {
    switch (roles_.statistics) {
      case Statistics::batch:
        return carve(args.scratch).mean_of[i];
      case Statistics::running:
        return args.in<float>(roles_.norm[i].running_mean);
      case Statistics::given:
        return args.in<float>(roles_.norm[i].mean);
      case Statistics::sample:
        break;  // norm_operands refuses it
    }
    return nullptr;
  }

  void apply(const KernelArgs& args) const {
    const Scratch scratch = carve(args.scratch);
    typename NormApply<T>::Args to{.count = parts_.rows * parts_.channels,
                                   .channels = parts_.channels,
                                   .norms = roles_.norms,
                                   .relu = relu_};
    Access access;
    const auto write = [&](T*& pointer, int value) {
      if (value < 0) return;
      pointer = args.out<T>(value);
      access.writes.push_back(whole(args, value));
    };
    for (int i = 0; i < roles_.norms; ++i) {
      to.x[i] = args.in<T>(roles_.norm[i].x);
      to.mean[i] = mean_of(args, i);
      to.a[i] = scratch.a[i];
      to.beta[i] = args.in<float>(roles_.norm[i].beta);
      access.reads.insert(access.reads.end(), {whole(args, roles_.norm[i].x), channels(to.mean[i]),
                                               channels(to.a[i]), channels(to.beta[i])});
      write(to.normed[i], roles_.norm[i].normed);
    }
    if (roles_.z >= 0) {
      to.z = args.in<T>(roles_.z);
      access.reads.push_back(whole(args, roles_.z));
    }
    write(to.sum, roles_.sum);
    write(to.y, roles_.y);
    if (roles_.mask >= 0) {
      to.mask = args.out<std::uint8_t>(roles_.mask);
      access.writes.push_back(whole(args, roles_.mask));
    }
    launch<NormApply<T>>({.x = blocks_for(to.count, 8 * NormApply<T>::threads)}, to, access);
  }

  plan::NormForward roles_;
  bool relu_;
  ChannelParts parts_;
  int width_;
  double eps_[2] = {};
  std::vector<int> written_;  ///< whole tensors
  bool applies_ = false;      ///< more than the statistics is wanted
};

}  // namespace

std::unique_ptr<Kernel> make_norm_forward(const Graph& graph, const Group& group, Device& device) {
  const plan::NormForward& roles = *group.as<plan::NormForward>();
  switch (graph.value(roles.norm[0].x).dtype) {
    case DType::bf16:
      return std::make_unique<NormForwardKernel<Bf16>>(graph, roles, device.api);
    case DType::f16:
      return std::make_unique<NormForwardKernel<F16>>(graph, roles, device.api);
    default:
      return std::make_unique<NormForwardKernel<float>>(graph, roles, device.api);
  }
}

}  // namespace fusetape::backends::cuda::norm
