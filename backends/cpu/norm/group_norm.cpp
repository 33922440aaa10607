// group_norm and its gradient, with a sum and an activation behind it, f32 and 16 bits, in f32. A thread
// takes whole samples (or rows): what it reads of one more than once is still in its cache. The threads' sums
// for γ and β combine in their order.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "backends/cpu/norm/activation.hpp"
#include "core/check.hpp"
#include "core/numerics/norm_formulas.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::norm {
namespace {

using core::GroupNormAttrs;
using core::GroupView;
using plan::Graph;
using plan::Group;

/// So many are added in f32 (in vectors, which OpenMP allows the compiler), and then to a double.
constexpr std::int64_t chain = 1024;

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
void round_as_stored(DType dtype, float* row, std::int64_t count) {
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

/// y = activation(norm(x) [+ z]). What follows the norm is made of a row that is still in a cache.
class ForwardKernel final : public GroupNormBase {
 public:
  ForwardKernel(const Graph& graph, const plan::NormForward& roles)
      : GroupNormBase(graph, roles.norm[0], false), roles_(roles) {
    const int results[] = {roles.y, roles.sum, norm_.normed};
    const auto written =
        std::count_if(std::begin(results), std::end(results), [](int id) { return id >= 0; });
    writes_ = written > 0;
    tensor_passes = stays_in_cache() ? 1 : 2;
    if (writes_)
      tensor_passes += (stays_in_cache() ? 0 : 1) + (roles.z >= 0 ? 1 : 0) + static_cast<double>(written);
    if (roles.activation != nullptr) name = "cpu:group_norm_" + std::string(roles.activation->name);
  }

  void run(const KernelArgs& args) override {
    RoomCarver carver(args.rooms);
    const Room room(channels_, needs_, carver);
    const Activation activation = activation_of(roles_.activation, roles_.numbers, args);
    for_samples([&](int part, std::int64_t sample) {
      if (view_.pixels == 1) {
        one_row(args, room, activation, part, sample);
      } else {
        many_rows(args, room, activation, part, sample);
      }
    });
  }
  /// y may lie where x did; not where z does, which is read behind it.
  std::vector<std::pair<int, int>> in_place() const override {
    if (roles_.y < 0 || roles_.z == norm_.x) return {};
    return {{norm_.x, roles_.y}};
  }

 private:
  float noted(const KernelArgs& args, std::int64_t sample, std::int64_t group, double mean,
              double squares) const {
    const std::int64_t at = sample * view_.groups + group;
    const float inv_std = core::inverse_deviation(squares / count_, eps_);
    if (norm_.mean >= 0) args.out<float>(norm_.mean)[at] = static_cast<float>(mean);
    if (norm_.inv_std >= 0) args.out<float>(norm_.inv_std)[at] = inv_std;
    return inv_std;
  }

  /// Where a normalised row is made.
  float* row_room(const KernelArgs& args, const Room& room, int part, std::int64_t at) const {
    float* const buffer = room.y[part];
    return roles_.y >= 0 ? float_room(dtype_, args.out<std::byte>(roles_.y), at, buffer) : buffer;
  }
  void finish_row(const KernelArgs& args, const Room& room, const Activation& activation, int part,
                  std::int64_t at, float* row) const {
    if (norm_.normed >= 0) write(args, norm_.normed, at, row);
    if (roles_.z >= 0) {
      round_as_stored(dtype_, row, channels_);
      const float* const z = read(args, roles_.z, at, room.other[part]);
      for_elements(channels_, [=](std::int64_t c) { row[c] += z[c]; });
      if (roles_.sum >= 0) write(args, roles_.sum, at, row);
    }
    if (activation.function != nullptr) {
      round_as_stored(dtype_, row, channels_);
      activate(activation, row, nullptr, row, channels_);
    }
    if (roles_.y >= 0) write_floats(dtype_, row, args.out<std::byte>(roles_.y), at, channels_);
  }

  void one_row(const KernelArgs& args, const Room& room, const Activation& activation, int part,
               std::int64_t sample) const {
    const std::int64_t at = row_at(sample, 0);
    const float* const row = read(args, norm_.x, at, room.x[part]);
    auto* const y = row_room(args, room, part, at);
    FUSETAPE_ASSERT(y != nullptr);
    for (std::int64_t group = 0; group < view_.groups; ++group) {
      const std::int64_t first = group * view_.width;
      const float *const x = row + first, *const gamma = args.in<float>(norm_.gamma) + first,
                         *const beta = args.in<float>(norm_.beta) + first;
      const double exact = one_sum(view_.width, [x](std::int64_t i) { return x[i]; }) / count_;
      const auto mean = static_cast<float>(exact);
      const double squares =
          one_sum(view_.width, [x, mean](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); });
      const float inv_std = noted(args, sample, group, exact, squares);
      if (!writes_) continue;
      for_elements(view_.width, [=, to = y + first](std::int64_t i) {
        to[i] = core::normalised(x[i], mean, core::norm_scale(gamma[i], inv_std), beta[i]);
      });
    }
    if (writes_) finish_row(args, room, activation, part, at, y);
  }

  void many_rows(const KernelArgs& args, const Room& room, const Activation& activation, int part,
                 std::int64_t sample) const {
    float *const mean = room.mean[part], *const a = room.a[part];
    double* const totals = room.first[part];
    const auto sum_rows = [&](auto value) {
      ChannelSums sums(room.first_chain[part], totals, channels_);
      for (std::int64_t p = 0; p < view_.pixels; ++p) {
        const float* const x = read(args, norm_.x, row_at(sample, p), room.x[part]);
        float* const sum = sums.row();
        for_elements(channels_, [=](std::int64_t c) { sum[c] += value(x[c], mean[c]); });
      }
      sums.flush();
    };
    const auto total_of = [&](std::int64_t group) {
      double total = 0;
      for (std::int64_t i = 0; i < view_.width; ++i) total += totals[group * view_.width + i];
      return total;
    };
    std::fill_n(mean, channels_, 0.0F);
    sum_rows([](float x, float) { return x; });
    for (std::int64_t group = 0; group < view_.groups; ++group)
      std::fill_n(mean + group * view_.width, view_.width, static_cast<float>(total_of(group) / count_));
    sum_rows([](float x, float m) { return (x - m) * (x - m); });
    const auto *const gamma = args.in<float>(norm_.gamma), *const beta = args.in<float>(norm_.beta);
    for (std::int64_t group = 0; group < view_.groups; ++group) {
      const std::int64_t first = group * view_.width;
      const float inv_std = noted(args, sample, group, static_cast<double>(mean[first]), total_of(group));
      for (std::int64_t c = first; c < first + view_.width; ++c) a[c] = core::norm_scale(gamma[c], inv_std);
    }
    for (std::int64_t p = 0; p < view_.pixels && writes_; ++p) {
      const std::int64_t at = row_at(sample, p);
      const float* const x = read(args, norm_.x, at, room.x[part]);
      auto* const y = row_room(args, room, part, at);
      for_elements(channels_, [=](std::int64_t c) { y[c] = core::normalised(x[c], mean[c], a[c], beta[c]); });
      finish_row(args, room, activation, part, at, y);
    }
  }

  plan::NormForward roles_;
  bool writes_ = true;  ///< more than the statistics
};

/// From g' = (g [+ g2])·mask, or an activation's gradient: dx = (γ·g' − (b·(x − mean) + c))/√(σ²+ε), of a
/// group b and c from Σγ·g' and Σγ·g'·(x − mean). The difference comes first: it is 0 for a group of one
/// value.
class BackwardKernel final : public GroupNormBase {
 public:
  BackwardKernel(const Graph& graph, const plan::NormBackward& roles)
      : GroupNormBase(graph, roles.norm[0], true),
        roles_(roles),
        masks_(roles.gradient != nullptr || roles.y >= 0 || roles.recompute),
        is_made_(masks_ || roles.g2 >= 0) {
    // Where g' is made, the second pass over a sample finds it here.
    if (is_made_) staged_ = roles.masked >= 0 ? roles.masked : norm_.dx;
    const int read_once = (roles.g2 >= 0 ? 1 : 0) + (roles.y >= 0 ? 1 : 0) + (roles.masked >= 0 ? 1 : 0);
    tensor_passes = 2 + read_once + (norm_.dx >= 0 ? (stays_in_cache() ? 1 : 3) : 0);
    if (waits_in_dx() && !stays_in_cache()) tensor_passes += 1;
    if (masks_) {
      name = "cpu:group_norm_" +
             (roles.gradient != nullptr ? std::string(roles.gradient->name) : std::string("relu_grad"));
    }
  }

