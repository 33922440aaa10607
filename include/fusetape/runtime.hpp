#pragma once
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fusetape/report.hpp"
#include "fusetape/tensor.hpp"

namespace fusetape {

namespace core {
struct Settings;
}  // namespace core

/// Runs everything pending on this thread, and so computes these values (an empty list: whatever is
/// recorded).
void materialize(std::initializer_list<Tensor> values = {}, Location at = Location::current());

/// Returns when the device has done everything that runs have queued on it: for clocks. (Reading a value
/// waits by itself.) Runs nothing that is pending.
void synchronize();

/// The backend of this thread: "cpu" (default), "cuda" (an NVIDIA GPU), "reference" (plain loops, double
/// accumulation), "null" (plans, runs nothing). FUSETAPE_BACKEND sets the default. Runs what is pending
/// first. Throws for an unknown name, and for "cuda" where this build or this machine has none; nothing is
/// changed then.
void set_backend(std::string_view name, Location at = Location::current());
std::string_view backend_name();

/// Fusion on or off for plans made from now on by this thread. Default: on; FUSETAPE_FUSE=off turns it off.
void set_fusion(bool on);
bool fusion_enabled();

/// A row of the fusion table, or of the passes that are switched with it.
struct FusionRule {
  std::string name;    ///< "batch_norm+add+relu"
  std::string family;  ///< "pointwise", "convolution", "batch_norm", "residual", "optimizer" or "memory"
};
/// All of them, in the planner's order.
std::vector<FusionRule> fusion_rules();
/// Only these rules (by name or family) for plans made from now on by this thread; {"all"}: every one, the
/// default. Throws for a name that no rule and no family has.
void set_fusion_rules(const std::vector<std::string>& names, Location at = Location::current());

/// How backward gets what it needs of forward's intermediate values, where there is a choice: keep the value,
/// keep one bit of it (a ReLU's sign), or compute it again.
enum class Retention : std::uint8_t {
  fastest,   ///< whatever moves the fewest bytes
  balanced,  ///< may spend 3 % of a step's estimated time on keeping less
  smallest,  ///< keeps as little as possible
};
/// Default: fastest. FUSETAPE_RETENTION=fastest|balanced|smallest sets the default.
void set_retention(Retention retention, Location at = Location::current());
Retention retention();

/// The same bits in every run of one build with one number of threads, on every machine of this kind: no
/// kernel is chosen by timing. Default: off; FUSETAPE_DETERMINISTIC=1 turns it on.
void set_deterministic(bool on);
bool deterministic();

/// Whether a GPU may round the factors of f32 convolutions and matrix products to TF32, which has 10 bits of
/// mantissa, for several times the speed. For plans made from now on by this thread. Default: off;
/// FUSETAPE_TF32=1 turns it on. No effect on the CPU.
void set_tf32(bool on);
bool tf32_enabled();

/// Whether convolutions are timed when they are first planned, for about 0.5 s of a plan and 3 s of a
/// process, and computed by what is fastest here. What was found is kept in a file, $XDG_CACHE_HOME/fusetape/
/// tuning-….json or that of ~/.cache, for these versions() (whatever the CPUs) on this cpu_name(), with the
/// instructions that oneDNN may use. For plans made from now on by this thread; where off, in deterministic
/// plans, and for what there was no time for, kernels are taken in their built-in order. Default: on;
/// FUSETAPE_TUNE=off turns it off.
void set_tuning(bool on);
bool tuning_enabled();

/// A kernel that this thread's plans took by timing, or, for want of time, without it.
struct KernelChoice {
  std::string work;                    ///< "conv2d 32x32x32x16 f32 …, threads 2", in the backend's words
  std::string kernel;                  ///< empty: the first of the built-in order
  std::vector<std::int64_t> blocking;  ///< how it cuts its work; empty: as is built in
  std::string why;                     ///< for explain()
  bool operator==(const KernelChoice&) const = default;
};
/// What was taken once is taken by every later plan of this thread: results depend on it, to rounding.
/// (Checkpoints hold it, so that a resumed run computes the same bits.) At most 4,096 kinds of work are
/// remembered; what comes after is computed in the built-in order.
std::vector<KernelChoice> kernel_choices();
/// For plans made from now on by this thread, in place of all before; nothing of it is timed. A plan that
/// needs a choice which this CPU cannot run throws an Error that names it. Where tuning is off, choices
/// matter to no plan.
void set_kernel_choices(const std::vector<KernelChoice>& choices);

/// Winograd's largest error, as a part of the largest value of the result (direct: about 1e-6).
inline constexpr double winograd_error = 1e-5, winograd_gradient_error = 2e-5;

/// How 3×3 convolutions are computed. Winograd's algorithm takes less than half of the time, its error is
/// larger, and a NaN or an infinity may spread over a tile of 4×4 pixels. `automatic` takes it where it is
/// faster and its error, as far as shapes tell it, within `winograd_error`, or in a gradient
/// `winograd_gradient_error`; `direct` never does; `winograd` does wherever it can (filters of 3×3, stride 1,
/// padding 0 or 1, f32 and bf16), faster or not.
enum class ConvAlgorithm : std::uint8_t { automatic, direct, winograd };
/// For plans made from now on by this thread. Default: automatic; FUSETAPE_CONV=automatic|direct|winograd.
void set_conv_algorithm(ConvAlgorithm algorithm, Location at = Location::current());
ConvAlgorithm conv_algorithm();

/// A search for the first op that makes a NaN or an infinity. While it is on, plans are made without fusion,
/// and every kernel's floating outputs are searched: the first that holds one makes the run throw an Error
/// that names the op, the phase, the place in the model, the line that recorded it (backward: the forward
/// op's), how many elements, which first; or, where an input of the run was not finite to begin with, that
/// input. What the run would have computed is lost; parameters, running statistics and optimizer state are as
/// before. Slow: each value is read once more, and nothing is written in place. Set it before recording.
/// Default: off; FUSETAPE_ANOMALY=1 turns it on.
void set_anomaly_detection(bool on);
bool anomaly_detection_enabled();

/// Anomaly detection on (or off) while it lives.
class DetectAnomaly {
 public:
  explicit DetectAnomaly(bool on = true) : before_(anomaly_detection_enabled()) { set_anomaly_detection(on); }
  ~DetectAnomaly();
  DetectAnomaly(const DetectAnomaly&) = delete;
  DetectAnomaly& operator=(const DetectAnomaly&) = delete;

