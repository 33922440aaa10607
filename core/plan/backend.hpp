#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/plan/rules/group.hpp"

/// What the planner asks of a device. backends/ has one of these for each.
namespace fusetape::plan {

/// A room for each thread of a kernel that has something for itself. They stay where they are from kernel to
/// kernel of a plan, so that a thread finds its lines in its core's cache, and between them is memory that
/// nobody touches: where cores share no cache, one that works near the other's memory takes lines from it.
/// (Zen 5, two dies, Winograd's 136 KB a thread: 0.76 ms side by side, 0.66 with 32 KB between them, 0.55
/// with 64, 0.50 with 128 or more; one room for each thread in all kernels instead of one in each: a
/// ResNet-20 step 0.95 of the time.)
struct Rooms {
  std::byte* first = nullptr;  ///< 64-byte aligned
  std::size_t stride = 0;      ///< bytes from room to room

  static constexpr std::size_t apart = std::size_t{1} << 17;  ///< bytes that nobody touches, beside each
  static constexpr std::size_t stride_of(std::size_t bytes) { return (bytes + 63) / 64 * 64 + apart; }
  std::byte* operator[](int part) const {
    return first == nullptr ? nullptr : first + static_cast<std::size_t>(part) * stride;
  }
};

/// The pointers of one run, by graph value id: what the group reads, what it writes, and the plan's shared
/// scratch.
struct KernelArgs {
  void* const* values = nullptr;  ///< indexed by value id; the group's inputs and outputs are set
  std::byte* scratch = nullptr;   ///< scratch_bytes() of it, 64-byte aligned; contents undefined
  Rooms rooms;                    ///< room_bytes() each

  template <class T>
  const T* in(int value) const {
    return static_cast<const T*>(values[value]);
  }
  template <class T>
  T* out(int value) const {
    return static_cast<T*>(values[value]);
  }
};

/// Multiplications and additions, two for each pair of them, and the dtype that they are in.
struct Arithmetic {
  double flops = 0;
  DType dtype = DType::f32;
};

/// One compiled group: owns its primitives, no values. Runs many times; allocates nothing then.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void run(const KernelArgs& args) = 0;
  virtual std::size_t scratch_bytes() const { return 0; }
  virtual std::size_t room_bytes() const { return 0; }  ///< of each thread; none on a device
  /// (input, output) value pairs that may share a buffer: out[i] is written after the last read of in[i].
  virtual std::vector<std::pair<int, int>> in_place() const { return {}; }
  /// Whether run() may throw, or find fault with its data. What cannot may overwrite what a failed run goes
  /// back to, once everything that can is done.
  virtual bool can_fail() const { return true; }
  /// Whether run() waits for its device, so that it cannot be recorded and replayed.
  virtual bool waits() const { return false; }

  std::string name;          ///< "onednn:…", "highway:batch_norm_relu", "reference"
  double tensor_passes = 0;  ///< whole-tensor reads and writes
  std::string why;  ///< why no faster one: the refusals of the candidates before it, or what was timed
  /// Of its products, where it does not compute its ops directly, in the dtype of their operands.
  std::optional<Arithmetic> arithmetic;
};

/// How a plan's kernels are run again and again.
class Replay {
 public:
  virtual ~Replay() = default;
  /// All of them, with these pointers. `each` calls their run() in order.
  virtual void run(const KernelArgs& args, const std::function<void()>& each) = 0;
  /// What run() last did: "one graph of 87 kernels", or why it did not: "one by one: …". Made when that
  /// changes.
  virtual const std::string& how() const = 0;
};

/// What the device does in a second, roughly: for the planner's estimates.
struct Speed {
  double flops = 1e11;       ///< f32
  double half_flops = 1e11;  ///< bf16, f16
  double bytes = 1e10;
};

struct Support {
  bool ok = true;
  std::string reason;  ///< why not
};

/// A part of a batch norm (or of its gradient) that a convolution may carry.
enum class NormPart : std::uint8_t {
  applied,  ///< to what the convolution reads
  sums,     ///< over what it writes
};

