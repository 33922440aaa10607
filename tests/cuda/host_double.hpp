#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "backends/cuda/device_api.hpp"

/// A CUDA device played by the host, for machines without one. Queued work runs late, in any order that
/// streams and events allow, a kernel's blocks and threads in any order, too. What a device would do wrong in
/// silence is an Error here:
///   - a kernel that reads memory which its launch does not declare (it finds NaNs there) or writes any;
///   - results that are not written, although declared (NaNs are left);
///   - pinned memory that changes before its copy is done, copies of what is not pinned, device memory freed
///     while work on it is queued, ranges outside of any allocation;
///   - allocation, building or waiting while a graph is captured, and graphs that refer to freed memory;
///   - programs and operations that are let go before queued work, or a graph that is launched again, has run
///   them;
///   - grids, blocks, shared memory or arguments past a device's limits.
namespace fusetape::tests {

using backends::cuda::Access;
using backends::cuda::Event;
using backends::cuda::GraphId;
using backends::cuda::KernelEntry;
using backends::cuda::Launch;
using backends::cuda::LibraryOperation;
using backends::cuda::OperationArgs;
using backends::cuda::Range;
using backends::cuda::Stream;

class HostDouble final : public backends::cuda::DeviceApi {
 public:
  /// All orders follow from the seed.
  explicit HostDouble(std::uint64_t seed = 1);
  ~HostDouble() override;

  backends::cuda::DeviceFacts facts() const override;
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

  std::unique_ptr<LibraryOperation> make_convolution(const backends::cuda::ConvolutionSpec& spec) override;
  std::unique_ptr<LibraryOperation> make_product(const backends::cuda::ProductSpec& spec) override;
  std::shared_ptr<const KernelEntry> make_program(const backends::cuda::ProgramSource& source) override;

  enum class Refusal : std::uint8_t { none, verdict, shortage };
  /// From now on the libraries refuse to build anything, with these words: for good, or for want of memory.
  void refuse_operations(Refusal refusal, std::string why = {});
  /// From now on allocations fail, with these words; empty: there is memory again.
  void refuse_memory(std::string why);
  /// Every capture fails at its end, with this reason, until it is empty.
  void refuse_captures(std::string why);
  /// Operations of the libraries that were built.
  std::int64_t operations_built() const { return operations_built_; }
  /// Programs that somebody holds.
  std::size_t programs_held() const;
  /// Names of the kernels that ran.
  std::set<std::string> kernels_run() const;
  /// How often the host waited for the device.
  std::int64_t waits() const { return waits_; }

 private:
  /// What waits in a stream: work, or an event that is recorded or waited for.
  struct Task {
    std::string what;
    std::function<void()> work;  ///< empty: an event
    Access access;
    bool isolated = false;                           ///< other memory is hidden from it
    std::optional<std::weak_ptr<const void>> needs;  ///< the program or operation that it runs
    Event recorded = -1, awaited = -1;
    std::uint64_t version = 0;  ///< of the event
  };
  using Memory = std::map<std::uintptr_t, std::size_t>;  ///< allocations: address, bytes

  [[noreturn]] static void fail(const std::string& what);
  void refuse_in_capture(const char* what) const;
  void begin_building();
  static bool holds(const Memory& memory, Range range);
  void check_ranges(const Task& task) const;
  void check_launch(const Launch& launch) const;
  void queue(Stream stream, Task task);

  std::deque<Task>& tasks(Stream stream) { return streams_[static_cast<std::size_t>(stream)]; }
  bool can_start(const Task& task) const;
  void run_one(std::deque<Task>& stream);
  void run_until(const std::function<bool()>& done);
  void run_isolated(const Task& task);
  void run_blocks(const KernelEntry& kernel, backends::cuda::Grid grid, const std::vector<std::byte>& args);

  mutable std::recursive_mutex mutex_;
  std::mt19937_64 random_;
  Memory device_, pinned_;
  std::deque<Task> streams_[2];
  std::vector<std::uint64_t> recorded_, done_;  ///< by event: how often queued, how often reached
  std::optional<Stream> capturing_;
  std::vector<std::vector<Task>> graphs_;
  std::map<const KernelEntry*, std::weak_ptr<const KernelEntry>> programs_;
  std::set<std::string> kernels_run_;
  std::int64_t waits_ = 0, operations_built_ = 0;
  Refusal refusal_ = Refusal::none;
  std::string refusal_words_, memory_refusal_, capture_refusal_;
};

}  // namespace fusetape::tests
