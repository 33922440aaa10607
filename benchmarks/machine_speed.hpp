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
namespace benchmarks {

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

/// Sums of two products of bf16, in f32.
[[gnu::target("avx512f,avx512bf16")]] inline float bf16_chains_512(std::int64_t rounds) {
  const __m512bh zero = reinterpret_cast<__m512bh>(_mm512_setzero_si512());
  __m512 sum[chains];
  for (__m512& chain : sum) chain = _mm512_set1_ps(1);
  for (std::int64_t round = 0; round < rounds; ++round) {
    for (__m512& chain : sum) chain = _mm512_dpbf16_ps(chain, zero, zero);
  }
  __m512 total = sum[0];
  for (const __m512& chain : sum) total += chain;
  return _mm512_cvtss_f32(total);
}

/// `loop` on every thread; one round of one chain is so many operations.
inline double measured_flops(int threads, float (*loop)(std::int64_t), int operations) {
  constexpr std::int64_t rounds = 1'000'000;
  double sum = 0;  // read below, so that no loop is left out
  const double seconds = least_seconds(5, [&] {
#pragma omp parallel num_threads(threads) reduction(+ : sum)
    sum += static_cast<double>(loop(rounds));
  });
  return sum > 0 ? static_cast<double>(rounds) * threads * chains * operations / seconds : 0;
}

/// A large matrix product of the library, which may have better instructions than vectors'.
inline double measured_bf16_matmul() {
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
  const bool wide = __builtin_cpu_supports("avx512f") != 0;
  speed.flops =
      wide ? measured_flops(threads, fma_chains_512, 32) : measured_flops(threads, fma_chains_256, 16);
  speed.half_flops = speed.flops;
  speed.how = "256 MiB negated in place; fma in registers";
  if (!with_half) return speed;
  speed.half_flops = std::max(speed.half_flops, measured_bf16_matmul());
  if (__builtin_cpu_supports("avx512bf16") != 0)
    speed.half_flops = std::max(speed.half_flops, measured_flops(threads, bf16_chains_512, 64));
  speed.how += "; bf16: the best of a matmul of 2048, vdpbf16ps in registers and f32";
  return speed;
}

}  // namespace benchmarks
