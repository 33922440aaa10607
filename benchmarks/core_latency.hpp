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

/// Nanoseconds until one core sees what the other wrote, the mean of up to 20,000 exchanges each way within
/// 100 ms (on a machine where others run, threads may wait for their turn); nullopt: there is one CPU. The
/// hypervisor of a virtual machine may move its CPUs at any time: measure before and after.
inline std::optional<double> one_way_ns() {
  using Clock = std::chrono::steady_clock;
  constexpr int exchanges = 20'000, end = -1;
  constexpr auto most = std::chrono::milliseconds(100);
  const std::vector<int> cpus = first_cpus();
  if (cpus.size() < 2) return std::nullopt;
  alignas(128) std::atomic<int> ball{0};
  const auto pin = [](int cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
  };
  std::thread far([&] {
    pin(cpus[1]);
    for (int seen = 0; seen != end; seen = ball.load(std::memory_order_acquire)) {
      if (seen % 2 != 0) ball.store(seen + 1, std::memory_order_release);
    }
  });
  double ns = 0;
  std::thread near([&] {
    pin(cpus[0]);
    const Clock::time_point start = Clock::now();
    int done = 0;
    while (done < exchanges && (done % 64 != 0 || Clock::now() - start < most)) {
      ball.store(2 * done + 1, std::memory_order_release);
      while (ball.load(std::memory_order_acquire) != 2 * done + 2) {
      }
      ++done;
    }
    ns = std::chrono::duration<double, std::nano>(Clock::now() - start).count() / (2 * done);
    ball.store(end, std::memory_order_release);
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