/// A device's execution. Kernel choice is an ordered list of candidates inside `compile`, reference last.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  virtual void* allocate(std::size_t bytes) = 0;  ///< 64-byte aligned; throws Error when there is none
  virtual void free(void* data, std::size_t bytes) = 0;
  /// Whether its memory is the host's. Where not, the runtime copies what comes from there and goes there.
  virtual bool on_host() const { return true; }
  /// From host memory, which may change after the call, to the device's; in the order of the kernels.
  virtual void upload(void* to, const void* from, std::size_t bytes) = 0;
  /// The other way; the bytes are there after the call, and every kernel before it has run.
  virtual void download(void* to, const void* from, std::size_t bytes) = 0;
  /// Returns when every kernel has run. Throws what went wrong in one of them.
  virtual void synchronize() = 0;
  /// Held from the binding of a run's buffers to its end: threads that share a device's queue take turns.
  virtual std::unique_lock<std::recursive_mutex> exclusive() { return {}; }
  /// A run is about to be bound and queued. Throws what went wrong in an earlier one.
  virtual void begin_run() {}
  /// Every kernel of a run has been queued. A backend that works while the host goes on need not wait.
  virtual void end_run() { synchronize(); }
  /// The number of the run that was queued last; 0 where a run is over when it returns.
  virtual std::uint64_t last_run() { return 0; }
  /// Whether a fault in that run or before it made its updates leave cells as they were.
  virtual bool took_back(std::uint64_t run) {
    static_cast<void>(run);
    return false;
  }
  virtual Speed speed() const { return {}; }
  /// Threads that kernels made now may use, where that can be more than the plan was told of.
  virtual int threads_of_kernels() const { return 1; }
  /// What its kernels leave unused of the CPU, and why, for the report.
  virtual std::string instructions() const { return {}; }
  /// Threads that kernels compiled from now on by this thread may use.
  virtual void set_threads(int threads) { static_cast<void>(threads); }
  /// Whether a fused group can run as one kernel. Single nodes always can.
  virtual Support supports(const Graph& graph, const Group& group) const = 0;
  /// Whether the kernel of this convolution (or gradient of one) has a place where a part of a batch norm
  /// beside it, and the activation behind that (null: none), or its gradient, cost next to nothing.
  virtual bool carries(const Graph& graph, const GraphNode& convolution, NormPart part,
                       const OpDef* activation) const {
    static_cast<void>(graph), static_cast<void>(convolution), static_cast<void>(part);
    static_cast<void>(activation);
    return false;
  }
  /// Notes on the graph's nodes (GraphNode::tuned) which kernels `carries`, `supports` and `compile` are to
  /// obey: those that were taken for such nodes before, else the fastest, timed once for each kind of node
  /// and taken from now on. Tells what it did, for the report. Throws where a restored kernel cannot run
  /// here.
  virtual std::string tune(Graph& graph, TakenKernels& taken) {
    static_cast<void>(graph), static_cast<void>(taken);
    return {};
  }
  /// The same for convolutions that carry parts of norms in these groups: which of them are faster without.
  struct Apart {
    std::vector<int> convolutions;  ///< GraphNode::recorded, sorted
    std::string told;
  };
  virtual Apart tune_carried(const Graph& graph, const std::vector<Group>& groups, TakenKernels& taken) {
    static_cast<void>(graph), static_cast<void>(groups), static_cast<void>(taken);
    return {};
  }
  virtual std::unique_ptr<Kernel> compile(const Graph& graph, const Group& group) = 0;
  /// What does these at the end of a run in which no kernel found fault with its data; only where a run is
  /// queued, and its faults are found later.
  virtual std::unique_ptr<Kernel> compile_commits(const Graph& graph, std::span<const Commit> commits) {
    static_cast<void>(graph), static_cast<void>(commits);
    return nullptr;
  }
  /// For kernels of one plan with so many values. nullptr: they are always run one by one.
  virtual std::unique_ptr<Replay> make_replay(std::span<Kernel* const> kernels, std::size_t values) {
    static_cast<void>(kernels), static_cast<void>(values);
    return nullptr;
  }
  /// False: plans are made, nothing is run (null).
  virtual bool executes() const { return true; }
};

}  // namespace fusetape::plan
