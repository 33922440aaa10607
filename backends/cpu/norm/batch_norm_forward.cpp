#include <omp.h>

#include <utility>
#include <vector>

#include "backends/cpu/channel_moments.hpp"
#include "backends/cpu/norm/activation.hpp"
#include "backends/cpu/norm/batch_norm_kernels.hpp"
#include "backends/cpu/norm/part_moments.hpp"
#include "core/op/op_attrs.hpp"

/// y = activation(norm₁(x₁) [+ norm₂(x₂)] [+ z]): a pass for the statistics, if they are not given, and one
/// for y and what else somebody reads of it.
namespace fusetape::backends::cpu::norm {
namespace {

using plan::Graph;
using plan::Group;
using plan::NormRoles;

struct Scratch {
  float *mean[2] = {}, *a[2] = {}, *beta[2] = {};
  std::size_t bytes = 0;
};

template <class T>
class NormForwardKernel final : public Kernel {
 public:
  NormForwardKernel(const plan::NormForward& roles, const Graph& graph)
      : roles_(roles), relu_(roles.activation == &ops::relu_op), rows_(rows_of(graph, roles.norm[0].x)) {
    for (int i = 0; i < roles_.norms; ++i) {
      eps_[i] = graph.node(roles_.norm[i].node).attrs.as<core::BatchNormAttrs>().eps;
    }
    for (int output : {roles_.y, roles_.sum, roles_.norm[0].normed, roles_.norm[1].normed}) {
      if (output >= 0) written_.push_back(output);
    }
    applies_ = !written_.empty() || roles_.mask >= 0;
    if (roles_.statistics == plan::Statistics::batch)
      moments_.resize(static_cast<std::size_t>(rows_.parts()) * static_cast<std::size_t>(roles_.norms));
    scratch_bytes_ = carve(nullptr, {}).bytes;
    tensor_passes = count_passes();
    name = "highway:batch_norm";
    if (roles_.activation != nullptr) name += "_" + std::string(roles_.activation->name);
  }

  void run(const KernelArgs& args) override {
    const Scratch scratch = carve(args.scratch, args.rooms);
    if (roles_.statistics == plan::Statistics::batch) {
      measure(args);
      for (int i = 0; i < roles_.norms; ++i) finish_statistics(args, scratch, i);
    } else {
      for (int i = 0; i < roles_.norms; ++i) take_statistics(args, scratch, i);
    }
    if (applies_) apply(args, scratch);
  }

  std::size_t scratch_bytes() const override { return scratch_bytes_; }
  std::size_t room_bytes() const override {
    const auto norms = static_cast<std::size_t>(roles_.norms);
    return moments_.empty() ? 0 : norms * PartMoments<T>::room_bytes(rows_);
  }

  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs;
    for (int output : written_) {
      if (roles_.z >= 0) pairs.emplace_back(roles_.z, output);
      for (int i = 0; i < roles_.norms; ++i) pairs.emplace_back(roles_.norm[i].x, output);
    }
    for (int i = 0; i < roles_.norms; ++i) {
      const NormRoles& norm = roles_.norm[i];
      if (norm.new_running_mean >= 0) pairs.emplace_back(norm.running_mean, norm.new_running_mean);
      if (norm.new_running_var >= 0) pairs.emplace_back(norm.running_var, norm.new_running_var);
    }
    return pairs;
  }

 private:
  double count_passes() const {
    const int statistics = roles_.statistics == plan::Statistics::batch ? roles_.norms : 0;
    const int sources = applies_ ? roles_.norms + (roles_.z >= 0 ? 1 : 0) : 0;
    return statistics + sources + static_cast<double>(written_.size());
  }

  static ChannelRows rows_of(const Graph& graph, int x) {
    const Shape& shape = graph.value(x).shape;
    return ChannelRows(shape.elements() / shape.back(), shape.back(), omp_get_max_threads());
  }

  Scratch carve(std::byte* base, plan::Rooms rooms) {
    ScratchCarver carver(base);
    const std::int64_t row = rows_.padded_width();
    Scratch scratch;
    for (int i = 0; i < roles_.norms; ++i) {
      for (float** each : {&scratch.mean[i], &scratch.a[i], &scratch.beta[i]}) {
        *each = carver.take<float>(row);
      }
    }
    for (int part = 0; !moments_.empty() && part < rows_.parts(); ++part) {
      ScratchCarver room(rooms[part]);
      for (int i = 0; i < roles_.norms; ++i) moments(part, i).take(room, rows_);
    }
    scratch.bytes = carver.used();
    return scratch;
  }

  void measure(const KernelArgs& args) {
    for_parts(rows_.parts(), [&](int part) {
      for (int i = 0; i < roles_.norms; ++i) {
        const T* x = args.in<T>(roles_.norm[i].x);
        PartMoments<T>& moments = this->moments(part, i);
        moments.begin(rows_);
        rows_.for_blocks(part, false, [&](const RowBlock& block) { moments.add(rows_, block, x); });
        moments.end(rows_);
      }
    });
  }

  PartMoments<T>& moments(int part, int norm) {
    const std::int64_t at = std::int64_t{part} * roles_.norms + norm;
    return moments_[static_cast<std::size_t>(at)];
  }

