// group_norm and its gradient, f32 and 16 bits, in f32. A thread takes whole samples (or rows): what it reads
// of one more than once is still in its cache. The threads' sums for γ and β combine in their order.
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "core/check.hpp"
#include "core/numerics/norm_formulas.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::norm {
namespace {

using core::GroupNormAttrs;
using core::GroupView;
using plan::Graph;
using plan::GraphNode;
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

/// A thread's room.
struct Room {
  InRooms<float> x, g, y;                    ///< a row, widened
  InRooms<float> mean, a, b, c;              ///< of the sample, for each channel
  InRooms<float> first_chain, second_chain;  ///< of a sample
  InRooms<double> first, second;             ///< the same
  InRooms<float> gamma_chain, beta_chain;    ///< of all samples
  InRooms<double> gamma_total, beta_total;

  struct Needs {
    bool widened, samples, gradient;  ///< 16 bits; more than one row a sample; of the gradient
  };
  Room(std::int64_t channels, Needs needs, RoomCarver& carver) {
    const auto take = [&]<class T>(bool wanted, std::initializer_list<InRooms<T>*> parts) {
      for (InRooms<T>* part : parts) *part = carver.take<T>(wanted ? channels : 0);
    };
    take(needs.widened, {&x, &y});
    take(needs.widened && needs.gradient, {&g});
    take(needs.samples, {&mean, &a, &first_chain});
    take(needs.samples && needs.gradient, {&b, &c, &second_chain});
    take(needs.gradient, {&gamma_chain, &beta_chain});
    take(needs.samples, {&first});
    take(needs.samples && needs.gradient, {&second});
    take(needs.gradient, {&gamma_total, &beta_total});
  }
};

class GroupNormBase : public Kernel {
 public:
  GroupNormBase(const Graph& graph, const GraphNode& node, int x, bool gradient)
      : view_(graph.value(x).shape, node.attrs.as<GroupNormAttrs>()),
        eps_(node.attrs.as<GroupNormAttrs>().eps),
        dtype_(graph.value(x).dtype),
        channels_(view_.groups * view_.width),
        count_(static_cast<double>(std::max<std::int64_t>(1, view_.pixels * view_.width))),
        needs_{.widened = dtype_ != DType::f32, .samples = view_.pixels != 1, .gradient = gradient} {
    const std::int64_t wanted = std::max<std::int64_t>(1, graph.value(x).elements() >> 13);
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

  GroupView view_;
  double eps_;
  DType dtype_;
  std::int64_t channels_;
  double count_;
  Room::Needs needs_;
  int parts_ = 1;
};

class ForwardKernel final : public GroupNormBase {
 public:
  ForwardKernel(const Graph& graph, const GraphNode& node)
      : GroupNormBase(graph, node, node.inputs[0], false), in_(node.inputs), out_(node.outputs) {
    tensor_passes = stays_in_cache() ? 2 : 4;
  }

  void run(const KernelArgs& args) override {
    RoomCarver carver(args.rooms);
    const Room room(channels_, needs_, carver);
    for_samples([&](int part, std::int64_t sample) {
      if (view_.pixels == 1) {
        one_row(args, room, part, sample);
      } else {
        many_rows(args, room, part, sample);
      }
    });
  }
  std::vector<std::pair<int, int>> in_place() const override { return {{in_[0], out_[0]}}; }

 private:
  const float* read(const KernelArgs& args, std::int64_t at, float* buffer) const {
    return read_floats(dtype_, args.in<std::byte>(in_[0]), at, channels_, buffer);
  }
  float noted(const KernelArgs& args, std::int64_t sample, std::int64_t group, double mean,
              double squares) const {
    const std::int64_t at = sample * view_.groups + group;
    args.out<float>(out_[1])[at] = static_cast<float>(mean);
    return args.out<float>(out_[2])[at] = core::inverse_deviation(squares / count_, eps_);
  }