  void run(const KernelArgs& args) override {
    RoomCarver carver(args.rooms);
    const Room room(channels_, needs_, carver);
    Gradient gradient{.of = activation_of(roles_.gradient, roles_.numbers, args)};
    // It reads what the activation gives where it saves that, else what that reads.
    if (roles_.recompute && roles_.gradient != nullptr && roles_.gradient->gradient_of->saves_outputs != 0)
      gradient.before = activation_of(roles_.gradient->gradient_of, roles_.numbers, args);
    for_parts(parts_, [&](int part) {
      ChannelSums gamma(room.gamma_chain[part], room.gamma_total[part], channels_);
      ChannelSums beta(room.beta_chain[part], room.beta_total[part], channels_);
      const std::int64_t end = view_.outer * (part + 1) / parts_;
      for (std::int64_t sample = view_.outer * part / parts_; sample < end; ++sample) {
        if (is_made_ || view_.pixels != 1) take_factors(args, room, part, sample);
        if (view_.pixels == 1) {
          one_row(args, room, gradient, part, sample, gamma.row(), beta.row());
        } else {
          many_rows(args, room, gradient, part, sample);
        }
      }
      gamma.flush();
      beta.flush();
    });
    for (std::int64_t c = 0; c < channels_; ++c) {
      double dgamma = 0, dbeta = 0;
      for (int part = 0; part < parts_; ++part) {
        dgamma += room.gamma_total[part][c];
        dbeta += room.beta_total[part][c];
      }
      if (norm_.dgamma >= 0) args.out<float>(norm_.dgamma)[c] = static_cast<float>(dgamma);
      if (norm_.dbeta >= 0) args.out<float>(norm_.dbeta)[c] = static_cast<float>(dbeta);
    }
  }
  std::vector<std::pair<int, int>> in_place() const override {
    if (norm_.dx < 0) return {};
    // The second pass over a sample reads x, which a staged g' would lie over.
    if (waits_in_dx()) {
      if (roles_.g == norm_.x) return {};
      return {{roles_.g, norm_.dx}};
    }
    return {{roles_.g, norm_.dx}, {norm_.x, norm_.dx}};
  }

