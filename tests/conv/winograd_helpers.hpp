#pragma once
#include <hwy/targets.h>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "backends/cpu/storage.hpp"
#include "fusetape/dtype.hpp"
#include "tests/helpers.hpp"

/// What the tests of Winograd's kernels share: numbers as kernels read them, scratch, this machine's targets.
namespace fusetape::tests {

/// Numbers stored in f32 or bf16: only their own bytes may be read.
class Stored {
 public:
  Stored() = default;
  template <class Number>
  Stored(const std::vector<Number>& numbers, DType dtype)
      : dtype_(dtype), bytes_(numbers.size() * size_of(dtype)) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      std::byte* const to = &bytes_[i * size_of(dtype)];
      const float x = static_cast<float>(numbers[i]);
      const std::uint16_t half = core::to_bf16(x);
      if (dtype == DType::f32) std::memcpy(to, &x, sizeof x);
      if (dtype == DType::bf16) std::memcpy(to, &half, sizeof half);
    }
  }

  std::byte* data() { return bytes_.data(); }
  const float* floats() const { return reinterpret_cast<const float*>(bytes_.data()); }

  /// As it is now.
  float operator[](std::size_t i) const {
    const std::byte* const from = &bytes_[i * size_of(dtype_)];
    float x = 0;
    std::uint16_t half = 0;
    if (dtype_ == DType::f32) std::memcpy(&x, from, sizeof x);
    if (dtype_ == DType::bf16) std::memcpy(&half, from, sizeof half);
    return dtype_ == DType::f32 ? x : core::from_bf16(half);
  }
  template <class Number>
  std::vector<Number> read() const {
    std::vector<Number> now(bytes_.size() / size_of(dtype_));
    for (std::size_t i = 0; i < now.size(); ++i) now[i] = (*this)[i];
    return now;
  }

 private:
  DType dtype_ = DType::f32;
  std::vector<std::byte> bytes_;
};

/// Evenly between about − spread and about + spread.
template <class Number>
std::vector<Number> drawn(std::int64_t count, unsigned seed, Number about = 0, Number spread = 1) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<Number> any(-1, 1);
  std::vector<Number> numbers(static_cast<std::size_t>(count));
  for (Number& x : numbers) x = about + spread * any(engine);
  return numbers;
}

/// 64-byte aligned, and NaN at first: what is in it must not matter.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : bytes_(bytes), room_(bytes + 128, untouched) {
    void* place = room_.data();
    std::size_t room = room_.size();
    data_ = static_cast<std::byte*>(std::align(64, bytes + 1, place, room));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::byte* data() { return data_; }
  float* floats() { return reinterpret_cast<float*>(data_); }
  bool overrun() const { return data_[bytes_] != untouched; }

  static constexpr std::byte untouched{0xff};

 private:
  std::size_t bytes_;
  std::vector<std::byte> room_;
  std::byte* data_;
};

/// The same for each thread.
class ThreadRooms {
 public:
  ThreadRooms(std::size_t bytes, int threads)
      : bytes_(bytes),
        threads_(threads),
        stride_((bytes + 64) / 64 * 64),
        room_(static_cast<std::size_t>(threads) * stride_) {}

  operator plan::Rooms() { return {.first = room_.data(), .stride = stride_}; }
  bool overrun() {
    for (int i = 0; i < threads_; ++i) {
      if (plan::Rooms(*this)[i][bytes_] != Scratch::untouched) return true;
    }
    return room_.overrun();
  }

 private:
  std::size_t bytes_;
  int threads_;
  std::size_t stride_;
  Scratch room_;
};

/// Runs f once for each of Highway's targets that this machine has; then all of them count again.
template <class F>
void on_every_target(F&& f) {
  const std::int64_t all = hwy::SupportedTargets();
  for (const std::int64_t target : {HWY_AVX2, HWY_AVX3}) {
    if ((all & target) == 0) continue;
    // ThreadSanitizer, which takes its time, looks at threads and not at instructions.
    if (most_threads == 1 && target == HWY_AVX2 && (all & HWY_AVX3) != 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    f();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace fusetape::tests
