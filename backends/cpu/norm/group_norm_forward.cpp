#include <string>

#include "backends/cpu/norm/activation.hpp"
#include "backends/cpu/norm/group_norm.hpp"
#include "core/check.hpp"
#include "core/numerics/norm_formulas.hpp"

namespace fusetape::backends::cpu::norm {
namespace {

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

}  // namespace

std::unique_ptr<Kernel> make_group_norm_forward(const plan::Graph& graph, const plan::NormForward& roles) {
  return std::make_unique<ForwardKernel>(graph, roles);
}

}  // namespace fusetape::backends::cpu::norm
