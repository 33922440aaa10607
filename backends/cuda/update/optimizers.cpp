// Updates: one node, or all parameters of a model in as few launches as there is room for their pointers in
// the arguments, with the clipping of their gradients.
#include <algorithm>

#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/element_types.hpp"
#include "backends/cuda/faults.hpp"
#include "backends/cuda/kernels/updates.hpp"
#include "backends/cuda/tensor_list.hpp"
#include "backends/cuda/update/grad_norm.hpp"
#include "backends/update_groups.hpp"

namespace fusetape::backends::cuda::update {
namespace {

using plan::Graph;
using plan::Group;

class OptimizerKernel final : public DeviceKernel, public NotesFaults {
 public:
  OptimizerKernel(const Graph& graph, const Group& group, DeviceApi& device)
      : DeviceKernel(graph, device), updates_(updates_of(graph, group)), alike_(grouped(updates_)) {
    name = "cuda:" + group.name;
    tensor_passes = tensor_passes_of(updates_);
  }

  std::vector<std::pair<int, int>> in_place() const override { return in_place_of(updates_); }
  bool can_fail() const override { return false; }
  void note_to(std::shared_ptr<Faults> faults) override { faults_ = std::move(faults); }

  void run(const KernelArgs& args) override {
    for (const std::vector<Update>& alike : alike_) {
      with_element_type(alike.front().dtype, [&](auto element) {
        using T = decltype(element);
#define FUSETAPE_RUN_UPDATE(name) \
  if (alike.front().op == &ops::name##_op) run_list<T, core::updates::name>(args, alike);
        FUSETAPE_UPDATE_OPS(FUSETAPE_RUN_UPDATE)
#undef FUSETAPE_RUN_UPDATE
      });
    }
  }

 private:
  /// Of one dtype and with the same scalars: what one launch can do.
  static std::vector<std::vector<Update>> grouped(const std::vector<Update>& updates) {
    std::vector<std::vector<Update>> alike;
    for (const Update& update : updates) {
      const auto same = std::find_if(alike.begin(), alike.end(), [&](const std::vector<Update>& others) {
        return others.front().dtype == update.dtype && others.front().scalars == update.scalars;
      });
      if (same != alike.end()) {
        same->push_back(update);
      } else {
        alike.push_back({update});
      }
    }
    return alike;
  }

  Access scalars(const KernelArgs& args, const Update& update) const {
    Access access;
    for (const int scalar : update.scalars) access.reads.push_back(whole(args, scalar));
    if (update.scale >= 0) access.reads.push_back(whole(args, update.scale));
    access.reads.push_back(piece(faults_->place(), 1));
    return access;
  }

  Access tensors(const KernelArgs& args, const Update& update) const {
    Access access;
    for (std::size_t i = 0; i < update.in.size(); ++i) {
      if (update.in[i] >= 0) access.reads.push_back(whole(args, update.in[i]));
      if (update.out[i] >= 0) access.writes.push_back(whole(args, update.out[i]));
    }
    return access;
  }

  template <class T, class U>
  void run_list(const KernelArgs& args, const std::vector<Update>& alike) const {
    using K = ParameterUpdate<T, U>;
    const Update& first = alike.front();
    typename K::Args arguments{};
    for (std::size_t i = 0; i < first.scalars.size(); ++i)
      arguments.scalars[i] = args.in<double>(first.scalars[i]);
    if (first.scale >= 0) arguments.scale = args.in<T>(first.scale);
    arguments.fault = faults_->place();
    arguments.variant = first.variant;
    TensorList<K> list(arguments, scalars(args, first));
    for (const Update& update : alike) {
      list.add(update.elements, tensors(args, update), [&](std::int64_t from) {
        const auto in = [&](std::size_t i) {
          return update.in[i] >= 0 ? args.in<T>(update.in[i]) + from : nullptr;
        };
        const auto out = [&](std::size_t i) {
          return update.out[i] >= 0 ? args.out<T>(update.out[i]) + from : nullptr;
        };
        typename K::Entry entry{.p = in(0), .g = in(1), .new_p = out(0), .new_g = out(1)};
        for (std::size_t s = 0; s < std::size(entry.state); ++s) {
          entry.state[s] = in(2 + s);
          entry.new_state[s] = out(2 + s);
        }
        return entry;
      });
    }
    for (const auto& part : list.parts()) launch<K>({.x = part.blocks}, part.args, part.access);
  }

  std::vector<Update> updates_;
  std::vector<std::vector<Update>> alike_;
  std::shared_ptr<Faults> faults_;
};

Support supports(const Graph& graph, const Group& group, Device&) { return supports_updates(graph, group); }

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  return std::make_unique<OptimizerKernel>(graph, group, device.api);
}

constexpr Candidate candidates[] = {{"cuda:optimizer", supports, make},
                                    {"cuda:grad_norm", supports_grad_norm, make_grad_norm}};

}  // namespace

std::span<const Candidate> optimizers() { return candidates; }

}  // namespace fusetape::backends::cuda::update
