#include <omp.h>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "backends/cpu/update/grad_norm.hpp"
#include "backends/cpu/update/optimizers_simd.hpp"
#include "backends/update_groups.hpp"

/// Updates: one node, or all parameters of a model in one kernel, with the clipping of their gradients.
namespace fusetape::backends::cpu::update {
namespace {

using plan::Graph;
using plan::Group;

/// An update's values lie behind each other in the kernel's count of elements, which the threads share out
/// evenly.
struct Share {
  Update update;
  std::int64_t begin = 0, end = 0;
};

float gradient_scale(const KernelArgs& args, const Update& update) {
  if (update.scale < 0) return 1;
  float scale = 0;
  return *read_floats(update.dtype, args.in<std::byte>(update.scale), 0, 1, &scale);
}

void run_floats(const KernelArgs& args, const Update& update, std::int64_t begin, std::int64_t end) {
  UpdateSpan span{.scale = gradient_scale(args, update)};
  for (std::size_t i = 0; i < span.in.size(); ++i) {
    if (update.in[i] >= 0) span.in[i] = args.in<float>(update.in[i]);
    if (update.out[i] >= 0) span.out[i] = args.out<float>(update.out[i]);
  }
  run_update(args, update, span, begin, end);
}

/// Block by block through floats. The results may lie where the operands do.
void run_halves(const KernelArgs& args, const Update& update, std::int64_t begin, std::int64_t end) {
  UpdateSpan span{.scale = gradient_scale(args, update)};
  constexpr std::int64_t block = 512;
  PerUpdateTensor<float[block]> in, out;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (update.in[i] >= 0) span.in[i] = in[i];
    if (update.out[i] >= 0) span.out[i] = out[i];
  }
  for (std::int64_t first = begin; first < end; first += block) {
    const std::int64_t count = std::min(block, end - first);
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (update.in[i] >= 0) read_floats(update.dtype, args.in<std::byte>(update.in[i]), first, count, in[i]);
    }
    run_update(args, update, span, 0, count);
    for (std::size_t i = 0; i < out.size(); ++i) {
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

}  // namespace fusetape::backends::cpu::update
