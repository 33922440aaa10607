#pragma once
#include <doctest/doctest.h>

#include <atomic>
#include <filesystem>
#include <utility>

#include "backends/cpu/tune/tuner.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

/// The choice of convolution kernels by a clock that a test makes.
namespace fusetape::tests {

/// Kernels take these milliseconds, by the beginning of their name.
struct Times {
  double winograd = 1, direct = 1;
  double patches = 1e9;
  double carried = 1, apart = 1;  ///< a convolution and the norms around it: in one kernel, in several
  bool run = true;                ///< the kernels that are timed
};

/// The process's tuner, and what this thread took of it, made anew for a scope.
class Tuning {
 public:
  explicit Tuning(Times times, std::filesystem::path file = {}, double deadline_ms = 1e9,
                  double budget_ms = 1e9) {
    start_over({.file = std::move(file),
                .deadline_ms = deadline_ms,
                .carried_ms = deadline_ms,
                .budget_ms = budget_ms,
                .stopwatch = [this, times](Kernel& kernel, const KernelArgs& args) {
                  ++runs;
                  if (times.run) kernel.run(args);
                  if (kernel.name == "carried") return times.carried;
                  if (kernel.name == "apart") return times.apart;
                  if (kernel.name == "highway:patches") return times.patches;
                  return kernel.name.starts_with("highway:winograd") ? times.winograd : times.direct;
                }});
    set_tuning(true);
  }
  ~Tuning() {
    set_tuning(before_);
    start_over({.file = {}});
  }
  Tuning(const Tuning&) = delete;
  Tuning& operator=(const Tuning&) = delete;

  std::atomic<int> runs = 0;

 private:
  using Kernel = backends::Kernel;
  using KernelArgs = backends::KernelArgs;
  static void start_over(backends::cpu::tune::Tuner::Settings settings) {
    backends::cpu::tune::process_tuner().start_over(std::move(settings));
    set_kernel_choices({});
    clear_plan_cache();
  }

  bool before_ = tuning_enabled();
};

inline constexpr Conv2dOptions same{.padding = {1, 1}};

/// A convolution of 16 channels, which are Winograd's to take, by the built-in order.
inline Tensor convolved(std::int64_t images = 2) {
  const Tensor x = ones({images, 16, 16, 16}), w = ones({16, 3, 3, 16});
  materialize({x, w});
  return conv2d(x, w, same);
}

/// Runs it.
inline GroupReport convolve(std::int64_t images = 2, ConvAlgorithm forced = ConvAlgorithm::automatic) {
  const OnBackend backend("cpu");
  const ConvBy algorithm(forced);
  CHECK(convolved(images).to_vector()[0] == doctest::Approx(4 * 16).epsilon(1e-4));
  return explain().groups.back();
}

inline bool by_winograd(const GroupReport& group) { return group.kernel.starts_with("highway:winograd"); }

}  // namespace fusetape::tests
