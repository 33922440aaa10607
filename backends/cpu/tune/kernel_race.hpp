#pragma once
#include <chrono>
#include <functional>
#include <optional>

#include "backends/cpu/tune/timed.hpp"

/// Times kernels of one piece of work against each other.
namespace fusetape::backends::cpu::tune {

/// Milliseconds of one run.
using Stopwatch = std::function<double(Kernel& kernel, const KernelArgs& args)>;
double time_run(Kernel& kernel, const KernelArgs& args);

/// The built-in choice keeps its place unless another takes less than this part of its time.
constexpr double convincing = 0.9;

class KernelRace {
 public:
  using Clock = std::chrono::steady_clock;

  /// Nothing is started that is likely to end after `deadline`.
  KernelRace(Backend& backend, Stopwatch stopwatch, Clock::time_point deadline);
  ~KernelRace();
  KernelRace(const KernelRace&) = delete;
  KernelRace& operator=(const KernelRace&) = delete;

  /// The kernel to take, and why; nullopt: the time was too short. A contender that cannot be made is left
  /// out; throws where none can, or where one fails to run.
  std::optional<plan::TunedKernel> winner(Timed& timed);
  bool has_time_for(double ms) const;

 private:
  struct Runner;

  /// Runs the contenders in turns; those that could be made, in their order, or none: the time was too short.
  std::vector<Runner> race(Timed& timed, const std::vector<Contender>& contenders);
  /// The contenders that can be made, each after a first run.
  std::vector<Runner> warm_up(Timed& timed, const std::vector<Contender>& contenders);
  /// False: the time was too short.
  bool run_round(const Timed& timed, std::vector<Runner>& runners);
  double run_once(const Timed& timed, Runner& runner);
  /// The operands and results of the next run, alternating.
  KernelArgs next_args(const plan::Graph& graph, const Kernel& kernel);
  void* block(std::size_t which, std::size_t bytes, bool filled);

  struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;
  };
  Backend& backend_;
  Stopwatch stopwatch_;
  Clock::time_point deadline_;
  int threads_;
  std::vector<Block> blocks_;
  std::vector<void*> values_;
  bool second_set_ = false;
};

}  // namespace fusetape::backends::cpu::tune