 private:
  struct Gradient {
    Activation of, before;
  };

  bool waits_in_dx() const { return staged_ >= 0 && staged_ == norm_.dx && view_.pixels != 1; }
  float statistic(const KernelArgs& args, int value, std::int64_t sample, std::int64_t group) const {
    return args.in<float>(value)[sample * view_.groups + group];
  }
  struct Factors {
    float b, c;
  };
  Factors factors(float inv_std, double sum, double with_apart) const {
    const auto inverse = static_cast<double>(inv_std);
    return {static_cast<float>(inverse * inverse * with_apart / count_), static_cast<float>(sum / count_)};
  }

  /// Mean and scale of each channel, as forward had them.
  void take_factors(const KernelArgs& args, const Room& room, int part, std::int64_t sample) const {
    const auto* const gamma = args.in<float>(norm_.gamma);
    for (std::int64_t c = 0; c < channels_; ++c) {
      room.mean[part][c] = statistic(args, norm_.mean, sample, c / view_.width);
      room.a[part][c] = core::norm_scale(gamma[c], statistic(args, norm_.inv_std, sample, c / view_.width));
    }
  }

  /// g' of a row.
  const float* gradient_row(const KernelArgs& args, const Room& room, const Gradient& gradient, int part,
                            std::int64_t at, const float* x) const {
    if (!is_made_) return read(args, roles_.g, at, room.g[part]);
    float *const row = room.g[part], *const other = room.other[part];
    const float* const g = read(args, roles_.g, at, row);
    if (roles_.g2 >= 0) {
      const float* const g2 = read(args, roles_.g2, at, other);
      for_elements(channels_, [=](std::int64_t c) { row[c] = g[c] + g2[c]; });
      round_as_stored(dtype_, row, channels_);
    } else if (g != row) {
      std::copy_n(g, channels_, row);
    }
    if (masks_) {
      const float* by = other;
      if (roles_.recompute) {
        const float *const mean = room.mean[part], *const a = room.a[part],
                           *const beta = args.in<float>(norm_.beta);
        for_elements(channels_,
                     [=](std::int64_t c) { other[c] = core::normalised(x[c], mean[c], a[c], beta[c]); });
        round_as_stored(dtype_, other, channels_);
        if (gradient.before.function != nullptr) {
          activate(gradient.before, other, nullptr, other, channels_);
          round_as_stored(dtype_, other, channels_);
        }
      } else {
        by = read(args, roles_.y, at, other);
      }
      if (gradient.of.function != nullptr) {
        activate(gradient.of, row, by, row, channels_);
      } else {
        for_elements(channels_, [=](std::int64_t c) { row[c] = by[c] <= 0 ? 0 : row[c]; });
      }
      round_as_stored(dtype_, row, channels_);
    }
    if (roles_.masked >= 0) write(args, roles_.masked, at, row);
    return row;
  }

