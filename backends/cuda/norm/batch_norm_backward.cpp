#include "backends/cuda/kernels/norm_backward.hpp"
#include "backends/cuda/norm/batch_norm.hpp"

/// From g' = (g [+ g2])·mask: Σg' and Σg'·x̂ of one or two normalisations in one pass, then dx = a(g' − (Σg' +
/// x̂·Σg'x̂)/n) in another.
namespace fusetape::backends::cuda::norm {
namespace {

using plan::Graph;
using plan::Group;
using plan::NormRoles;

template <class T>
class NormBackwardKernel final : public DeviceKernel {
 public:
  NormBackwardKernel(const Graph& graph, const plan::NormBackward& roles, DeviceApi& device)
      : DeviceKernel(graph, device),
        roles_(roles),
        parts_(norm_parts(graph.value(roles_.norm[0].x))),
        width_(norm_width(graph.value(roles_.norm[0].x))) {
    if (roles_.recompute) mask_ = MaskFrom::input;
    if (!roles_.recompute && roles_.y >= 0) mask_ = MaskFrom::output;
    if (roles_.mask >= 0) mask_ = MaskFrom::bits;
    for (int i = 0; i < roles_.norms; ++i) wanted_ += roles_.norm[i].dx >= 0 ? 1 : 0;
    tensor_passes = count_passes();
    name = mask_ == MaskFrom::nothing ? "cuda:batch_norm_grad" : "cuda:batch_norm_relu_grad";
  }

  void run(const KernelArgs& args) override {
    if (mask_ == MaskFrom::input) make_forward_scale(args);
    if (roles_.sums_given) {
      take_sums(args);
    } else {
      width_ == 8 ? sum<8>(args) : sum<1>(args);
      finish_sums(args);
    }
    if (wanted_ > 0) differentiate(args);
  }

  std::size_t scratch_bytes() const override { return carve(nullptr).bytes; }

  /// g' is written in the first pass and takes the place of what only makes g'; the second pass reads the
  /// rest of an element before it writes a dx.
  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs;
    const auto is_an_x = [&](int value) {
      return value == roles_.norm[0].x || (roles_.norms == 2 && value == roles_.norm[1].x);
    };
    const auto add = [&](int from, int to) {
      if (from >= 0 && to >= 0 && !(to == roles_.masked && is_an_x(from))) pairs.emplace_back(from, to);
    };
    for (const int to : {roles_.masked, roles_.norm[0].dx, roles_.norm[1].dx}) {
      for (const int from : {roles_.g, roles_.g2, roles_.y}) add(from, to);
    }
    for (int i = 0; i < roles_.norms; ++i) add(roles_.norm[i].x, roles_.norm[i].dx);
    return pairs;
  }

 private:
  struct Scratch {
    double *sum_g = nullptr, *sum_gx[2] = {};
    float* scale = nullptr;  ///< the forward pass's, where the mask is recomputed
    float *a[2] = {}, *b[2] = {}, *c[2] = {};
    std::size_t bytes = 0;
  };

  double count_passes() const {
    const int sources = 1 + (roles_.g2 >= 0 ? 1 : 0) + (mask_ == MaskFrom::output ? 1 : 0);
    const int first = roles_.sums_given ? 0 : sources + roles_.norms + (roles_.masked >= 0 ? 1 : 0);
    const int second = (roles_.masked >= 0 ? 1 : sources) + 2 * wanted_;
    return first + (wanted_ > 0 ? second : 0);
  }

  Scratch carve(std::byte* base) const {
    ScratchPieces pieces(base);
    Scratch scratch;
    if (mask_ == MaskFrom::input) scratch.scale = pieces.take<float>(parts_.channels);
    if (!roles_.sums_given) scratch.sum_g = pieces.take<double>(parts_.blocks * parts_.channels);
    for (int i = 0; i < roles_.norms; ++i) {
      if (!roles_.sums_given) scratch.sum_gx[i] = pieces.take<double>(parts_.blocks * parts_.channels);
      for (float** each : {&scratch.a[i], &scratch.b[i], &scratch.c[i]}) {
        *each = pieces.take<float>(parts_.channels);
      }
    }
    scratch.bytes = pieces.used();
    return scratch;
  }

