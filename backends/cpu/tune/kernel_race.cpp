#include "backends/cpu/tune/kernel_race.hpp"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>

#include "core/numerics/half.hpp"
#include "core/numerics/number_text.hpp"

namespace fusetape::backends::cpu::tune {
namespace {

using plan::Graph;
using plan::TunedKernel;

constexpr int least_rounds = 3, most_rounds = 12;
constexpr int sure_rounds = 6;   ///< before the built-in choice is left
constexpr double enough_ms = 2;  ///< of runs, for kernels so short that three of them tell little
constexpr double clearly_slower = 1.25, hopelessly_slower = 2;
constexpr std::size_t l2_bytes = std::size_t{1} << 20;

std::string formatted(double ms) {
  return core::number_text(ms, std::chars_format::fixed, ms < 0.1 ? 3 : 2) + " ms";
}

/// Numbers between −1 and 1 that are the same read as f32 and as pairs of bf16.
void fill(void* data, std::size_t bytes) {
  constexpr std::size_t words = 1 << 14;
  std::vector<std::uint32_t> pattern(words);
  std::uint32_t state = 1;
  for (std::uint32_t& word : pattern) {
    state = state * 1664525 + 1013904223;
    const float x = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31f;
    word = core::to_bf16(x) * 0x10001u;
  }
  for (std::size_t at = 0; at < bytes; at += words * 4)
    std::memcpy(static_cast<std::byte*>(data) + at, pattern.data(), std::min(bytes - at, words * 4));
}

template <class Runner>
const Runner& fastest(const std::vector<Runner>& runners) {
  return *std::min_element(runners.begin(), runners.end(),
                           [](const Runner& a, const Runner& b) { return a.best_ms < b.best_ms; });
}

/// The built-in choice stands first, and keeps its place but against a convincing gain.
template <class Runner>
std::size_t convincing_winner(const std::vector<Runner>& runners) {
  const auto best = static_cast<std::size_t>(&fastest(runners) - runners.data());
  return runners[best].best_ms < convincing * runners[0].best_ms ? best : 0;
}

}  // namespace

double time_run(Kernel& kernel, const KernelArgs& args) {
  const auto start = KernelRace::Clock::now();
  kernel.run(args);
  return std::chrono::duration<double, std::milli>(KernelRace::Clock::now() - start).count();
}

struct KernelRace::Runner {
  Contender contender;
  std::unique_ptr<Kernel> kernel = nullptr;
  double last_ms = 0;
  double first_ms = 0;
  /// Of its runs but the first, which finds cold caches and untouched pages. What disturbs a run only makes
  /// it longer: the shortest tells the most.
  double best_ms = std::numeric_limits<double>::infinity();
  bool running = true;
};

KernelRace::KernelRace(Backend& backend, Stopwatch stopwatch, Clock::time_point deadline)
    : backend_(backend),
      stopwatch_(std::move(stopwatch)),
      deadline_(deadline),
      threads_(omp_get_max_threads()) {}

KernelRace::~KernelRace() {
  for (const Block& block : blocks_) backend_.free(block.data, block.bytes);
}

bool KernelRace::has_time_for(double ms) const {
  return Clock::now() + std::chrono::duration<double, std::milli>(ms) < deadline_;
}

void* KernelRace::block(std::size_t which, std::size_t bytes, bool filled) {
  if (blocks_.size() <= which) blocks_.resize(which + 1);
  Block& block = blocks_[which];
  if (block.bytes < bytes) {
    backend_.free(block.data, block.bytes);
    block = {};
    block.data = backend_.allocate(bytes);
    block.bytes = bytes;
    if (filled) fill(block.data, bytes);
  }
  return block.data;
}

KernelArgs KernelRace::next_args(const Graph& graph, const Kernel& kernel) {
  // What a step reads was written long before: beyond the cache, two sets of operands take turns.
  std::int64_t bytes = 0;
  for (const plan::GraphValue& value : graph.values) bytes += value.bytes();
  second_set_ = !second_set_ && static_cast<std::size_t>(bytes) > l2_bytes;
  values_.clear();
  for (std::size_t i = 0; i < graph.values.size(); ++i) {
    const bool input = graph.values[i].producer < 0;
    const std::size_t set = second_set_ ? graph.values.size() : 0;
    values_.push_back(block(1 + set + i, static_cast<std::size_t>(graph.values[i].bytes()), input));
  }
  const std::size_t own = (kernel.scratch_bytes() + 63) / 64 * 64;
  const std::size_t stride = plan::Rooms::stride_of(kernel.room_bytes());
  auto* const scratch =
      static_cast<std::byte*>(block(0, own + static_cast<std::size_t>(threads_) * stride, false));
  return {.values = values_.data(), .scratch = scratch, .rooms = {.first = scratch + own, .stride = stride}};
}

double KernelRace::run_once(const Timed& timed, Runner& runner) {
  return stopwatch_(*runner.kernel, next_args(timed.graph(), *runner.kernel));
}

std::vector<KernelRace::Runner> KernelRace::warm_up(Timed& timed, const std::vector<Contender>& contenders) {
  constexpr double slow_flops_of_a_ms = 2e7;  // of one core that makes a kernel and touches new pages, too
  double expected_ms = timed.flops() / slow_flops_of_a_ms / threads_;
  std::vector<Runner> runners;
  std::exception_ptr failure;
  for (const Contender& contender : contenders) {
    Runner runner{.contender = contender};
    if (!has_time_for(expected_ms)) return {};
    try {
      runner.kernel = timed.make(contender.kernel, backend_);
    } catch (const std::exception&) {
      failure = std::current_exception();
      continue;
    }
    if (!has_time_for(0)) return {};  // making it may have taken long
    runner.first_ms = runner.last_ms = run_once(timed, runner);
    expected_ms = std::max(expected_ms, runner.first_ms);  // by now: the machine may be busy
    runners.push_back(std::move(runner));
  }
  if (runners.empty()) std::rethrow_exception(failure);
  // Less than one round tells nothing: rather let another kind have the time.
  double round_ms = 0;
  for (const Runner& runner : runners) round_ms += runner.first_ms;
  if (!has_time_for(round_ms)) return {};
  return runners;
}

bool KernelRace::run_round(const Timed& timed, std::vector<Runner>& runners) {
  for (Runner& runner : runners) {
    if (!runner.running) continue;
    if (!has_time_for(runner.last_ms)) return false;
    runner.last_ms = run_once(timed, runner);
    runner.best_ms = std::min(runner.best_ms, runner.last_ms);
  }
  return true;
}

std::vector<KernelRace::Runner> KernelRace::race(Timed& timed, const std::vector<Contender>& contenders) {
  std::vector<Runner> runners = warm_up(timed, contenders);
  if (runners.empty()) return {};
  double spent_ms = 0;
  for (int round = 1; round <= most_rounds; ++round) {
    if (!run_round(timed, runners)) return round <= least_rounds ? std::vector<Runner>() : std::move(runners);
    spent_ms += fastest(runners).best_ms;
    for (std::size_t i = 1; i < runners.size(); ++i) {
      // One run may be slow by chance, but a first and a second by so much?
      const double ms = std::min(runners[i].first_ms, runners[i].best_ms);
      const double limit = round < least_rounds ? hopelessly_slower : clearly_slower;
      runners[i].running = ms < limit * fastest(runners).best_ms;
    }
    const bool alone =
        std::none_of(runners.begin() + 1, runners.end(), [](const Runner& r) { return r.running; });
    if (alone) break;
    if (round < least_rounds) continue;
    const bool sure = convincing_winner(runners) == 0 || round >= sure_rounds;
    if (sure && spent_ms >= enough_ms) break;
  }
  return runners;
}

std::optional<TunedKernel> KernelRace::winner(Timed& timed) {
  std::vector<Contender> contenders = timed.algorithms();
  std::string others;
  std::optional<Runner> best;
  const auto settle = [&](std::vector<Runner> runners) {
    const std::size_t chosen = convincing_winner(runners);
    for (std::size_t i = 0; i < runners.size(); ++i) {
      const bool compared = i == 0 || !best.has_value();
      if (i != chosen && compared)
        others += ", " + runners[i].contender.label + " " + formatted(runners[i].best_ms);
    }
    best = std::move(runners[chosen]);
  };
  if (contenders.size() > 1) {
    std::vector<Runner> algorithms = race(timed, contenders);
    if (algorithms.empty()) return std::nullopt;
    settle(std::move(algorithms));
    contenders = {best->contender};
  }
  if (has_time_for(0)) {  // finding them takes some, too
    for (Contender& variant : timed.variants(contenders[0])) contenders.push_back(std::move(variant));
  } else if (!best.has_value()) {
    return std::nullopt;
  }
  if (contenders.size() > 1) {
    std::vector<Runner> variants = race(timed, contenders);
    if (!variants.empty()) settle(std::move(variants));
    if (!best.has_value()) return std::nullopt;
  }
  if (!best.has_value()) return contenders[0].kernel;  // nothing to choose from
  TunedKernel kernel = best->contender.kernel;
  kernel.why = "tuned: " + formatted(best->best_ms) + others + ", of " + std::to_string(timed.images()) +
               (timed.images() == 1 ? " image" : " images");
  return kernel;
}

}  // namespace fusetape::backends::cpu::tune
