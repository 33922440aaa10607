#include <omp.h>

#include <vector>

#include "backends/cpu/norm/batch_norm_kernels.hpp"
#include "backends/cpu/norm/gradient_rows.hpp"

/// From g' = (g [+ g2])·mask, or an activation's gradient: Σg' and Σg'·x̂ of one or two normalisations in one
/// pass, then dx = a(g' − (Σg' + x̂·Σg'x̂)/n) in another.
namespace fusetape::backends::cpu::norm {
namespace {

using plan::Graph;
using plan::Group;
using plan::NormRoles;

/// What threads sum, a wide row each, and a room for GradientRows.
struct PartSums {
  InRooms<float> chain_g, chain_gx[2];
  InRooms<double> sum_g, sum_gx[2];
  InRooms<std::byte> room;
  std::size_t bytes = 0;
};

struct Scratch {
  float *scale = nullptr, *beta = nullptr;  ///< the forward pass's, where the mask is recomputed
  float *mean[2] = {}, *a[2] = {}, *b[2] = {}, *c[2] = {};
  PartSums parts;
  std::size_t bytes = 0;
};

template <class T>
class NormBackwardKernel final : public Kernel {
 public:
  NormBackwardKernel(const Graph& graph, const plan::NormBackward& roles)
      : roles_(roles), rows_(rows_of(graph, roles_.norm[0].x)), gradient_(roles.gradient, roles.recompute) {
    if (roles_.recompute) mask_ = MaskFrom::input;
    if (!roles_.recompute && roles_.y >= 0) mask_ = MaskFrom::output;
    if (roles_.mask >= 0) mask_ = MaskFrom::bits;
    for (int i = 0; i < roles_.norms; ++i) {
      if (roles_.norm[i].dx >= 0) wanted_[wanted_count_++] = i;
    }
    // g' that the second pass reads again. Where making it takes three tensors, or an activation's gradient,
    // and nobody asks for it, it waits in the place of the first dx: one write more, and it is not made
    // twice.
    staged_ = roles_.masked;
    const bool dear =
        roles_.gradient != nullptr ? gradient_.is_dear() : roles_.g2 >= 0 && mask_ == MaskFrom::output;
    if (staged_ < 0 && wanted_count_ > 0 && dear) staged_ = roles_.norm[wanted_[0]].dx;
    tensor_passes = count_passes();
    name = "highway:batch_norm";
    if (roles_.gradient != nullptr) {
      name += "_" + std::string(roles_.gradient->name);
    } else {
      name += mask_ == MaskFrom::nothing ? "_grad" : "_relu_grad";
    }
  }

  void run(const KernelArgs& args) override {
    const Scratch scratch = carve(args.scratch, args.rooms);
    const NormBackward<T> norm = tensors(args, scratch);
    gradient_.begin(roles_.numbers, args);
    if (roles_.sums_given) {
      take_sums(args, scratch);
    } else {
      sum(norm, scratch);
      for (int i = 0; i < roles_.norms; ++i) finish_sums(args, scratch, i);
    }
    if (wanted_count_ > 0) differentiate(args, scratch, norm);
  }

  std::size_t scratch_bytes() const override { return carve(nullptr, {}).bytes; }
  std::size_t room_bytes() const override { return part_sums({}).bytes; }

  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs;
    const auto is_an_x = [&](int value) {
      return value == roles_.norm[0].x || (roles_.norms == 2 && value == roles_.norm[1].x);
    };
    // What the first pass writes must not cover an x, which the second reads.
    const auto add = [&](int from, int to) {
      if (from >= 0 && to >= 0 && !(to == staged_ && is_an_x(from))) pairs.emplace_back(from, to);
    };
    for (int to : {roles_.masked, roles_.norm[0].dx, roles_.norm[1].dx}) {
      for (int from : {roles_.g, roles_.g2, roles_.y}) add(from, to);
    }
    for (int i = 0; i < roles_.norms; ++i) add(roles_.norm[i].x, roles_.norm[i].dx);
    return pairs;
  }

 private:
  static ChannelRows rows_of(const Graph& graph, int x) {
    const Shape& shape = graph.value(x).shape;
    return ChannelRows(shape.elements() / shape.back(), shape.back(), omp_get_max_threads());
  }