  void one_row(const KernelArgs& args, const Room& room, const Gradient& gradient, int part,
               std::int64_t sample, float* dgamma, float* dbeta) const {
    const std::int64_t at = row_at(sample, 0);
    const float* const x_row = read(args, norm_.x, at, room.x[part]);
    const float* const g_row = gradient_row(args, room, gradient, part, at, x_row);
    auto* const dx =
        norm_.dx >= 0 ? float_room(dtype_, args.out<std::byte>(norm_.dx), at, room.y[part]) : room.y[part];
    for (std::int64_t group = 0; group < view_.groups; ++group) {
      const std::int64_t first = group * view_.width;
      const float *const g = g_row + first, *const x = x_row + first,
                         *const gamma = args.in<float>(norm_.gamma) + first;
      const float mean = statistic(args, norm_.mean, sample, group),
                  inv_std = statistic(args, norm_.inv_std, sample, group);
      const auto [sum, with_apart] = two_sums(
          view_.width, [=](std::int64_t i) { return g[i] * gamma[i]; },
          [=](std::int64_t i) { return g[i] * gamma[i] * (x[i] - mean); });
      const Factors of_group = factors(inv_std, sum, with_apart);
      const float b = of_group.b, c = of_group.c;
      for_elements(view_.width,
                   [=, to = dx + first, to_gamma = dgamma + first, to_beta = dbeta + first](std::int64_t i) {
                     const float apart = x[i] - mean, gradient_here = g[i];
                     to_gamma[i] += gradient_here * (apart * inv_std);
                     to_beta[i] += gradient_here;
                     to[i] = inv_std * (gradient_here * gamma[i] - (apart * b + c));
                   });
    }
    if (norm_.dx >= 0) write_floats(dtype_, dx, args.out<std::byte>(norm_.dx), at, channels_);
  }

