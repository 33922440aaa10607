#include "backends/cuda/library_norm.hpp"

#include <algorithm>
#include <utility>

#include "backends/cuda/batch_norm.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/kernels/relu_masks.hpp"
#include "core/op_attrs.hpp"

namespace fusetape::backends::cuda {
namespace {

using plan::Graph;
using plan::NormRoles;
using Pass = NormSpec::Pass;

constexpr const char* made_again = "backward makes it again from x, by the arithmetic of our forward kernel";

NormSpec spec_of(const plan::GraphValue& x, Pass pass) {
  NormSpec spec{.pass = pass, .dtype = x.dtype, .c = x.shape.back()};
  if (x.shape.rank() == 4) {
    spec.n = x.shape[0];
    spec.h = x.shape[1];
    spec.w = x.shape[2];
  } else {
    spec.n = x.shape.elements() / spec.c;
  }
  return spec;
}

LibraryNorm nothing_of(NormSpec spec) {
  LibraryNorm norm{.spec = spec, .values = {}, .refusal = {}};
  norm.values.at.fill(-1);
  return norm;
}

/// A mask that is recomputed is promised to be forward's to the bit, and so is y: whether the ReLU is in this
/// group, or apart.
bool recomputed(const Graph& graph, const NormForwardRoles& forward) {
  const plan::BatchNormRelu& roles = forward.norm;
  const auto read_by = [&](int value, std::string_view op) {
    if (value < 0) return false;
    const std::vector<int>& readers = graph.value(value).consumers;
    return std::any_of(readers.begin(), readers.end(),
                       [&](int reader) { return graph.node(reader).op->is(op); });
  };
  if (!forward.relu && read_by(roles.y, "relu")) return true;
  return (roles.z < 0 && read_by(roles.y, "relu_grad")) || read_by(roles.norm[0].mean, "batch_norm_apply");
}

std::string refusal_of(const Graph& graph, const NormForwardRoles& forward) {
  const plan::BatchNormRelu& roles = forward.norm;
  if (roles.statistics != plan::Statistics::batch) return "no pattern whose statistics are given";
  if (roles.norms != 1) return "no pattern of two norms";
  if (roles.sum >= 0 || roles.norm[0].normed >= 0) return "what the ReLU reads is wanted, too";
  if (roles.y < 0) return "y is not wanted";
  if (recomputed(graph, forward)) return made_again;
  return {};
}

std::string refusal_of(const plan::BatchNormReluGrad& roles) {
  if (roles.sums_given) return "no pattern whose sums are given";
  if (roles.norms != 1) return "no pattern of two norms";
  if (roles.g2 >= 0) return "no pattern that adds two gradients";
  if (roles.recompute) return std::string("the ReLU's mask: ") + made_again;
  if (roles.y >= 0) return "no pattern with a ReLU's mask from y";
  if (roles.norm[0].dx < 0) return "dx is not wanted";
  return {};
}

class LibraryNormKernel final : public DeviceKernel {
 public:
  LibraryNormKernel(const Graph& graph, const LibraryNorm& norm, std::shared_ptr<LibraryOperation> operation,
                    DeviceApi& device)
      : DeviceKernel(graph, device),
        operation_(std::move(operation)),
        operands_(operands_of(norm.spec)),
        values_(norm.values),
        mask_(norm.mask),
        tracks_(norm.tracks()),
        tracked_(tracked_roles(norm.values)),
        spec_(norm.spec) {
    name = operation_->name;
  }

  std::size_t scratch_bytes() const override {
    NormArgs args;
    return carve(nullptr, args);
  }

  /// The running statistics alone: of no operand of the library's is it known.
  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs;
    add_tracked_in_place(tracked_, pairs);
    return pairs;
  }

  void run(const KernelArgs& args) override {
    NormArgs operands;
    const std::size_t scratch = carve(args.scratch, operands);
    Access access{.reads = {}, .writes = {{args.scratch, scratch}}};
    for (const NormOperand& operand : operands_) {
      const int value = values_[operand.place];
      if (value < 0) continue;
      operands.operands[operand.place] = args.values[value];
      (operand.written ? access.writes : access.reads).push_back(whole(args, value));
    }
    device().run(Stream::compute, *operation_, operands, access);
    if (mask_ >= 0) make_mask(args);
    if (tracks_) track(args, operands);
  }

 private:
  /// The workspace, and places for what the library writes and nobody reads. Returns the bytes of all.
  std::size_t carve(std::byte* base, NormArgs& args) const {
    ScratchPieces pieces(base);
    args.workspace = pieces.take<std::byte>(static_cast<std::int64_t>(operation_->workspace_bytes()));
    for (const NormOperand& operand : operands_) {
      if (values_[operand.place] >= 0) continue;
      args.operands[operand.place] = pieces.take<std::byte>(static_cast<std::int64_t>(operand.bytes()));
    }
    return pieces.used();
  }

