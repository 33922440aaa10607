#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <utility>

#include "backends/backend.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "core/op/op_attrs.hpp"

/// What the kernels of group_norm and of its gradient share, f32 and 16 bits, in f32. A thread takes whole
/// samples (or rows): what it reads of one more than once is still in its cache.
namespace fusetape::backends::cpu::norm {

std::unique_ptr<Kernel> make_group_norm_forward(const plan::Graph& graph, const plan::NormForward& roles);
std::unique_ptr<Kernel> make_group_norm_backward(const plan::Graph& graph, const plan::NormBackward& roles);

using core::GroupNormAttrs;
using core::GroupView;
using plan::Graph;

/// So many are added in f32 (in vectors, which OpenMP allows the compiler), and then to a double.
inline constexpr std::int64_t chain = 1024;

/// Σ value(i) and Σ other(i), i < count.
template <class Value, class Other>
std::pair<double, double> two_sums(std::int64_t count, Value value, Other other) {
  double first = 0, second = 0;
  for (std::int64_t begin = 0; begin < count; begin += chain) {
    const std::int64_t end = std::min(count, begin + chain);
    float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (std::int64_t i = begin; i < end; ++i) {
      a += value(i);
      b += other(i);
    }
    first += static_cast<double>(a);
    second += static_cast<double>(b);
  }
  return {first, second};
}
/// For each of so many elements; the results may lie where the operands do.
template <class F>
void for_elements(std::int64_t count, F f) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) f(i);
}
template <class Value>
double one_sum(std::int64_t count, Value value) {
  return two_sums(count, value, [](std::int64_t) { return 0.0F; }).first;
}

/// Σ over the rows of a sample, of each channel: f32 over a few rows, then doubles.
class ChannelSums {
 public:
  ChannelSums(float* chain_sums, double* totals, std::int64_t channels)
      : chain_(chain_sums), totals_(totals), channels_(channels) {
    std::fill_n(chain_, channels_, 0.0F);
    std::fill_n(totals_, channels_, 0.0);
  }
  float* row() {
    if (++rows_ > 64) flush();
    return chain_;
  }
  void flush() {
    for (std::int64_t c = 0; c < channels_; ++c) totals_[c] += static_cast<double>(chain_[c]);
    std::fill_n(chain_, channels_, 0.0F);
    rows_ = 1;
  }

 private:
  float* chain_;
  double* totals_;
  std::int64_t channels_, rows_ = 0;
};

/// What is stored between two ops of a group, and read again.
inline void round_as_stored(DType dtype, float* row, std::int64_t count) {
  if (dtype == DType::f32) return;
  constexpr std::int64_t most = 512;
  std::uint16_t stored[most];
  for (std::int64_t at = 0; at < count; at += most) {
    const auto some = static_cast<std::size_t>(std::min(most, count - at));
    store_block(dtype, row + at, stored, some);
    load_block(dtype, stored, row + at, some);
  }
}

/// A thread's room.
struct Room {
  InRooms<float> x, g, y, other;             ///< a row, widened or made
  InRooms<float> mean, a, b, c;              ///< of the sample, for each channel
  InRooms<float> first_chain, second_chain;  ///< of a sample
  InRooms<double> first, second;             ///< the same
  InRooms<float> gamma_chain, beta_chain;    ///< of all samples
  InRooms<double> gamma_total, beta_total;

  struct Needs {
    bool samples, gradient;  ///< more than one row a sample; of the gradient
  };
  Room(std::int64_t channels, Needs needs, RoomCarver& carver) {
    const auto take = [&]<class T>(bool wanted, std::initializer_list<InRooms<T>*> parts) {
      for (InRooms<T>* part : parts) *part = carver.take<T>(wanted ? channels : 0);
    };
    take(true, {&x, &y, &other});
    take(needs.gradient, {&g});
    take(needs.samples || needs.gradient, {&mean, &a});
    take(needs.samples, {&first_chain});
    take(needs.samples && needs.gradient, {&b, &c, &second_chain});
    take(needs.gradient, {&gamma_chain, &beta_chain});
    take(needs.samples, {&first});
    take(needs.samples && needs.gradient, {&second});
    take(needs.gradient, {&gamma_total, &beta_total});
  }
};

class GroupNormBase : public Kernel {
 public:
  GroupNormBase(const Graph& graph, const plan::NormRoles& norm, bool gradient)
      : norm_(norm),
        view_(graph.value(norm.x).shape, graph.node(norm.node).attrs.as<GroupNormAttrs>()),
        eps_(graph.node(norm.node).attrs.as<GroupNormAttrs>().eps),
        dtype_(graph.value(norm.x).dtype),
        channels_(view_.groups * view_.width),
        count_(static_cast<double>(std::max<std::int64_t>(1, view_.pixels * view_.width))),
        needs_{.samples = view_.pixels != 1, .gradient = gradient} {
    const std::int64_t wanted = std::max<std::int64_t>(1, graph.value(norm.x).elements() >> 13);
    parts_ = static_cast<int>(
        std::min<std::int64_t>({omp_get_max_threads(), wanted, std::max<std::int64_t>(1, view_.outer)}));
  }

  std::size_t room_bytes() const override {
    RoomCarver carver(plan::Rooms{});
    const Room room(channels_, needs_, carver);
    return carver.used();
  }
  bool can_fail() const override { return false; }

 protected:
  /// Whether what is read of a sample again is still in a core's cache.
  bool stays_in_cache() const { return view_.pixels * channels_ <= std::int64_t{1} << 17; }
  std::int64_t row_at(std::int64_t sample, std::int64_t pixel) const {
    return (sample * view_.pixels + pixel) * channels_;
  }
  template <class F>
  void for_samples(F f) const {
    for_parts(parts_, [&](int part) {
      const std::int64_t end = view_.outer * (part + 1) / parts_;
      for (std::int64_t sample = view_.outer * part / parts_; sample < end; ++sample) f(part, sample);
    });
  }
  const float* read(const KernelArgs& args, int value, std::int64_t at, float* buffer) const {
    return read_floats(dtype_, args.in<std::byte>(value), at, channels_, buffer);
  }
  void write(const KernelArgs& args, int value, std::int64_t at, const float* row) const {
    store_block(dtype_, row, args.out<std::byte>(value) + at * static_cast<std::int64_t>(size_of(dtype_)),
                static_cast<std::size_t>(channels_));
  }

  plan::NormRoles norm_;
  GroupView view_;
  double eps_;
  DType dtype_;
  std::int64_t channels_;
  double count_;
  Room::Needs needs_;
  int parts_ = 1;
};

}  // namespace fusetape::backends::cpu::norm
