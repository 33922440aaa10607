// Pointwise nodes, alone and in chains, each group as one kernel that is compiled for it.
#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/kernels/chain_totals.hpp"
#include "backends/cuda/pointwise/pointwise_program.hpp"

namespace fusetape::backends::cuda::pointwise {
namespace {

using plan::Graph;
using plan::Group;

class PointwiseKernel final : public DeviceKernel {
 public:
  PointwiseKernel(const Graph& graph, const Group& group, Device& device)
      : DeviceKernel(graph, device.api),
        program_(std::make_shared<const PointwiseProgram>(make_pointwise_program(graph, group))),
        args_(program_->args_bytes() / 8) {
    if (program_->sum) sum_dtype_ = graph.value(program_->sum->value).dtype;
    if (program_->count == 0) return;
    entry_ = device.libraries.find(ProgramSource{.name = program_->name,
                                                 .text = pointwise_text(*program_),
                                                 .threads = PointwiseProgram::threads,
                                                 .args_bytes = program_->args_bytes(),
                                                 .run_block = pointwise_on_host(program_)});
  }

  std::vector<std::pair<int, int>> in_place() const override { return program_->in_place; }

  std::size_t scratch_bytes() const override {
    return program_->sum ? static_cast<std::size_t>(program_->sum->parts * program_->sum->results()) * 4 : 0;
  }

  void run(const KernelArgs& args) override {
    if (program_->count == 0) return;
    run_elements(args);
    if (!program_->sum) return;
    switch (sum_dtype_) {
      case DType::bf16:
        return add_up<Bf16>(args);
      case DType::f16:
        return add_up<F16>(args);
      default:
        return add_up<float>(args);
    }
  }

 private:
  Range parts(const KernelArgs& args) const { return {args.scratch, scratch_bytes()}; }

  void run_elements(const KernelArgs& args) {
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
    if (program_->sum) {
      access.writes.push_back(parts(args));
      args_[word++] = reinterpret_cast<std::uintptr_t>(args.scratch);
    }
    args_[word] = static_cast<std::uint64_t>(program_->count);
    constexpr std::int64_t threads = PointwiseProgram::threads;
    const Grid grid{.x = program_->sum ? (program_->sum_threads() + threads - 1) / threads
                                       : blocks_for(program_->count, threads * program_->width)};
    device().launch(Stream::compute, {.kernel = entry_.get(), .grid = grid, .args = args_.data()}, access);
  }

  template <class T>
  void add_up(const KernelArgs& args) const {
    const PointwiseProgram::Sum& sum = *program_->sum;
    const unsigned lanes = ChainTotals<T>::lanes_for(sum.parts);
    const std::int64_t sums = ChainTotals<T>::threads / lanes;  // of a block
    launch<ChainTotals<T>>({.x = (sum.results() + sums - 1) / sums},
                           {.parts = reinterpret_cast<const float*>(args.scratch),
                            .y = args.out<T>(sum.value),
                            .count = sum.parts,
                            .sums = sum.results(),
                            .lanes = lanes,
                            .divisor = sum.divisor},
                           {.reads = {parts(args)}, .writes = {whole(args, sum.value)}});
  }

  std::shared_ptr<const PointwiseProgram> program_;
  std::vector<std::uint64_t> args_;  ///< of the run that is on
  LibraryCache::Program entry_;      ///< null where there are no elements
  DType sum_dtype_ = DType::f32;
};

Support supports_pointwise(const Graph& graph, const Group& group, Device&) {
  if (group.as<plan::Chain>() == nullptr) return {.ok = false, .reason = {}};
  std::string reason = pointwise_refusal(graph, group);
  if (reason.empty() && group.reduction_node() >= 0) reason = sum_refusal(graph, group);
  if (reason.empty()) return {};
  return {.ok = false, .reason = std::move(reason)};
}

std::unique_ptr<Kernel> make_pointwise(const Graph& graph, const Group& group, Device& device) {
  return std::make_unique<PointwiseKernel>(graph, group, device);
}

constexpr Candidate candidates[] = {{"nvrtc:pointwise", supports_pointwise, make_pointwise}};

}  // namespace

std::span<const Candidate> pointwise_programs() { return candidates; }

}  // namespace fusetape::backends::cuda::pointwise