  double count_passes() const {
    const int sources = 1 + (roles_.g2 >= 0 ? 1 : 0) + (mask_ == MaskFrom::output ? 1 : 0);
    const int first = roles_.sums_given ? 0 : sources + roles_.norms + (staged_ >= 0 ? 1 : 0);
    const int second = (staged_ >= 0 ? 1 : sources) + 2 * wanted_count_;
    return first + (wanted_count_ > 0 ? second : 0);
  }

  Scratch carve(std::byte* base, plan::Rooms rooms) const {
    ScratchCarver carver(base);
    const std::int64_t row = rows_.padded_width();
    Scratch scratch;
    scratch.scale = carver.take<float>(row);
    scratch.beta = carver.take<float>(row);
    for (int i = 0; i < roles_.norms; ++i) {
      for (float** each : {&scratch.mean[i], &scratch.a[i], &scratch.b[i], &scratch.c[i]}) {
        *each = carver.take<float>(row);
      }
    }
    scratch.parts = part_sums(rooms);
    scratch.bytes = carver.used();
    return scratch;
  }
  PartSums part_sums(plan::Rooms rooms) const {
    const std::int64_t row = rows_.padded_width();
    RoomCarver carver(rooms);
    PartSums sums{.chain_g = carver.take<float>(row)};
    sums.sum_g = carver.take<double>(row);
    for (int i = 0; i < roles_.norms; ++i) {
      sums.chain_gx[i] = carver.take<float>(row);
      sums.sum_gx[i] = carver.take<double>(row);
    }
    sums.room = carver.take<std::byte>(gradient_.room(rows_) * static_cast<std::int64_t>(sizeof(T)));
    sums.bytes = carver.used();
    return sums;
  }

  NormBackward<T> tensors(const KernelArgs& args, const Scratch& scratch) const {
    NormBackward<T> norm{.norms = roles_.norms, .mask = mask_};
    norm.g = args.in<T>(roles_.g);
    if (roles_.g2 >= 0) norm.g2 = args.in<T>(roles_.g2);
    if (mask_ == MaskFrom::output) norm.y = args.in<T>(roles_.y);
    if (mask_ == MaskFrom::bits) norm.bits = args.in<std::uint8_t>(roles_.mask);
    if (staged_ >= 0) norm.masked = args.out<T>(staged_);
    for (int i = 0; i < roles_.norms; ++i) {
      norm.x[i] = args.in<T>(roles_.norm[i].x);
      const float* mean = args.in<float>(roles_.norm[i].mean);
      rows_.fill(scratch.mean[i], [&](std::int64_t c) { return mean[c]; });
      norm.mean[i] = scratch.mean[i];
    }
    if (mask_ == MaskFrom::input) {
      const NormRoles& roles = roles_.norm[0];
      const float *gamma = args.in<float>(roles.gamma), *beta = args.in<float>(roles.beta);
      const float* inv_std = args.in<float>(roles.inv_std);
      rows_.fill(scratch.scale, [&](std::int64_t c) { return norm_scale(gamma[c], inv_std[c]); });
      rows_.fill(scratch.beta, [&](std::int64_t c) { return beta[c]; });
      norm.scale = scratch.scale;
      norm.beta = scratch.beta;
    }
    return norm;
  }

  void sum(const NormBackward<T>& tensors, const Scratch& scratch) const {
    for_parts(rows_.parts(), [&](int part) {
      NormBackward<T> norm = tensors;
      const PartSums& sums = scratch.parts;
      norm.chain_g = sums.chain_g[part];
      norm.sum_g = sums.sum_g[part];
      for (int i = 0; i < roles_.norms; ++i) {
        norm.chain_gx[i] = sums.chain_gx[i][part];
        norm.sum_gx[i] = sums.sum_gx[i][part];
      }
      norm.clear_sums(rows_.padded_width());
      T* const room = reinterpret_cast<T*>(sums.room[part]);
      rows_.for_blocks(part, false, [&](const RowBlock& block) { gradient_.add_sums(block, norm, room); });
    });
  }