  void one_row(const KernelArgs& args, const Room& room, int part, std::int64_t sample) const {
    const std::int64_t at = row_at(sample, 0);
    const float* const row = read(args, at, room.x[part]);
    auto* const y = float_room(dtype_, args.out<std::byte>(out_[0]), at, room.y[part]);
    FUSETAPE_ASSERT(y != nullptr);
    for (std::int64_t group = 0; group < view_.groups; ++group) {
      const std::int64_t first = group * view_.width;
      const float *const x = row + first, *const gamma = args.in<float>(in_[1]) + first,
                         *const beta = args.in<float>(in_[2]) + first;
      const double exact = one_sum(view_.width, [x](std::int64_t i) { return x[i]; }) / count_;
      const auto mean = static_cast<float>(exact);
      const double squares =
          one_sum(view_.width, [x, mean](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); });
      const float inv_std = noted(args, sample, group, exact, squares);
      for_elements(view_.width, [=, to = y + first](std::int64_t i) {
        to[i] = core::normalised(x[i], mean, core::norm_scale(gamma[i], inv_std), beta[i]);
      });
    }
    write_floats(dtype_, y, args.out<std::byte>(out_[0]), at, channels_);
  }

  void many_rows(const KernelArgs& args, const Room& room, int part, std::int64_t sample) const {
    float *const mean = room.mean[part], *const a = room.a[part];
    double* const totals = room.first[part];
    const auto sum_rows = [&](auto value) {
      ChannelSums sums(room.first_chain[part], totals, channels_);
      for (std::int64_t p = 0; p < view_.pixels; ++p) {
        const float* const x = read(args, row_at(sample, p), room.x[part]);
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
    const auto *const gamma = args.in<float>(in_[1]), *const beta = args.in<float>(in_[2]);
    for (std::int64_t group = 0; group < view_.groups; ++group) {
      const std::int64_t first = group * view_.width;
      const float inv_std = noted(args, sample, group, static_cast<double>(mean[first]), total_of(group));
      for (std::int64_t c = first; c < first + view_.width; ++c) a[c] = core::norm_scale(gamma[c], inv_std);
    }
    for (std::int64_t p = 0; p < view_.pixels; ++p) {
      const std::int64_t at = row_at(sample, p);
      const float* const x = read(args, at, room.x[part]);
      auto* const y = float_room(dtype_, args.out<std::byte>(out_[0]), at, room.y[part]);
      for_elements(channels_, [=](std::int64_t c) { y[c] = core::normalised(x[c], mean[c], a[c], beta[c]); });
      write_floats(dtype_, y, args.out<std::byte>(out_[0]), at, channels_);
    }
  }

  std::vector<int> in_, out_;
};

/// dx = (γ·g − (b·(x − mean) + c))/√(σ²+ε), of a group b and c from Σγ·g and Σγ·g·(x − mean). The difference
/// comes first: it is 0 for a group of one value.
class BackwardKernel final : public GroupNormBase {
 public:
  BackwardKernel(const Graph& graph, const GraphNode& node)
      : GroupNormBase(graph, node, node.inputs[1], true), in_(node.inputs), out_(node.outputs) {
    tensor_passes = stays_in_cache() ? 3 : 5;
  }

  void run(const KernelArgs& args) override {
    RoomCarver carver(args.rooms);
    const Room room(channels_, needs_, carver);
    for_parts(parts_, [&](int part) {
      ChannelSums gamma(room.gamma_chain[part], room.gamma_total[part], channels_);
      ChannelSums beta(room.beta_chain[part], room.beta_total[part], channels_);
      const std::int64_t end = view_.outer * (part + 1) / parts_;
      for (std::int64_t sample = view_.outer * part / parts_; sample < end; ++sample) {
        if (view_.pixels == 1) {
          one_row(args, room, part, sample, gamma.row(), beta.row());
        } else {
          many_rows(args, room, part, sample);
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
      args.out<float>(out_[1])[c] = static_cast<float>(dgamma);
      args.out<float>(out_[2])[c] = static_cast<float>(dbeta);
    }
  }
  std::vector<std::pair<int, int>> in_place() const override {
    return {{in_[0], out_[0]}, {in_[1], out_[0]}};
  }

 private:
  const float* read(const KernelArgs& args, std::size_t operand, std::int64_t at, float* buffer) const {
    return read_floats(dtype_, args.in<std::byte>(in_[operand]), at, channels_, buffer);
  }
  float statistic(const KernelArgs& args, std::size_t operand, std::int64_t sample,
                  std::int64_t group) const {
    return args.in<float>(in_[operand])[sample * view_.groups + group];
  }
  struct Factors {
    float b, c;
  };
  Factors factors(float inv_std, double sum, double with_apart) const {
    const auto inverse = static_cast<double>(inv_std);
    return {static_cast<float>(inverse * inverse * with_apart / count_), static_cast<float>(sum / count_)};
  }

  void one_row(const KernelArgs& args, const Room& room, int part, std::int64_t sample, float* dgamma,
               float* dbeta) const {
    const std::int64_t at = row_at(sample, 0);
    const float *const g_row = read(args, 0, at, room.g[part]), *const x_row =
                                                                    read(args, 1, at, room.x[part]);
    auto* const dx = float_room(dtype_, args.out<std::byte>(out_[0]), at, room.y[part]);
    for (std::int64_t group = 0; group < view_.groups; ++group) {
      const std::int64_t first = group * view_.width;
      const float *const g = g_row + first, *const x = x_row + first,
                         *const gamma = args.in<float>(in_[2]) + first;
      const float mean = statistic(args, 3, sample, group), inv_std = statistic(args, 4, sample, group);
      const auto [sum, with_apart] = two_sums(
          view_.width, [=](std::int64_t i) { return g[i] * gamma[i]; },
          [=](std::int64_t i) { return g[i] * gamma[i] * (x[i] - mean); });
      const Factors of_group = factors(inv_std, sum, with_apart);
      const float b = of_group.b, c = of_group.c;
      for_elements(view_.width,
                   [=, to = dx + first, to_gamma = dgamma + first, to_beta = dbeta + first](std::int64_t i) {
                     const float apart = x[i] - mean, gradient = g[i];
                     to_gamma[i] += gradient * (apart * inv_std);
                     to_beta[i] += gradient;
                     to[i] = inv_std * (gradient * gamma[i] - (apart * b + c));
                   });
    }
    write_floats(dtype_, dx, args.out<std::byte>(out_[0]), at, channels_);
  }

  void many_rows(const KernelArgs& args, const Room& room, int part, std::int64_t sample) const {
    float *const mean = room.mean[part], *const a = room.a[part], *const b = room.b[part],
                 *const shift = room.c[part];
    double *const sum_g = room.first[part], *const sum_apart = room.second[part];
    for (std::int64_t c = 0; c < channels_; ++c) mean[c] = statistic(args, 3, sample, c / view_.width);
    ChannelSums of_g(room.first_chain[part], sum_g, channels_),
        of_apart(room.second_chain[part], sum_apart, channels_);
    for (std::int64_t p = 0; p < view_.pixels; ++p) {
      const std::int64_t at = row_at(sample, p);
      const float *const g = read(args, 0, at, room.g[part]), *const x = read(args, 1, at, room.x[part]);
      float *const first = of_g.row(), *const second = of_apart.row();
      for_elements(channels_, [=](std::int64_t c) {
        first[c] += g[c];
        second[c] += g[c] * (x[c] - mean[c]);
      });
    }
    of_g.flush();
    of_apart.flush();
    const auto* const gamma = args.in<float>(in_[2]);
    for (std::int64_t group = 0; group < view_.groups; ++group) {
      const float inv_std = statistic(args, 4, sample, group);
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
    for (std::int64_t p = 0; p < view_.pixels; ++p) {
      const std::int64_t at = row_at(sample, p);
      const float *const g = read(args, 0, at, room.g[part]), *const x = read(args, 1, at, room.x[part]);
      auto* const dx = float_room(dtype_, args.out<std::byte>(out_[0]), at, room.y[part]);
      for_elements(channels_, [=](std::int64_t c) {
        dx[c] = a[c] * (g[c] * gamma[c] - ((x[c] - mean[c]) * b[c] + shift[c]));
      });
      write_floats(dtype_, dx, args.out<std::byte>(out_[0]), at, channels_);
    }
  }

  std::vector<int> in_, out_;
};

Support supports(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (!group.single() || (!node.is(ops::group_norm_op) && !node.is(ops::group_norm_grad_op)))
    return {.ok = false, .reason = {}};
  if (!is_f32_or_half(graph.value(node.outputs[0]).dtype))
    return {.ok = false, .reason = "f32 and 16 bits only, not f64"};
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (node.is(ops::group_norm_op)) return std::make_unique<ForwardKernel>(graph, node);
  return std::make_unique<BackwardKernel>(graph, node);
}

constexpr Candidate candidates[] = {{"cpu:group_norm", supports, make}};

}  // namespace

std::span<const Candidate> group_norms() { return candidates; }

}  // namespace fusetape::backends::cpu::norm
