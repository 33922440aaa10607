// sgd_update and adam_update: one node, or all parameters of a model in as few launches as there is room for
// their pointers in the arguments, with the clipping of their gradients.
#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/element_types.hpp"
#include "backends/cuda/faults.hpp"
#include "backends/cuda/grad_norm.hpp"
#include "backends/cuda/kernels/updates.hpp"
#include "backends/cuda/tensor_list.hpp"
#include "backends/update_groups.hpp"

namespace fusetape::backends::cuda {
namespace {

using plan::Graph;
using plan::Group;

class OptimizerKernel final : public DeviceKernel, public NotesFaults {
 public:
  OptimizerKernel(const Graph& graph, const Group& group, DeviceApi& device)
      : DeviceKernel(graph, device), updates_(updates_of(graph, group)) {
    name = "cuda:" + group.name;
    tensor_passes = tensor_passes_of(updates_);
  }

  std::vector<std::pair<int, int>> in_place() const override { return in_place_of(updates_); }
  bool can_fail() const override { return false; }
  void note_to(std::shared_ptr<Faults> faults) override { faults_ = std::move(faults); }

  void run(const KernelArgs& args) override {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      with_element_type(dtype, [&](auto element) {
        using T = decltype(element);
        updates_.front().adam ? run_list<AdamUpdate<T>, T>(args, dtype)
                              : run_list<SgdUpdate<T>, T>(args, dtype);
      });
    }
  }

 private:
  const double* scalar(const KernelArgs& args, std::size_t input) const {
    return args.in<double>(updates_.front().inputs[input]);
  }
  template <class T>
  const T* gradient_scale(const KernelArgs& args) const {
    const int scale = updates_.front().scale;
    return scale >= 0 ? args.in<T>(scale) : nullptr;
  }

  template <class T>
  void set_scalars(const KernelArgs& args, typename SgdUpdate<T>::Args& to) const {
    to.lr = scalar(args, 2);
    to.weight_decay = scalar(args, 3);
    to.momentum = updates_.front().in[2] >= 0 ? scalar(args, 5) : nullptr;
    to.nesterov = updates_.front().variant != 0;
    to.scale = gradient_scale<T>(args);
  }
  template <class T>
  void set_scalars(const KernelArgs& args, typename AdamUpdate<T>::Args& to) const {
    const double** const scalars[] = {&to.lr,           &to.beta1,       &to.beta2,      &to.eps,
                                      &to.weight_decay, &to.correction1, &to.correction2};
    for (std::size_t i = 0; i < std::size(scalars); ++i) *scalars[i] = scalar(args, 4 + i);
    to.decoupled = updates_.front().variant != 0;
    to.scale = gradient_scale<T>(args);
  }

  /// The group's scalars are those of its first update.
  Access scalars(const KernelArgs& args) const {
    const Update& first = updates_.front();
    Access access;
    for (std::size_t i = 2; i < first.inputs.size(); ++i) {
      const bool tensor =
          std::find(first.in, first.in + Update::tensors, first.inputs[i]) != first.in + Update::tensors;
      if (!tensor) access.reads.push_back(whole(args, first.inputs[i]));
    }
    if (first.scale >= 0) access.reads.push_back(whole(args, first.scale));
    access.reads.push_back(piece(faults_->place(), 1));
    return access;
  }

  Access tensors(const KernelArgs& args, const Update& update) const {
    Access access;
    for (int i = 0; i < Update::tensors; ++i) {
      if (update.in[i] >= 0) access.reads.push_back(whole(args, update.in[i]));
      if (update.out[i] >= 0) access.writes.push_back(whole(args, update.out[i]));
    }
    return access;
  }

  /// The updates of this dtype.
  template <class K, class T>
  void run_list(const KernelArgs& args, DType dtype) const {
    typename K::Args arguments{};
    set_scalars<T>(args, arguments);
    arguments.fault = faults_->place();
    TensorList<K> list(arguments, scalars(args));
    for (const Update& update : updates_) {
      if (update.dtype != dtype) continue;
      list.add(update.elements, tensors(args, update), [&](std::int64_t first) {
        const auto in = [&](int i) { return update.in[i] >= 0 ? args.in<T>(update.in[i]) + first : nullptr; };
        const auto out = [&](int i) {
          return update.out[i] >= 0 ? args.out<T>(update.out[i]) + first : nullptr;
        };
        typename K::Entry entry{.p = in(0), .g = in(1), .new_p = out(0), .new_g = out(1)};
        for (int state = 0; state < K::Entry::states; ++state) {
          entry.state[state] = in(2 + state);
          entry.new_state[state] = out(2 + state);
        }
        return entry;
      });
    }
    for (const auto& part : list.parts()) launch<K>({.x = part.blocks}, part.args, part.access);
  }

  std::vector<Update> updates_;
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

}  // namespace fusetape::backends::cuda
