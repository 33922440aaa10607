#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backends/cuda/convolution_spec.hpp"
#include "backends/cuda/phases.hpp"
#include "backends/cuda/product_spec.hpp"
#include "fusetape/error.hpp"

/// All that the backend asks of a CUDA device. Two things implement it: the device itself (device/), and, in
/// the tests, a double on the host that runs the same kernels, in any legal order, and checks what goes wrong
/// unseen on a device.
namespace fusetape::backends::cuda {

/// Too little memory at the moment: what failed for it may succeed another time.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

/// A stretch of device memory.
struct Range {
  const void* data = nullptr;
  std::size_t bytes = 0;
};

/// What work reads and writes: all of it, declared. What is written in part is among the reads, too.
struct Access {
  std::vector<Range> reads, writes;
};

/// One launch of a kernel. The arguments are copied; they hold pointers and sizes, never a value that changes
/// from step to step: a captured graph would keep it.
struct Launch {
  const KernelEntry* kernel = nullptr;
  Grid grid;
  const void* args = nullptr;  ///< kernel->args_bytes of them
};

enum class Stream : std::uint8_t {
  compute,  ///< kernels
  copies,   ///< uploads of what the next run reads, beside them
};

using Event = int;
using GraphId = int;

struct DeviceFacts {
  std::string name;          ///< "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0;  ///< compute capability
  int multiprocessors = 0;
  std::size_t memory_bytes = 0;
  double flops = 0, half_flops = 0, bytes_per_second = 0;  ///< roughly, for estimates
};

/// A convolution or matrix product of a library, built once. Owns what the library made for it.
class LibraryOperation {
 public:
  virtual ~LibraryOperation() = default;
  virtual std::size_t workspace_bytes() const = 0;
  std::string name;    ///< "cudnn:…", with the engine that was chosen
  double seconds = 0;  ///< of one run, measured when it was built; 0: not measured
};

/// A kernel that is made from source text at run time.
struct ProgramSource {
  std::string name;        ///< of the kernel in the text
  std::string text;        ///< CUDA C++
  unsigned threads = 256;  ///< of a block
  std::size_t args_bytes = 0;
  HostBlock run_block;  ///< the same on the host: what the double runs
};

/// Calls are in the order of the host's thread; all but memory and building are only queued. Thread-safe.
/// What fails throws Error, for want of memory OutOfMemory; what failed on the device is thrown by the next
/// call that waits.
class DeviceApi {
 public:
  virtual ~DeviceApi() = default;
  virtual DeviceFacts facts() const = 0;

  // ---- memory
  virtual void* allocate(std::size_t bytes) = 0;  ///< 256-byte aligned; throws with what is free
  virtual void free(void* data) = 0;  ///< waits for nothing: the caller's streams are done with it
  virtual void* allocate_pinned(std::size_t bytes) = 0;  ///< of the host, for copies that run beside it
  virtual void free_pinned(void* data) = 0;

  // ---- work
  virtual void upload(Stream stream, void* to, const void* pinned, std::size_t bytes) = 0;
  virtual void download(Stream stream, void* pinned, const void* from, std::size_t bytes) = 0;
  virtual void copy(Stream stream, void* to, const void* from, std::size_t bytes) = 0;  ///< on the device
  virtual void clear(Stream stream, void* data, std::size_t bytes) = 0;                 ///< zeros
  virtual void launch(Stream stream, const Launch& launch, const Access& access) = 0;
  virtual void run(Stream stream, LibraryOperation& operation, const OperationArgs& args,
                   const Access& access) = 0;

  // ---- order
  virtual Event make_event() = 0;
  virtual void record(Event event, Stream stream) = 0;
  virtual void wait(Stream stream, Event event) = 0;  ///< what is queued from now on, for what was before it
  virtual void synchronize(Event event) = 0;
  virtual void synchronize() = 0;

  // ---- graphs
  /// What is queued on `stream` until end_capture becomes a graph and does not run. Nothing may be allocated,
  /// built or waited for meanwhile.
  virtual void begin_capture(Stream stream) = 0;
  virtual GraphId end_capture(Stream stream) = 0;
  virtual void launch_graph(Stream stream, GraphId graph) = 0;
  virtual void free_graph(GraphId graph) = 0;

  // ---- building
  virtual std::unique_ptr<LibraryOperation> make_convolution(const ConvolutionSpec& spec) = 0;
  virtual std::unique_ptr<LibraryOperation> make_product(const ProductSpec& spec) = 0;
  /// Compiled and loaded, until it is let go: not before what is queued has run and the graphs with it are
  /// freed.
  virtual std::shared_ptr<const KernelEntry> make_program(const ProgramSource& source) = 0;
};

}  // namespace fusetape::backends::cuda
