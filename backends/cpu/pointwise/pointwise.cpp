#include "backends/cpu/pointwise/pointwise.hpp"

#include <omp.h>

#include <algorithm>

#include "backends/cpu/axis_sums.hpp"
#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"

namespace fusetape::backends::cpu::pointwise {
namespace {

using core::ReduceAttrs;
using plan::Graph;
using plan::GraphNode;
using plan::Group;

// Below this many elements a second thread costs more than it brings.
constexpr std::int64_t parallel_from = 16384;

class PointwiseKernel final : public Kernel {
 public:
  explicit PointwiseKernel(Program program)
      : run_(std::move(program)), threads_(omp_get_max_threads()), block_(block_size()) {
    blocks_ = (run_.program().count + block_ - 1) / block_;
    if (run_.program().count < parallel_from) threads_ = 1;
  }

  std::size_t room_bytes() const override { return run_.program().thread_floats * sizeof(float); }
  std::vector<std::pair<int, int>> in_place() const override { return run_.program().in_place; }

  void run(const KernelArgs& args) override {
    const int threads = std::min(threads_, omp_get_max_threads());
    if (threads == 1) {
      run_part(args, 0, 1);
      return;
    }
#pragma omp parallel num_threads(threads)
    run_part(args, omp_get_thread_num(), omp_get_num_threads());
  }

 private:
  std::int64_t block_size() const { return static_cast<std::int64_t>(run_.program().block_size); }

  void run_part(const KernelArgs& args, int thread, int threads) {
    auto* const storage = reinterpret_cast<float*>(args.rooms[thread]);
    const std::int64_t first = blocks_ * thread / threads;
    const std::int64_t end = blocks_ * (thread + 1) / threads;
    if (first == end) return;
    run_.begin(args, storage);
    for (std::int64_t start = first * block_; start < std::min(end * block_, run_.program().count);
         start += block_) {
      run_.block(args, storage, start,
                 static_cast<std::size_t>(std::min(block_, run_.program().count - start)));
    }
  }

  ProgramRun run_;
  int threads_ = 1;
  std::int64_t block_ = 0, blocks_ = 0;
};

/// A chain with a sum or mean at its end, which asks for the chain's elements in the order in which it adds
/// them: the bits are those of the reduction alone.
class PointwiseSumKernel final : public Kernel, private RowSource {
 public:
  PointwiseSumKernel(const Graph& graph, const Group& group, const Extents& extents)
      : run_(compile_pointwise(graph, group)),
        sum_(graph, graph.node(group.reduction_node()), extents),
        y_(graph.node(group.reduction_node()).outputs[0]) {}

  std::size_t scratch_bytes() const override { return sum_.scratch_bytes(); }
  std::size_t room_bytes() const override { return run_.program().thread_floats * sizeof(float); }
  std::vector<std::pair<int, int>> in_place() const override { return run_.program().in_place; }

  void run(const KernelArgs& args) override {
    args_ = &args;
    sum_.run(*this, reinterpret_cast<double*>(args.scratch), args.out<std::byte>(y_));
  }

 private:
  float* storage(int part) const { return reinterpret_cast<float*>(args_->rooms[part]); }
  void begin(int part) const override { run_.begin(*args_, storage(part)); }
  const float* read(int part, std::int64_t at, std::int64_t count, float* buffer) const override {
    const auto block = static_cast<std::int64_t>(run_.program().block_size);
    for (std::int64_t done = 0; done < count; done += block) {
      run_.block(*args_, storage(part), at + done, static_cast<std::size_t>(std::min(block, count - done)),
                 buffer + done);
    }
    const BlockOperand& reduced = run_.program().reduced;
    return reduced.kind == BlockOperand::Kind::memory ? args_->in<float>(reduced.index) + at : buffer;
  }

  ProgramRun run_;
  AxisSum sum_;
  int y_;
  const KernelArgs* args_ = nullptr;  ///< of the run that is on
};

Support supports_program(const Graph& graph, const Group& group) {
  std::string reason = pointwise_refusal(graph, group);
  if (reason.empty()) return {};
  return {.ok = false, .reason = std::move(reason)};
}

Support supports_pointwise(const Graph& graph, const Group& group) {
  const auto* chain = group.as<plan::Chain>();
  if (chain == nullptr || chain->reduction_node >= 0) return {.ok = false, .reason = {}};
  return supports_program(graph, group);
}

std::unique_ptr<Kernel> make_pointwise(const Graph& graph, const Group& group) {
  return std::make_unique<PointwiseKernel>(compile_pointwise(graph, group));
}

std::optional<Extents> extents_of(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.reduction_node());
  return joined_extents(graph.value(node.inputs[0]).shape, node.attrs.as<ReduceAttrs>());
}

Support supports_sum_of_chain(const Graph& graph, const Group& group) {
  if (group.reduction_node() < 0) return {.ok = false, .reason = {}};
  const GraphNode& node = graph.node(group.reduction_node());
  const DType dtype = graph.value(node.inputs[0]).dtype;
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16)
    return {.ok = false, .reason = std::string(node.op->name) + " of " + std::string(name_of(dtype))};
  if (!extents_of(graph, group))
    return {.ok = false, .reason = std::string(node.op->name) + " over axes that are no neighbours"};
  return supports_program(graph, group);
}

std::unique_ptr<Kernel> make_sum_of_chain(const Graph& graph, const Group& group) {
  return std::make_unique<PointwiseSumKernel>(graph, group, *extents_of(graph, group));
}

constexpr Candidate candidates[] = {{"highway:pointwise", supports_pointwise, make_pointwise},
                                    {"highway:pointwise+sum", supports_sum_of_chain, make_sum_of_chain}};

}  // namespace

std::span<const Candidate> pointwise_programs() { return candidates; }

}  // namespace fusetape::backends::cpu::pointwise
