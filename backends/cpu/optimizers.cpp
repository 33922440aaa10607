#include <omp.h>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "backends/cpu/grad_norm.hpp"
#include "backends/cpu/optimizers_simd.hpp"
#include "backends/update_groups.hpp"

/// sgd_update and adam_update: one node, or all parameters of a model in one kernel, with the clipping of
/// their gradients.
namespace fusetape::backends::cpu {
namespace {

using plan::Graph;
using plan::Group;

/// An update's values lie behind each other in the kernel's count of elements, which the threads share out
/// evenly.
struct Share {
  Update update;
  std::int64_t begin = 0, end = 0;
};

/// The tensors of an update by pointer.
struct Operands {
  const float* in[Update::tensors] = {};
  float* out[Update::tensors] = {};
};

double scalar(const KernelArgs& args, int value) { return *args.in<double>(value); }

float gradient_scale(const KernelArgs& args, const Update& update) {
  if (update.scale < 0) return 1;
  float scale = 0;
  return *read_floats(update.dtype, args.in<std::byte>(update.scale), 0, 1, &scale);
}

void run_sgd(const KernelArgs& args, const Update& update, const Operands& at, std::int64_t begin,
             std::int64_t end) {
  const std::vector<int>& in = update.inputs;
  const double momentum = at.in[2] != nullptr ? scalar(args, in[5]) : 0;
  const SgdSpan span{
      .factors = core::sgd_factors(scalar(args, in[2]), scalar(args, in[3]), momentum, update.variant != 0),
      .scale = gradient_scale(args, update),
      .p = at.in[0],
      .g = at.in[1],
      .v = at.in[2],
      .new_p = at.out[0],
      .new_g = at.out[1],
      .new_v = at.out[2]};
  update_sgd(span, begin, end);
}

void run_adam(const KernelArgs& args, const Update& update, const Operands& at, std::int64_t begin,
              std::int64_t end) {
  const std::vector<int>& in = update.inputs;
  const core::AdamSettings settings{.lr = scalar(args, in[4]),
                                    .beta1 = scalar(args, in[5]),
                                    .beta2 = scalar(args, in[6]),
                                    .eps = scalar(args, in[7]),
                                    .weight_decay = scalar(args, in[8]),
                                    .correction1 = scalar(args, in[9]),
                                    .correction2 = scalar(args, in[10])};
  const AdamSpan span{.factors = core::adam_factors(settings, update.variant != 0),
                      .scale = gradient_scale(args, update),
                      .p = at.in[0],
                      .g = at.in[1],
                      .m = at.in[2],
                      .v = at.in[3],
                      .new_p = at.out[0],
                      .new_g = at.out[1],
                      .new_m = at.out[2],
                      .new_v = at.out[3]};
  update_adam(span, begin, end);
}

void run_floats(const KernelArgs& args, const Update& update, std::int64_t begin, std::int64_t end) {
  Operands at;
  for (int i = 0; i < Update::tensors; ++i) {
    if (update.in[i] >= 0) at.in[i] = args.in<float>(update.in[i]);
    if (update.out[i] >= 0) at.out[i] = args.out<float>(update.out[i]);
  }
  (update.adam ? run_adam : run_sgd)(args, update, at, begin, end);
}

/// Block by block through floats. The results may lie where the operands do.
void run_halves(const KernelArgs& args, const Update& update, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t block = 512;
  float in[Update::tensors][block], out[Update::tensors][block];
  Operands at;
  for (int i = 0; i < Update::tensors; ++i) {
    if (update.in[i] >= 0) at.in[i] = in[i];
    if (update.out[i] >= 0) at.out[i] = out[i];
  }
  for (std::int64_t first = begin; first < end; first += block) {
    const std::int64_t count = std::min(block, end - first);
    for (int i = 0; i < Update::tensors; ++i) {
      if (update.in[i] >= 0) read_floats(update.dtype, args.in<std::byte>(update.in[i]), first, count, in[i]);
    }
    (update.adam ? run_adam : run_sgd)(args, update, at, 0, count);
    for (int i = 0; i < Update::tensors; ++i) {
      if (update.out[i] >= 0)
        write_floats(update.dtype, out[i], args.out<std::byte>(update.out[i]), first, count);
    }
  }
}

class OptimizerKernel final : public Kernel {
 public:
  OptimizerKernel(const Graph& graph, const Group& group) {
    const std::vector<Update> updates = updates_of(graph, group);
    in_place_ = in_place_of(updates);
    for (const Update& update : updates) {
      shares_.push_back({.update = update, .begin = elements_, .end = elements_ + update.elements});
      elements_ += update.elements;
    }
    constexpr std::int64_t least_elements = 1 << 14;  // below it a second thread costs more than it brings
    const std::int64_t wanted = std::max<std::int64_t>(1, elements_ / least_elements);
    parts_ = static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), wanted));
    name = "highway:" + group.name;
    tensor_passes = tensor_passes_of(updates);
  }

  void run(const KernelArgs& args) override {
    for_parts(parts_, [&](int part) {
      const std::int64_t begin = elements_ * part / parts_, end = elements_ * (part + 1) / parts_;
      for (const Share& share : shares_) {
        const std::int64_t from = std::max(begin, share.begin), to = std::min(end, share.end);
        if (from >= to) continue;
        const auto run_update = share.update.dtype == DType::f32 ? run_floats : run_halves;
        run_update(args, share.update, from - share.begin, to - share.begin);
      }
    });
  }

  std::vector<std::pair<int, int>> in_place() const override { return in_place_; }
  bool can_fail() const override { return false; }

 private:
  std::vector<Share> shares_;
  std::vector<std::pair<int, int>> in_place_;
  std::int64_t elements_ = 0;
  int parts_ = 1;
};

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  return std::make_unique<OptimizerKernel>(graph, group);
}

constexpr Candidate candidates[] = {{"highway:optimizer", supports_updates, make},
                                    {"cpu:grad_norm", supports_grad_norm, make_grad_norm}};

}  // namespace

std::span<const Candidate> optimizers() { return candidates; }

}  // namespace fusetape::backends::cpu
