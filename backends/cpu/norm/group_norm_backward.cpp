// The threads' sums for γ and β combine in their order.
#include <string>

#include "backends/cpu/norm/activation.hpp"
#include "backends/cpu/norm/group_norm.hpp"
#include "core/numerics/norm_formulas.hpp"

namespace fusetape::backends::cpu::norm {
namespace {

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

}  // namespace

std::unique_ptr<Kernel> make_group_norm_backward(const plan::Graph& graph, const plan::NormBackward& roles) {
  return std::make_unique<BackwardKernel>(graph, roles);
}

}  // namespace fusetape::backends::cpu::norm
