#pragma once
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <vector>

/// How far apart two cores are: what threads of one step pay for each line that they hand over.
namespace benchmarks {

/// The first two CPUs that this process may run on; fewer where it has fewer.
inline std::vector<int> first_cpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  std::vector<int> cpus;
  if (pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE && cpus.size() < 2; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) cpus.push_back(cpu);
  }
  return cpus;
}

/// Nanoseconds until one core sees what the other wrote, the mean of 20,000 exchanges each way; nullopt:
/// there is one CPU. The hypervisor of a virtual machine may move its CPUs at any time: measure before and
/// after.
inline std::optional<double> one_way_ns() {
  using Clock = std::chrono::steady_clock;
  constexpr int exchanges = 20'000;
  const std::vector<int> cpus = first_cpus();
  if (cpus.size() < 2) return std::nullopt;
  alignas(128) std::atomic<int> ball{0};
  const auto play = [&](int cpu, int first) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    for (int i = first; i < 2 * exchanges; i += 2) {
      while (ball.load(std::memory_order_acquire) != i) {
      }
      ball.store(i + 1, std::memory_order_release);
    }
  };
  std::thread far([&] { play(cpus[1], 1); });
  double ns = 0;
  std::thread near([&] {
    const Clock::time_point start = Clock::now();
    play(cpus[0], 0);
    ns = std::chrono::duration<double, std::nano>(Clock::now() - start).count() / (2 * exchanges);
  });
  near.join();
  far.join();
  return ns;
}

/// Of the two measurements around a run.
struct CoreLatency {
  std::optional<double> before, after;

  /// "two cores one-way: 45 ns before, 190 ns after (below 100 they share a cache)"
  std::string text() const {
    if (!before || !after) return "one CPU";
    char line[128];
    std::snprintf(line, sizeof line,
                  "two cores one-way: %.0f ns before, %.0f ns after (below 100 they share a cache)", *before,
                  *after);
    return line;
  }
};

}  // namespace benchmarks