  Range partial(const double* sums) const { return piece(sums, parts_.blocks * parts_.channels); }
  Range channels(const float* of) const { return piece(of, parts_.channels); }

  void make_forward_scale(const KernelArgs& args) const {
    const Scratch scratch = carve(args.scratch);
    const NormRoles& norm = roles_.norm[0];
    launch<NormScale>({.x = blocks_for(parts_.channels, NormScale::threads)},
                      {args.in<float>(norm.gamma), args.in<float>(norm.inv_std), scratch.scale,
                       parts_.channels, 0.0, false},
                      {{whole(args, norm.gamma), whole(args, norm.inv_std)}, {channels(scratch.scale)}});
  }

  /// g', from what it is made of.
  MaskedGradient<T> gradient(const KernelArgs& args, Access& access) const {
    const Scratch scratch = carve(args.scratch);
    MaskedGradient<T> from{.g = args.in<T>(roles_.g), .mask = mask_};
    access.reads.push_back(whole(args, roles_.g));
    if (roles_.g2 >= 0) {
      from.g2 = args.in<T>(roles_.g2);
      access.reads.push_back(whole(args, roles_.g2));
    }
    if (mask_ == MaskFrom::output) {
      from.y = args.in<T>(roles_.y);
      access.reads.push_back(whole(args, roles_.y));
    }
    if (mask_ == MaskFrom::bits) {
      from.bits = args.in<std::uint8_t>(roles_.mask);
      access.reads.push_back(whole(args, roles_.mask));
    }
    if (mask_ == MaskFrom::input) {
      const NormRoles& norm = roles_.norm[0];
      from.mean = args.in<float>(norm.mean);
      from.scale = scratch.scale;
      from.beta = args.in<float>(norm.beta);
      access.reads.insert(access.reads.end(),
                          {whole(args, norm.mean), channels(from.scale), whole(args, norm.beta)});
    }
    return from;
  }

  template <int Width>
  void sum(const KernelArgs& args) const {
    const Scratch scratch = carve(args.scratch);
    Access access{{}, {partial(scratch.sum_g)}};
    typename NormGradSums<T, Width>::Args to{
        .gradient = gradient(args, access), .sum_g = scratch.sum_g, .parts = parts_, .norms = roles_.norms};
    for (int i = 0; i < roles_.norms; ++i) {
      to.x[i] = args.in<T>(roles_.norm[i].x);
      to.mean[i] = args.in<float>(roles_.norm[i].mean);
      to.sum_gx[i] = scratch.sum_gx[i];
      access.reads.insert(access.reads.end(),
                          {whole(args, roles_.norm[i].x), whole(args, roles_.norm[i].mean)});
      access.writes.push_back(partial(to.sum_gx[i]));
    }
    if (roles_.masked >= 0) {
      to.masked = args.out<T>(roles_.masked);
      access.writes.push_back(whole(args, roles_.masked));
    }
    launch<NormGradSums<T, Width>>(parts_.grid(Width), to, access);
  }