  static NormRoles tracked_roles(const ByPlace<int>& values) {
    using enum NormPlace;
    return {.running_mean = values[running_mean],
            .running_var = values[running_var],
            .momentum = values[momentum],
            .new_running_mean = values[new_running_mean],
            .new_running_var = values[new_running_var]};
  }

  void track(const KernelArgs& args, const NormArgs& operands) const {
    const auto written = [&](NormPlace place) { return static_cast<const float*>(operands.operands[place]); };
    const float *mean = written(NormPlace::mean), *inv_std = written(NormPlace::inv_std);
    Access access{{piece(mean, spec_.c), piece(inv_std, spec_.c)}, {}};
    const NormResults results = norm_results(tracked_, spec_.eps, spec_.c, args, access);
    launch<NormTracking>({.x = blocks_for(spec_.c, NormTracking::threads)},
                         {mean, inv_std, spec_.n * spec_.h * spec_.w, spec_.c, results}, access);
  }

  void make_mask(const KernelArgs& args) const {
    switch (spec_.dtype) {
      case DType::bf16:
        return make_mask_of<Bf16>(args);
      case DType::f16:
        return make_mask_of<F16>(args);
      default:
        return make_mask_of<float>(args);
    }
  }

  template <class T>
  void make_mask_of(const KernelArgs& args) const {
    const int y = values_[NormPlace::y];
    launch<ReluMask<T>>({.x = blocks_for(spec_.elements(), 8 * ReluMask<T>::threads)},
                        {args.in<T>(y), args.out<std::uint8_t>(mask_), spec_.elements()},
                        {{whole(args, y)}, {whole(args, mask_)}});
  }

  std::shared_ptr<LibraryOperation> operation_;
  std::vector<NormOperand> operands_;
  ByPlace<int> values_;
  int mask_;
  bool tracks_;
  NormRoles tracked_;
  NormSpec spec_;
};

}  // namespace

LibraryNorm library_norm(const Graph& graph, const NormForwardRoles& forward) {
  const plan::BatchNormRelu& roles = forward.norm;
  const NormRoles& in = roles.norm[0];
  LibraryNorm norm = nothing_of(spec_of(graph.value(in.x), Pass::forward));
  norm.refusal = refusal_of(graph, forward);
  if (!norm.refusal.empty()) return norm;

  norm.spec.eps = graph.node(in.node).attrs.as<core::BatchNormAttrs>().eps;
  norm.spec.add = roles.z >= 0;
  norm.spec.relu = forward.relu;
  using enum NormPlace;
  for (const auto& [place, value] : {std::pair{x, in.x},
                                     {z, roles.z},
                                     {gamma, in.gamma},
                                     {beta, in.beta},
                                     {mean, in.mean},
                                     {inv_std, in.inv_std},
                                     {y, roles.y},
                                     {new_running_mean, in.new_running_mean},
                                     {new_running_var, in.new_running_var}}) {
    norm.values[place] = value;
  }
  if (norm.tracks()) {
    norm.values[running_mean] = in.running_mean;
    norm.values[running_var] = in.running_var;
    norm.values[momentum] = in.momentum;
  }
  norm.mask = roles.mask;
  return norm;
}

LibraryNorm library_norm(const Graph& graph, const plan::BatchNormReluGrad& roles) {
  const NormRoles& in = roles.norm[0];
  LibraryNorm norm = nothing_of(spec_of(graph.value(in.x), Pass::backward));
  norm.refusal = refusal_of(roles);
  if (!norm.refusal.empty()) return norm;

  norm.spec.mask = roles.mask >= 0;
  norm.spec.masked = roles.masked >= 0;
  using enum NormPlace;
  for (const auto& [place, value] : {std::pair{x, in.x},
                                     {g, roles.g},
                                     {mask, roles.mask},
                                     {gamma, in.gamma},
                                     {mean, in.mean},
                                     {inv_std, in.inv_std},
                                     {masked, roles.masked},
                                     {dx, in.dx},
                                     {dgamma, in.dgamma},
                                     {dbeta, in.dbeta}}) {
    norm.values[place] = value;
  }
  return norm;
}

std::unique_ptr<Kernel> make_library_norm(const Graph& graph, const LibraryNorm& norm,
                                          std::shared_ptr<LibraryOperation> operation, DeviceApi& device) {
  return std::make_unique<LibraryNormKernel>(graph, norm, std::move(operation), device);
}

}  // namespace fusetape::backends::cuda
