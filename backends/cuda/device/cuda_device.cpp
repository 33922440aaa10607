#include "backends/cuda/device/cuda_device.hpp"

#include <algorithm>
#include <string>

#include "backends/cuda/device/device_facts.hpp"
#include "backends/cuda/device/kernel_table.hpp"
#include "backends/cuda/device/queued_operation.hpp"
#include "core/numerics/number_text.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

constexpr std::int64_t most_blocks_x = 0x7fffffff, most_blocks_y = 0xffff;

std::string in_megabytes(std::size_t bytes) {
  return core::number_text(static_cast<double>(bytes) * 1e-6, std::chars_format::fixed, 1) + " MB";
}

/// `where`: "device memory" or "pinned memory".
[[noreturn]] void no_memory(const char* where, std::size_t bytes, cudaError_t status) {
  static_cast<void>(cudaGetLastError());
  std::string got = words_of(status);
  std::size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) == cudaSuccess) {
    got += "; free on the device: " + in_megabytes(free) + " of " + in_megabytes(total);
  }
  fail("allocate", "expected " + in_megabytes(bytes) + " of " + where + ", got " + got,
       status == cudaErrorMemoryAllocation);
}

}  // namespace

CudaDevice::CudaDevice() : facts_(facts_of_device()) {
  for (StreamHandle& stream : streams_) {
    cudaStream_t made = nullptr;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "making a stream");
    stream.reset(made);
  }
  // Loads every kernel: nothing is left to load within a capture.
  for (const DeviceFunction& kernel : device_functions()) {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, kernel.function), kernel.entry->name.c_str());
    functions_.emplace(kernel.entry, kernel.function);
  }
}

// ---- memory

void* CudaDevice::allocate(std::size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, std::max<std::size_t>(bytes, 1));
  if (status != cudaSuccess) no_memory("device memory", bytes, status);
  return data;
}

// Freeing tells of no failure: what went wrong before it is told by the call that waits for it.
void CudaDevice::free(void* data) { static_cast<void>(cudaFree(data)); }

void* CudaDevice::allocate_pinned(std::size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMallocHost(&data, std::max<std::size_t>(bytes, 1));
  if (status != cudaSuccess) no_memory("pinned memory", bytes, status);
  return data;
}

void CudaDevice::free_pinned(void* data) { static_cast<void>(cudaFreeHost(data)); }

// ---- work

void CudaDevice::upload(Stream stream, void* to, const void* pinned, std::size_t bytes) {
  check(cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, handle_of(stream)), "an upload");
}

void CudaDevice::download(Stream stream, void* pinned, const void* from, std::size_t bytes) {
  check(cudaMemcpyAsync(pinned, from, bytes, cudaMemcpyDeviceToHost, handle_of(stream)), "a download");
}

void CudaDevice::copy(Stream stream, void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, handle_of(stream)), "a copy");
}

void CudaDevice::clear(Stream stream, void* data, std::size_t bytes) {
  check(cudaMemsetAsync(data, 0, bytes, handle_of(stream)), "clearing memory");
}

const void* CudaDevice::function_of(const KernelEntry& entry) {
  if (entry.code != nullptr) return entry.code;
  const std::lock_guard lock(mutex_);
  const auto known = functions_.find(&entry);
  if (known != functions_.end()) return known->second;
  const void* function = device_function(entry.name);
  if (function == nullptr) throw Error("cuda", "no code for the kernel " + entry.name + " in this build");
  functions_.emplace(&entry, function);
  return function;
}

void CudaDevice::launch(Stream stream, const Launch& launch, const Access&) {
  const KernelEntry& kernel = *launch.kernel;
  const Grid grid = launch.grid;
  if (grid.x < 1 || grid.x > most_blocks_x || grid.y < 1 || grid.y > most_blocks_y) {
    throw Error("cuda", kernel.name + ": expected a grid of at most 2147483647 x 65535 blocks, got " +
                            std::to_string(grid.x) + " x " + std::to_string(grid.y));
  }
  void* arguments[] = {const_cast<void*>(launch.args)};  // CUDA copies them, and takes no pointer to const
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
  check(cudaLaunchKernel(function_of(kernel), blocks, dim3(kernel.threads), arguments, 0, handle_of(stream)),
        kernel.name.c_str());
}