 private:
  bool before_;
};

/// One op at a time, each run at its call. Default: off; FUSETAPE_EAGER=1 turns it on.
void set_eager(bool on, Location at = Location::current());
bool eager_enabled();

/// Whether, on a device, a plan that runs again with the same buffers is captured and replayed as one graph:
/// one launch in place of one for each kernel. The same numbers to the bit. Report::replay tells what the
/// last run did. Default: on; FUSETAPE_CAPTURE=off turns it off. No effect on the CPU.
void set_graph_capture(bool on);
bool graph_capture_enabled();

/// How many bytes of inputs may be held by nothing but pending ops. A loop that reads nothing, such as an
/// evaluation that only counts, would hold every batch until the end: where more than this is held so and no
/// gradient is to come, or right after a backward(), what is pending is run. A forward pass that a backward()
/// follows is never cut. Default: 256 MiB; FUSETAPE_PENDING_LIMIT=bytes sets the default. Throws below 0.
void set_pending_limit(std::int64_t bytes, Location at = Location::current());
std::int64_t pending_limit();

/// Notes when every kernel of every run starts and how long it takes, for explain(). Default: off.
void set_profiling(bool on);

/// Whether runs on the CPU take denormal numbers (of f32: below 1.2e-38) for 0, which they read and write
/// many times slower than others: the momentum of a parameter whose gradient has died decays through them.
/// Holds on all of a run's threads (custom ops included) while it runs; afterwards the calling thread's
/// floating-point state is what it was. No effect on a GPU. Default: off; FUSETAPE_FLUSH_DENORMALS=1 turns it
/// on.
void set_flush_denormals(bool on);
bool flush_denormals();

inline constexpr int max_threads = 1024;
/// Threads of the CPU backend (one OpenMP pool for our kernels, oneDNN and OpenBLAS), from 1 to max_threads.
/// Default: all cores. They do not survive fork(): after a run on several threads, a child of fork() throws
/// where it runs something, until it calls set_threads(1).
void set_threads(int threads, Location at = Location::current());
int threads();

/// The seed of rand, randn and dropout on this thread, and where the generator stands (for checkpoints).
void manual_seed(std::uint64_t seed);
struct GeneratorState {
  std::uint64_t seed = 0;
  std::uint64_t counter = 0;
};
GeneratorState generator_state();
void set_generator_state(GeneratorState state);

struct CacheStats {
  std::int64_t hits = 0, misses = 0, plans = 0;
};
CacheStats plan_cache_stats();
void clear_plan_cache();

struct MemoryStats {
  std::int64_t pool_bytes = 0;    ///< in use by values that outlive a run
  std::int64_t cached_bytes = 0;  ///< held by the pool for reuse
  std::int64_t arena_bytes = 0;
  std::int64_t system_allocations = 0;  ///< buffers asked of the system so far
};
MemoryStats memory_stats();

/// "fusetape 0.1.0, oneDNN 3.2.0, OpenBLAS 0.3.21 (SkylakeX), Highway 1.0.3, g++ 12.2.0; CPUs 0-1": OpenBLAS
/// with the core whose kernels it chose, and the CPUs that the calling thread may run on.
std::string versions();
/// The processor's model name and the SIMD target chosen at run time.
std::string cpu_name();

/// Any of the switches above; those that are not given stay as they are.
struct Switches {
  std::optional<bool> fusion, deterministic, tuning, tf32, anomaly_detection, flush_denormals, graph_capture,
      eager, profiling;
  std::optional<std::vector<std::string>> fusion_rules;
  std::optional<Retention> retention;
  std::optional<ConvAlgorithm> conv_algorithm;
  std::optional<std::int64_t> pending_limit;  ///< bytes
  std::optional<int> threads;
  std::optional<std::string> backend;
};

/// Switches as given while it lives, and then as they were: `ft::With unfused({.fusion = false});`. Its
/// constructor throws what their setters throw, and changes nothing then. Its end runs nothing: what is still
/// pending then is planned by the switches as they were, so read or materialize() what you want by these.
class With {
 public:
  explicit With(const Switches& switches, Location at = Location::current());
  ~With();
  With(const With&) = delete;
  With& operator=(const With&) = delete;

 private:
  void put_back() noexcept;
  Switches given_;
  std::unique_ptr<core::Settings> before_;
};

}  // namespace fusetape