  void many_rows(const KernelArgs& args, const Room& room, const Gradient& gradient, int part,
                 std::int64_t sample) const {
    float *const mean = room.mean[part], *const a = room.a[part], *const b = room.b[part],
                 *const shift = room.c[part];
    double *const sum_g = room.first[part], *const sum_apart = room.second[part];
    ChannelSums of_g(room.first_chain[part], sum_g, channels_),
        of_apart(room.second_chain[part], sum_apart, channels_);
    for (std::int64_t p = 0; p < view_.pixels; ++p) {
      const std::int64_t at = row_at(sample, p);
      const float* const x = read(args, norm_.x, at, room.x[part]);
      const float* const g = gradient_row(args, room, gradient, part, at, x);
      if (staged_ >= 0 && staged_ != roles_.masked) write(args, staged_, at, g);
      float *const first = of_g.row(), *const second = of_apart.row();
      for_elements(channels_, [=](std::int64_t c) {
        first[c] += g[c];
        second[c] += g[c] * (x[c] - mean[c]);
      });
    }
    of_g.flush();
    of_apart.flush();
    const auto* const gamma = args.in<float>(norm_.gamma);
    for (std::int64_t group = 0; group < view_.groups; ++group) {
      const float inv_std = statistic(args, norm_.inv_std, sample, group);
      const std::int64_t begin = group * view_.width, end = begin + view_.width;
      double sum = 0, with_apart = 0;
      for (std::int64_t c = begin; c < end; ++c) {
        sum += static_cast<double>(gamma[c]) * sum_g[c];
        with_apart += static_cast<double>(gamma[c]) * sum_apart[c];
        room.gamma_total[part][c] += sum_apart[c] * static_cast<double>(inv_std);
        room.beta_total[part][c] += sum_g[c];
        a[c] = inv_std;
      }
      const Factors of_group = factors(inv_std, sum, with_apart);
      std::fill(b + begin, b + end, of_group.b);
      std::fill(shift + begin, shift + end, of_group.c);
    }
    if (norm_.dx < 0) return;
    for (std::int64_t p = 0; p < view_.pixels; ++p) {
      const std::int64_t at = row_at(sample, p);
      const float *const g = read(args, staged_ >= 0 ? staged_ : roles_.g, at, room.g[part]),
                         *const x = read(args, norm_.x, at, room.x[part]);
      auto* const dx = float_room(dtype_, args.out<std::byte>(norm_.dx), at, room.y[part]);
      for_elements(channels_, [=](std::int64_t c) {
        dx[c] = a[c] * (g[c] * gamma[c] - ((x[c] - mean[c]) * b[c] + shift[c]));
      });
      write_floats(dtype_, dx, args.out<std::byte>(norm_.dx), at, channels_);
    }
  }

  plan::NormBackward roles_;
  bool masks_, is_made_;
  int staged_ = -1;  ///< where g' waits; -1: it is g
};

Support supports(const Graph& graph, const Group& group) {
  const auto* const forward = group.as<plan::NormForward>();
  const auto* const backward = group.as<plan::NormBackward>();
  const bool is_forward = forward != nullptr && forward->statistics == plan::Statistics::sample;
  const bool is_backward =
      backward != nullptr && graph.node(backward->norm[0].node).is(ops::group_norm_grad_op);
  if (!is_forward && !is_backward) return {.ok = false, .reason = {}};
  const plan::NormRoles& norm = is_forward ? forward->norm[0] : backward->norm[0];
  const DType dtype = graph.value(norm.x).dtype;
  if (!is_f32_or_half(dtype)) return {.ok = false, .reason = "f32 and 16 bits only, not f64"};
  if ((is_forward ? forward->mask : backward->mask) >= 0)
    return {.ok = false, .reason = "group norm's ReLU has no mask as bits"};
  const Shape& shape = graph.value(norm.x).shape;
  const int others[] = {is_forward ? forward->z : backward->g2, is_forward ? forward->y : backward->g};
  for (const int value : others) {
    if (value < 0) continue;
    if (graph.value(value).shape != shape || graph.value(value).dtype != dtype)
      return {.ok = false, .reason = "an operand of another shape or dtype"};
  }
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  if (const auto* forward = group.as<plan::NormForward>())
    return std::make_unique<ForwardKernel>(graph, *forward);
  return std::make_unique<BackwardKernel>(graph, *group.as<plan::NormBackward>());
}

constexpr Candidate candidates[] = {{"cpu:group_norm", supports, make}};

}  // namespace

std::span<const Candidate> group_norms() { return candidates; }

}  // namespace fusetape::backends::cpu::norm
