#include "backends/cuda/device/cudnn_normalization.hpp"

#include <string>
#include <utility>

#include "backends/cuda/device/normalization_graph.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

namespace fe = cudnn_frontend;

class CudnnNorm final : public QueuedNorm {
 public:
  CudnnNorm(cudnnHandle_t handle, const NormSpec& spec)
      : handle_(handle),
        operands_(operands_of(spec)),
        graph_(graph_of(spec)),
        plan_(build_plans(*graph_, unwanted_of_norms(), handle, 1).front()) {
    std::string plan_name;
    check(graph_->get_plan_name_at_index(plan_, plan_name));
    name = "cudnn:" + plan_name;
    need_workspace(static_cast<std::size_t>(graph_->get_workspace_size_plan_at_index(plan_)));
  }

  void queue(cudaStream_t stream, const NormArgs& args) override {
    ByPlace<void*> pointers;
    int count = 0;
    for (const NormOperand& operand : operands_) {
      pointers.at[static_cast<std::size_t>(count++)] = args.operands[operand.place];
    }
    // Within a capture nothing is called that need not be.
    if (stream != stream_of(handle_)) check(cudnnSetStream(handle_, stream), "choosing a stream");
    check(graph_->execute_plan_at_index(handle_, pointers.at.data(), count, aligned(args.workspace), plan_));
  }

 private:
  cudnnHandle_t handle_;
  std::vector<NormOperand> operands_;
  std::unique_ptr<fe::graph::Graph> graph_;
  std::int64_t plan_;  ///< of the graph's
};

}  // namespace

NormalizationLibrary::NormalizationLibrary(cudaStream_t stream, const DeviceFacts& device)
    : handle_(make_cudnn_handle(stream)), major_(device.major), minor_(device.minor) {}

std::unique_ptr<QueuedNorm> NormalizationLibrary::make(const NormSpec& spec) try {
  if (major_ < 8) {
    throw Error("cudnn", "expected compute capability 8.0 or later, got " + std::to_string(major_) + "." +
                             std::to_string(minor_));
  }
  return std::make_unique<CudnnNorm>(handle_.get(), spec);
} catch (const fe::cudnnException& error) {
  fail(error);
}

}  // namespace fusetape::backends::cuda