void CudaDevice::run(Stream stream, LibraryOperation& operation, const OperationArgs& args, const Access&) {
  const std::lock_guard lock(library_mutex_);
  static_cast<QueuedOperation&>(operation).queue(handle_of(stream), args);
}

// ---- order

cudaEvent_t CudaDevice::handle_of(Event event) {
  const std::lock_guard lock(mutex_);
  return events_.at(static_cast<std::size_t>(event)).get();
}

Event CudaDevice::make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  const std::lock_guard lock(mutex_);
  events_.emplace_back(event);
  return static_cast<Event>(events_.size()) - 1;
}

void CudaDevice::record(Event event, Stream stream) {
  check(cudaEventRecord(handle_of(event), handle_of(stream)), "recording an event");
}

void CudaDevice::wait(Stream stream, Event event) {
  check(cudaStreamWaitEvent(handle_of(stream), handle_of(event)), "waiting for an event");
}

void CudaDevice::synchronize(Event event) {
  check(cudaEventSynchronize(handle_of(event)), "waiting for queued work");
}

void CudaDevice::synchronize() {
  for (const StreamHandle& stream : streams_) {
    check(cudaStreamSynchronize(stream.get()), "waiting for queued work");
  }
}

// ---- graphs

void CudaDevice::begin_capture(Stream stream) {
  check(cudaStreamBeginCapture(handle_of(stream), cudaStreamCaptureModeThreadLocal), "beginning a capture");
}

GraphId CudaDevice::end_capture(Stream stream) {
  cudaGraph_t captured = nullptr;
  check(cudaStreamEndCapture(handle_of(stream), &captured), "ending a capture");
  const std::unique_ptr<CUgraph_st, Destroy<cudaGraphDestroy>> graph(captured);
  cudaGraphExec_t executable = nullptr;
  check(cudaGraphInstantiate(&executable, captured, 0), "instantiating a captured graph");
  GraphHandle handle(executable);
  check(cudaGraphUpload(executable, handle_of(stream)), "uploading a captured graph");
  const std::lock_guard lock(mutex_);
  graphs_.emplace(next_graph_, std::move(handle));
  return next_graph_++;
}

void CudaDevice::launch_graph(Stream stream, GraphId graph) {
  cudaGraphExec_t executable = nullptr;
  {
    const std::lock_guard lock(mutex_);
    executable = graphs_.at(graph).get();
  }
  check(cudaGraphLaunch(executable, handle_of(stream)), "launching a captured graph");
}

void CudaDevice::free_graph(GraphId graph) {
  const std::lock_guard lock(mutex_);
  graphs_.erase(graph);
}

// ---- building

std::unique_ptr<LibraryOperation> CudaDevice::make_convolution(const ConvolutionSpec& spec) {
  const std::lock_guard lock(library_mutex_);
  if (convolutions_ == nullptr) {
    convolutions_ = std::make_unique<ConvolutionLibrary>(handle_of(Stream::compute));
  }
  return convolutions_->make(spec);
}

std::unique_ptr<LibraryOperation> CudaDevice::make_product(const ProductSpec& spec) {
  const std::lock_guard lock(library_mutex_);
  if (products_ == nullptr) products_ = std::make_unique<ProductLibrary>();
  return products_->make(spec);
}

std::shared_ptr<const KernelEntry> CudaDevice::make_program(const ProgramSource& source) {
  const std::lock_guard lock(program_mutex_);
  if (programs_ == nullptr) programs_ = std::make_unique<Programs>(facts_.major, facts_.minor);
  return programs_->make(source);
}

}  // namespace fusetape::backends::cuda