  void finish_sums(const KernelArgs& args) const {
    const Scratch scratch = carve(args.scratch);
    NormGradTotals::Args to{.sum_g = scratch.sum_g,
                            .blocks = parts_.blocks,
                            .rows = parts_.rows,
                            .channels = parts_.channels,
                            .norms = roles_.norms};
    Access access{{partial(scratch.sum_g)}, {}};
    for (int i = 0; i < roles_.norms; ++i) {
      const NormRoles& norm = roles_.norm[i];
      to.sum_gx[i] = scratch.sum_gx[i];
      to.inv_std[i] = args.in<float>(norm.inv_std);
      access.reads.insert(access.reads.end(), {partial(to.sum_gx[i]), whole(args, norm.inv_std)});
      for (const auto& [pointer, value] :
           {std::pair{&to.dgamma[i], norm.dgamma}, {&to.dbeta[i], norm.dbeta}}) {
        if (value < 0) continue;
        *pointer = args.out<float>(value);
        access.writes.push_back(whole(args, value));
      }
      if (norm.dx < 0) continue;
      to.gamma[i] = args.in<float>(norm.gamma);
      to.a[i] = scratch.a[i];
      to.b[i] = scratch.b[i];
      to.c[i] = scratch.c[i];
      access.reads.push_back(whole(args, norm.gamma));
      access.writes.insert(access.writes.end(), {channels(to.a[i]), channels(to.b[i]), channels(to.c[i])});
    }
    launch<NormGradTotals>(ChannelTotals::grid(parts_.channels), to, access);
  }

  void take_sums(const KernelArgs& args) const {
    const Scratch scratch = carve(args.scratch);
    const NormRoles& norm = roles_.norm[0];
    launch<NormGradCoefficients>(
        {.x = blocks_for(parts_.channels, NormGradCoefficients::threads)},
        {args.in<float>(norm.gamma), args.in<float>(norm.inv_std), args.in<float>(norm.dgamma),
         args.in<float>(norm.dbeta), scratch.a[0], scratch.b[0], scratch.c[0], parts_.rows, parts_.channels},
        {{whole(args, norm.gamma), whole(args, norm.inv_std), whole(args, norm.dgamma),
          whole(args, norm.dbeta)},
         {channels(scratch.a[0]), channels(scratch.b[0]), channels(scratch.c[0])}});
  }

  void differentiate(const KernelArgs& args) const {
    const Scratch scratch = carve(args.scratch);
    typename NormGradApply<T>::Args to{
        .count = parts_.rows * parts_.channels, .channels = parts_.channels, .norms = roles_.norms};
    Access access;
    if (roles_.masked >= 0) {
      to.gradient = {.g = args.in<T>(roles_.masked)};
      access.reads.push_back(whole(args, roles_.masked));
    } else {
      to.gradient = gradient(args, access);
    }
    for (int i = 0; i < roles_.norms; ++i) {
      const NormRoles& norm = roles_.norm[i];
      to.x[i] = args.in<T>(norm.x);
      access.reads.push_back(whole(args, norm.x));
      if (norm.dx < 0) continue;
      to.mean[i] = args.in<float>(norm.mean);
      to.a[i] = scratch.a[i];
      to.b[i] = scratch.b[i];
      to.c[i] = scratch.c[i];
      to.dx[i] = args.out<T>(norm.dx);
      access.reads.insert(access.reads.end(),
                          {whole(args, norm.mean), channels(to.a[i]), channels(to.b[i]), channels(to.c[i])});
      access.writes.push_back(whole(args, norm.dx));
    }
    launch<NormGradApply<T>>({.x = blocks_for(to.count, 8 * NormGradApply<T>::threads)}, to, access);
  }

  plan::NormBackward roles_;
  ChannelParts parts_;
  int width_;
  MaskFrom mask_ = MaskFrom::nothing;
  int wanted_ = 0;  ///< dx that somebody wants
};

}  // namespace

std::unique_ptr<Kernel> make_norm_backward(const Graph& graph, const Group& group, Device& device) {
  const plan::NormBackward& roles = *group.as<plan::NormBackward>();
  switch (graph.value(roles.g).dtype) {
    case DType::bf16:
      return std::make_unique<NormBackwardKernel<Bf16>>(graph, roles, device.api);
    case DType::f16:
      return std::make_unique<NormBackwardKernel<F16>>(graph, roles, device.api);
    default:
      return std::make_unique<NormBackwardKernel<float>>(graph, roles, device.api);
  }
}

}  // namespace fusetape::backends::cuda::norm
