#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "backends/cuda/device/cublaslt_product.hpp"
#include "backends/cuda/device/cudnn_convolution.hpp"
#include "backends/cuda/device/errors.hpp"
#include "backends/cuda/device/nvrtc_program.hpp"
#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

/// The first CUDA device that CUDA_VISIBLE_DEVICES leaves.
class CudaDevice final : public DeviceApi {
 public:
  /// Throws where there is none, with CUDA's words, and where this build has no code for it.
  CudaDevice();

  DeviceFacts facts() const override { return facts_; }

  void* allocate(std::size_t bytes) override;
  void free(void* data) override;
  void* allocate_pinned(std::size_t bytes) override;
  void free_pinned(void* data) override;

  void upload(Stream stream, void* to, const void* pinned, std::size_t bytes) override;
  void download(Stream stream, void* pinned, const void* from, std::size_t bytes) override;
  void copy(Stream stream, void* to, const void* from, std::size_t bytes) override;
  void clear(Stream stream, void* data, std::size_t bytes) override;
  void launch(Stream stream, const Launch& launch, const Access& access) override;
  void run(Stream stream, LibraryOperation& operation, const OperationArgs& args,
           const Access& access) override;

  Event make_event() override;
  void record(Event event, Stream stream) override;
  void wait(Stream stream, Event event) override;
  void synchronize(Event event) override;
  void synchronize() override;

  void begin_capture(Stream stream) override;
  GraphId end_capture(Stream stream) override;
  void launch_graph(Stream stream, GraphId graph) override;
  void free_graph(GraphId graph) override;

  std::unique_ptr<LibraryOperation> make_convolution(const ConvolutionSpec& spec) override;
  std::unique_ptr<LibraryOperation> make_product(const ProductSpec& spec) override;
  std::shared_ptr<const KernelEntry> make_program(const ProgramSource& source) override;

 private:
  using StreamHandle = std::unique_ptr<CUstream_st, Destroy<cudaStreamDestroy>>;
  using EventHandle = std::unique_ptr<CUevent_st, Destroy<cudaEventDestroy>>;
  using GraphHandle = std::unique_ptr<CUgraphExec_st, Destroy<cudaGraphExecDestroy>>;

  cudaStream_t handle_of(Stream stream) const { return streams_[static_cast<std::size_t>(stream)].get(); }
  cudaEvent_t handle_of(Event event);
  const void* function_of(const KernelEntry& entry);

  DeviceFacts facts_;
  std::array<StreamHandle, 2> streams_;

  std::mutex mutex_;  ///< of the tables below
  std::vector<EventHandle> events_;
  std::map<GraphId, GraphHandle> graphs_;
  GraphId next_graph_ = 0;
  std::unordered_map<const KernelEntry*, const void*> functions_;

  std::mutex library_mutex_;  ///< a library's handle serves one thread at a time
  std::unique_ptr<ConvolutionLibrary> convolutions_;
  std::unique_ptr<ProductLibrary> products_;
  std::mutex program_mutex_;
  std::unique_ptr<Programs> programs_;
};

}  // namespace fusetape::backends::cuda