  void finish_statistics(const KernelArgs& args, const Scratch& scratch, int i) {
    const NormRoles& norm = roles_.norm[i];
    for (std::int64_t c = 0; c < rows_.channels(); ++c) {
      const core::Moments all = moments_of(args, i, c);
      const float mean = static_cast<float>(all.mean);
      const float inv_std = inverse_deviation(all.variance(), eps_[i]);
      if (norm.mean >= 0) args.out<float>(norm.mean)[c] = mean;
      if (norm.inv_std >= 0) args.out<float>(norm.inv_std)[c] = inv_std;
      track(args, norm, c, all);
      if (!applies_) continue;
      scratch.mean[i][c] = mean;
      scratch.a[i][c] = norm_scale(args.in<float>(norm.gamma)[c], inv_std);
    }
    if (applies_) replicate(args, scratch, i);
  }

  core::Moments moments_of(const KernelArgs& args, int i, std::int64_t c) {
    core::Moments all{0, 0, 0};
    for (int part = 0; part < rows_.parts(); ++part) all = joined(all, moments(part, i).of(rows_, c));
    return std::isfinite(all.square)
               ? all
               : moments_in_doubles(args.in<T>(roles_.norm[i].x) + c, rows_.rows(), rows_.channels());
  }

  /// From inputs: the running mean and variance, or a batch's mean and inverse deviation.
  void take_statistics(const KernelArgs& args, const Scratch& scratch, int i) const {
    const NormRoles& norm = roles_.norm[i];
    const bool running = roles_.statistics == plan::Statistics::running;
    const float* gamma = args.in<float>(norm.gamma);
    const float* mean = args.in<float>(running ? norm.running_mean : norm.mean);
    const float* spread = args.in<float>(running ? norm.running_var : norm.inv_std);
    for (std::int64_t c = 0; c < rows_.channels(); ++c) {
      const float inv_std = running ? inverse_deviation(spread[c], eps_[i]) : spread[c];
      scratch.mean[i][c] = mean[c];
      scratch.a[i][c] = norm_scale(gamma[c], inv_std);
    }
    replicate(args, scratch, i);
  }

  /// From one mean, a and β for each channel to a wide row of them.
  void replicate(const KernelArgs& args, const Scratch& scratch, int i) const {
    for (float* pattern : {scratch.mean[i], scratch.a[i]}) {
      rows_.fill(pattern, [&](std::int64_t c) { return pattern[c]; });
    }
    const float* beta = args.in<float>(roles_.norm[i].beta);
    rows_.fill(scratch.beta[i], [&](std::int64_t c) { return beta[c]; });
  }

  void apply(const KernelArgs& args, const Scratch& scratch) const {
    const auto out = [&](int value) { return value >= 0 ? args.out<T>(value) : nullptr; };
    NormForward<T> norm{.norms = roles_.norms, .relu = relu_};
    for (int i = 0; i < roles_.norms; ++i) {
      norm.x[i] = args.in<T>(roles_.norm[i].x);
      norm.mean[i] = scratch.mean[i];
      norm.a[i] = scratch.a[i];
      norm.beta[i] = scratch.beta[i];
      norm.normed[i] = out(roles_.norm[i].normed);
    }
    if (roles_.z >= 0) norm.z = args.in<T>(roles_.z);
    norm.y = out(roles_.y);
    norm.sum = out(roles_.sum);
    if (roles_.mask >= 0) norm.mask = args.out<std::uint8_t>(roles_.mask);
    const bool inside = roles_.activation == nullptr || relu_ || norm.y == nullptr;
    if (inside) return over_blocks([&](const RowBlock& block) { apply_norm(block, norm); });
    const Activation activation = activation_of(roles_.activation, roles_.numbers, args);
    T* const y = norm.y;
    norm.y = before_activation(norm);
    const auto in_registers = activation_rows<T>(*roles_.activation).forward;
    if (in_registers != nullptr && roles_.norms == 1 && roles_.z < 0 && norm.y == y) {
      return over_blocks([&](const RowBlock& block) { in_registers(block, norm, activation.numbers); });
    }
    over_blocks([&](const RowBlock& block) {
      for_chunks(block, [&](const RowBlock& chunk) {
        apply_norm(chunk, norm);
        activate(activation, norm.y + chunk.offset, nullptr, y + chunk.offset, chunk.rows * chunk.width);
      });
    });
  }

  /// From the end: what the statistics read last may still be in a cache.
  template <class Loop>
  void over_blocks(Loop loop) const {
    for_parts(rows_.parts(),
              [&](int part) { rows_.for_blocks(part, roles_.statistics == plan::Statistics::batch, loop); });
  }

  /// Where what the activation reads is left: in its own place, if somebody else wants it, or in y's.
  T* before_activation(NormForward<T>& norm) const {
    T*& own = roles_.norms == 1 && roles_.z < 0 ? norm.normed[0] : norm.sum;
    return own != nullptr ? std::exchange(own, nullptr) : norm.y;
  }

  plan::NormForward roles_;
  bool relu_;
  ChannelRows rows_;
  double eps_[2] = {};
  std::vector<int> written_;  ///< whole tensors
  bool applies_ = false;      ///< more than the statistics is wanted
  std::size_t scratch_bytes_ = 0;
  std::vector<PartMoments<T>> moments_;  ///< of each part and norm, where the statistics are the batch's
};

}  // namespace

std::unique_ptr<Kernel> make_norm_forward(const Graph& graph, const Group& group) {
  const plan::NormForward& roles = *group.as<plan::NormForward>();
  if (graph.value(roles.norm[0].x).dtype == DType::bf16) {
    return std::make_unique<NormForwardKernel<Bf16>>(roles, graph);
  }
  return std::make_unique<NormForwardKernel<float>>(roles, graph);
}

}  // namespace fusetape::backends::cpu::norm