  /// dγ and dβ.
  void finish_sums(const KernelArgs& args, const Scratch& scratch, int i) const {
    const NormRoles& roles = roles_.norm[i];
    const float* inv_std = args.in<float>(roles.inv_std);
    for (std::int64_t c = 0; c < rows_.channels(); ++c) {
      const double sum_g = rows_.total(scratch.parts.sum_g, c);
      const double sum_gxhat = rows_.total(scratch.parts.sum_gx[i], c) * inv_std[c];
      if (roles.dbeta >= 0) args.out<float>(roles.dbeta)[c] = static_cast<float>(sum_g);
      if (roles.dgamma >= 0) args.out<float>(roles.dgamma)[c] = static_cast<float>(sum_gxhat);
      if (roles.dx >= 0) set_coefficients(args, scratch, i, c, sum_g, sum_gxhat);
    }
    if (roles.dx >= 0) replicate(scratch, i);
  }

  void take_sums(const KernelArgs& args, const Scratch& scratch) const {
    const NormRoles& roles = roles_.norm[0];
    const float *dgamma = args.in<float>(roles.dgamma), *dbeta = args.in<float>(roles.dbeta);
    for (std::int64_t c = 0; c < rows_.channels(); ++c)
      set_coefficients(args, scratch, 0, c, dbeta[c], dgamma[c]);
    replicate(scratch, 0);
  }

  /// Of a channel's dx = a·g' + (b(x − μ) + c).
  void set_coefficients(const KernelArgs& args, const Scratch& scratch, int i, std::int64_t channel,
                        double sum_g, double sum_gxhat) const {
    const NormGradient dx = norm_gradient(args.in<float>(roles_.norm[i].gamma)[channel],
                                          args.in<float>(roles_.norm[i].inv_std)[channel], sum_g, sum_gxhat,
                                          static_cast<double>(rows_.rows()));
    scratch.a[i][channel] = dx.a;
    scratch.b[i][channel] = dx.b;
    scratch.c[i][channel] = dx.c;
  }

  void replicate(const Scratch& scratch, int i) const {
    for (float* pattern : {scratch.a[i], scratch.b[i], scratch.c[i]}) {
      rows_.fill(pattern, [&](std::int64_t c) { return pattern[c]; });
    }
  }

  void differentiate(const KernelArgs& args, const Scratch& scratch, const NormBackward<T>& tensors) const {
    NormBackward<T> norm = tensors;
    if (staged_ >= 0) {
      norm.g = tensors.masked;
      norm.g2 = nullptr;
      norm.mask = MaskFrom::nothing;
    }
    norm.norms = wanted_count_;
    for (int k = 0; k < wanted_count_; ++k) {
      const int i = wanted_[k];
      norm.x[k] = tensors.x[i];
      norm.mean[k] = tensors.mean[i];
      norm.a[k] = scratch.a[i];
      norm.b[k] = scratch.b[i];
      norm.c[k] = scratch.c[i];
      norm.dx[k] = args.out<T>(roles_.norm[i].dx);
    }
    // From the end: what the first pass touched last may still be in a cache.
    for_parts(rows_.parts(), [&](int part) {
      rows_.for_blocks(part, true, [&](const RowBlock& block) {
        const bool again = gradient_.dx() != nullptr && staged_ < 0;
        again ? gradient_.dx()(block, norm, gradient_.numbers()) : apply_norm_gradient(block, norm);
      });
    });
  }

  plan::NormBackward roles_;
  ChannelRows rows_;
  MaskFrom mask_ = MaskFrom::nothing;
  int staged_ = -1;     ///< the value that holds g' between the passes; -1: it is made twice
  int wanted_[2] = {};  ///< the normalisations whose dx somebody wants
  int wanted_count_ = 0;
  GradientRows<T> gradient_;
};

}  // namespace

std::unique_ptr<Kernel> make_norm_backward(const Graph& graph, const Group& group) {
  const plan::NormBackward& roles = *group.as<plan::NormBackward>();
  if (graph.value(roles.g).dtype == DType::bf16) {
    return std::make_unique<NormBackwardKernel<Bf16>>(graph, roles);
  }
  return std::make_unique<NormBackwardKernel<float>>(graph, roles);
}

}  // namespace fusetape::backends::cpu::norm
