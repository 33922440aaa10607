#pragma once
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <limits>
#include <memory>
#include <string>

/// What the machine does in a second, measured: the yardstick of compare_fusion --profile.
namespace examples {

namespace ft = fusetape;

struct MachineSpeed {
  double bytes = 0;       ///< read and written
  double flops = 0;       ///< f32
  double half_flops = 0;  ///< bf16; at least those of f32
  std::string how;        ///< the three were measured
};

template <class Body>
double least_seconds(int times, Body&& body) {
  using Clock = std::chrono::steady_clock;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < times; ++i) {
    const Clock::time_point start = Clock::now();
    body();
    least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return least;
}

inline constexpr std::size_t stream_bytes = std::size_t{256} << 20;  // far beyond the caches

/// Every thread reads its part of a buffer and writes it back. In place: a store elsewhere would first read
/// the line that it overwrites.
inline double measured_bandwidth(int threads) {
  const auto count = static_cast<std::int64_t>(stream_bytes / sizeof(float));
  const std::unique_ptr<float[]> values(new float[stream_bytes / sizeof(float)]);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t i = 0; i < count; ++i) values[i] = 1;
  const double seconds = least_seconds(5, [&] {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t i = 0; i < count; ++i) values[i] = -values[i];
  });
  return 2 * static_cast<double>(stream_bytes) / seconds;
}

/// As many chains of fma as hide its latency, in registers: 8 with two units of four cycles, and some more.
inline constexpr int chains = 12;

inline float fma_chains_256(std::int64_t rounds) {
  const __m256 half = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1);
  __m256 sum[chains];
  for (__m256& chain : sum) chain = one;
  for (std::int64_t round = 0; round < rounds; ++round) {
    for (__m256& chain : sum) chain = _mm256_fmadd_ps(chain, half, one);
  }
  __m256 total = sum[0];
  for (const __m256& chain : sum) total += chain;
  return _mm256_cvtss_f32(total);
}

[[gnu::target("avx512f")]] inline float fma_chains_512(std::int64_t rounds) {
  const __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1);
  __m512 sum[chains];
  for (__m512& chain : sum) chain = one;
  for (std::int64_t round = 0; round < rounds; ++round) {
    for (__m512& chain : sum) chain = _mm512_fmadd_ps(chain, half, one);
  }
  __m512 total = sum[0];
  for (const __m512& chain : sum) total += chain;
  return _mm512_cvtss_f32(total);
}

inline double measured_flops(int threads) {
  const bool wide = __builtin_cpu_supports("avx512f") != 0;
  constexpr std::int64_t rounds = 1'000'000;
  double sum = 0;  // read below, so that no loop is left out
  const double seconds = least_seconds(5, [&] {
#pragma omp parallel num_threads(threads) reduction(+ : sum)
    sum += static_cast<double>(wide ? fma_chains_512(rounds) : fma_chains_256(rounds));
  });
  const double per_thread = 2.0 * chains * (wide ? 16 : 8) * static_cast<double>(rounds);
  return sum > 0 ? threads * per_thread / seconds : 0;
}

/// A large matrix product of the library, which knows what instructions for bf16 the processor has.
inline double measured_half_flops() {
  constexpr std::int64_t size = 2048;
  const ft::NoGrad no_history;
  const ft::Tensor a = ft::cast(ft::randn({size, size}), ft::DType::bf16);
  ft::materialize({a});
  const double seconds = least_seconds(4, [&] { ft::materialize({ft::matmul(a, a)}); });
  constexpr double n = size;
  return 2 * n * n * n / seconds;
}

/// On so many threads; bf16's peak only `with_half`.
inline MachineSpeed measure_machine(int threads, bool with_half) {
  MachineSpeed speed;
  speed.bytes = measured_bandwidth(threads);
  speed.flops = measured_flops(threads);
  speed.half_flops = with_half ? std::max(speed.flops, measured_half_flops()) : speed.flops;
  speed.how = "256 MiB negated in place; fma in registers";
  if (with_half) speed.how += "; a bf16 matmul of 2048";
  return speed;
}

}  // namespace examples
