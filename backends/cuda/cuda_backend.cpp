#include "backends/cuda/cuda_backend.hpp"

#include <algorithm>
#include <array>

#include "backends/candidate_choice.hpp"
#include "backends/cuda/candidates.hpp"
#include "backends/cuda/conv/convolutions.hpp"
#include "backends/cuda/faults.hpp"
#include "backends/cuda/graph_replay.hpp"
#include "backends/cuda/host_kernel.hpp"
#include "backends/cuda/staging.hpp"
#include "backends/cuda/update/commit.hpp"
#include "backends/custom_kernel.hpp"

namespace fusetape::backends {
namespace {

using cuda::Candidate;
using cuda::Device;
using cuda::DeviceApi;
using plan::Graph;
using plan::Group;

/// Every kernel of the device in the order in which they are asked.
std::array<std::span<const Candidate>, 13> candidate_lists() {
  return {cuda::conv::convolutions(),           cuda::matmul::products(),   cuda::norm::batch_norms(),
          cuda::norm::bias_relu_gradients(),    cuda::norm::relu_masks(),   cuda::reduce::poolings(),
          cuda::reduce::reductions(),           cuda::reduce::softmaxes(),  cuda::reduce::cross_entropies(),
          cuda::update::optimizers(),           cuda::move::random_draws(), cuda::move::movements(),
          cuda::pointwise::pointwise_programs()};
}

class DeviceBackend final : public Backend {
 public:
  DeviceBackend(std::shared_ptr<DeviceApi> device, std::string name)
      : device_(std::move(device)),
        name_(std::move(name)),
        facts_(device_->facts()),
        staging_(*device_),
        faults_(std::make_shared<cuda::Faults>(*device_)),
        libraries_(*device_) {}

  std::string_view name() const override { return name_; }
  bool on_host() const override { return false; }

  void* allocate(std::size_t bytes) override {
    const auto turn = exclusive();
    return device_->allocate(bytes);
  }
  void free(void* data, std::size_t) override {
    const auto turn = exclusive();
    device_->free(data);
  }
  void upload(void* to, const void* from, std::size_t bytes) override {
    const auto turn = exclusive();
    staging_.upload(to, from, bytes);
  }
  void download(void* to, const void* from, std::size_t bytes) override {
    const auto turn = exclusive();
    faults_->check_after([&] { staging_.download(to, from, bytes); });
  }
  void synchronize() override {
    const auto turn = exclusive();
    faults_->check_after([&] { device_->synchronize(); });
  }
  std::unique_lock<std::recursive_mutex> exclusive() override { return std::unique_lock(mutex_); }
  void begin_run() override { faults_->begin_run(); }
  void end_run() override { faults_->end_run(); }
  std::uint64_t last_run() override { return faults_->last_run(); }
  bool took_back(std::uint64_t run) override { return faults_->took_back(run); }

  Speed speed() const override {
    return {.flops = facts_.flops, .half_flops = facts_.half_flops, .bytes = facts_.bytes_per_second};
  }

  Support supports(const Graph& graph, const Group& group) const override {
    if (group.single()) return {};
    Device device = made_on();
    return support_of(choose(candidate_lists(), graph, group, device), group, "CUDA");
  }

  bool carries(const Graph& graph, const plan::GraphNode& convolution, NormPart part,
               const core::OpDef*) const override {
    Device device = made_on();
    const std::vector<int>& readers = graph.value(convolution.outputs[0]).consumers;
    const bool has_bias = std::any_of(readers.begin(), readers.end(),
                                      [&](int reader) { return graph.node(reader).is(ops::bias_add_op); });
    return part == NormPart::sums && !has_bias &&
           cuda::conv::carries_statistics(graph, convolution, device).ok;
  }

  std::unique_ptr<Kernel> compile(const Graph& graph, const Group& group) override {
    Device device = made_on();
    const auto choice = is_custom(graph, group)
                            ? Choice<Candidate>{.refusals = "its forward is the user's own"}
                            : choose(candidate_lists(), graph, group, device);
    std::unique_ptr<Kernel> kernel = choice.candidate != nullptr
                                         ? choice.candidate->make(graph, group, device)
                                         : cuda::make_host_kernel(graph, group, staging_);
    if (auto* notes = dynamic_cast<cuda::NotesFaults*>(kernel.get())) notes->note_to(faults_);
    if (kernel->name.empty()) kernel->name = choice.candidate->name;
    if (choice.candidate == nullptr) {
      kernel->why = "on the host: " + (choice.refusals.empty() ? "no CUDA kernel" : choice.refusals);
    }
    if (kernel->tensor_passes == 0) kernel->tensor_passes = tensor_passes(graph, group);
    return kernel;
  }

  std::unique_ptr<Kernel> compile_commits(const Graph& graph,
                                          std::span<const plan::Commit> commits) override {
    return cuda::update::make_commit(graph, commits, *device_, faults_);
  }

  std::unique_ptr<Replay> make_replay(std::span<Kernel* const> kernels, std::size_t values) override {
    return cuda::make_graph_replay(kernels, values, *device_);
  }

 private:
  Device made_on() const { return {*device_, libraries_}; }

  std::shared_ptr<DeviceApi> device_;
  std::recursive_mutex mutex_;  ///< a graph that is captured takes in whatever is queued
  std::string name_;
  cuda::DeviceFacts facts_;
  cuda::Staging staging_;
  std::shared_ptr<cuda::Faults> faults_;
  mutable cuda::LibraryCache libraries_;  ///< `supports` builds, too
};

}  // namespace

std::unique_ptr<Backend> make_device_backend(std::shared_ptr<DeviceApi> device, std::string name) {
  return std::make_unique<DeviceBackend>(std::move(device), std::move(name));
}

}  // namespace fusetape::backends
