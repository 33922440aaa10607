// Pointwise nodes, alone and in chains, each group as one kernel that is compiled for it.
#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/pointwise_program.hpp"

namespace fusetape::backends::cuda {
namespace {

using plan::Graph;
using plan::Group;
using plan::Pattern;

class PointwiseKernel final : public DeviceKernel {
 public:
  PointwiseKernel(const Graph& graph, const Group& group, DeviceApi& device)
      : DeviceKernel(graph, device),
        program_(std::make_shared<const PointwiseProgram>(make_pointwise_program(graph, group))),
        args_(program_->args_bytes() / 8) {
    if (program_->count == 0) return;
    entry_ = device.make_program({.name = program_->name,
                                  .text = pointwise_text(*program_),
                                  .threads = PointwiseProgram::threads,
                                  .args_bytes = program_->args_bytes(),
                                  .run_block = pointwise_on_host(program_)});
  }

  std::vector<std::pair<int, int>> in_place() const override { return program_->in_place; }

  void run(const KernelArgs& args) override {
    if (program_->count == 0) return;
    Access access;
    std::size_t word = 0;
    for (const auto& input : program_->inputs) {
      access.reads.push_back(whole(args, input.value));
      args_[word++] = reinterpret_cast<std::uintptr_t>(args.values[input.value]);
    }
    for (const auto& output : program_->outputs) {
      access.writes.push_back(whole(args, output.value));
      args_[word++] = reinterpret_cast<std::uintptr_t>(args.values[output.value]);
    }
    args_[word] = static_cast<std::uint64_t>(program_->count);
    const Grid grid{
        .x = blocks_for(program_->count, std::int64_t{PointwiseProgram::threads} * program_->width)};
    device().launch(Stream::compute, {.kernel = entry_, .grid = grid, .args = args_.data()}, access);
  }

 private:
  std::shared_ptr<const PointwiseProgram> program_;
  std::vector<std::uint64_t> args_;  ///< of the run that is on
  const KernelEntry* entry_ = nullptr;
};

Support supports_pointwise(const Graph& graph, const Group& group, DeviceApi&) {
  if (group.pattern != Pattern::pointwise && group.pattern != Pattern::single)
    return {.ok = false, .reason = {}};
  if (group.chain.reduction_node >= 0)
    return {.ok = false, .reason = "no generated kernel sums at the end of a chain"};
  bool foreign = false;
  std::string reason = pointwise_refusal(graph, group, foreign);
  if (reason.empty()) return {};
  if (foreign && group.pattern == Pattern::single) reason.clear();
  return {.ok = false, .reason = std::move(reason)};
}

std::unique_ptr<Kernel> make_pointwise(const Graph& graph, const Group& group, DeviceApi& device) {
  return std::make_unique<PointwiseKernel>(graph, group, device);
}

constexpr Candidate candidates[] = {{"nvrtc:pointwise", supports_pointwise, make_pointwise}};

}  // namespace

std::span<const Candidate> pointwise_programs() { return candidates; }

}  // namespace fusetape::backends::cuda
