#include <omp.h>

#include <utility>
#include <vector>

#include "backends/cpu/channel_moments.hpp"
#include "backends/cpu/norm/activation.hpp"
#include "backends/cpu/norm/batch_norm_kernels.hpp"
#include "backends/cpu/norm/batch_norm_simd.hpp"
#include "core/op/op_attrs.hpp"

/// y = activation(norm₁(x₁) [+ norm₂(x₂)] [+ z]): a pass for the statistics, if they are not given, and one
/// for y and what else somebody reads of it.
namespace fusetape::backends::cpu::norm {
namespace {

using plan::Graph;
using plan::Group;
using plan::NormRoles;

/// Room for the statistics of one normalisation. `origin`, the mean of the tensor's first rows, is subtracted
/// from everything that is summed over all blocks; `shift`, the mean so far, from what is summed within a
/// block: no mean is too large for them.
struct Moments {
  float* origin = nullptr;
  float *shift = nullptr, *chain_sum = nullptr, *chain_square = nullptr;  ///< a wide row for each part
  double *block_sum = nullptr, *block_square = nullptr, *sum = nullptr, *square = nullptr;
};

struct Scratch {
  Moments moments[2];
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
    tensor_passes = count_passes();
    name = "highway:batch_norm";
    if (roles_.activation != nullptr) name += "_" + std::string(roles_.activation->name);
  }

  void run(const KernelArgs& args) override {
    const Scratch scratch = carve(args.scratch);
    if (roles_.statistics == plan::Statistics::batch) {
      measure(args, scratch);
      for (int i = 0; i < roles_.norms; ++i) finish_statistics(args, scratch, i);
    } else {
      for (int i = 0; i < roles_.norms; ++i) take_statistics(args, scratch, i);
    }
    if (applies_) apply(args, scratch);
  }

  std::size_t scratch_bytes() const override { return carve(nullptr).bytes; }

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

  Scratch carve(std::byte* base) const {
    ScratchCarver carver(base);
    const std::int64_t row = rows_.padded_width(), all_parts = row * rows_.parts();
    Scratch scratch;
    for (int i = 0; i < roles_.norms; ++i) {
      for (float** each : {&scratch.mean[i], &scratch.a[i], &scratch.beta[i]}) {
        *each = carver.take<float>(row);
      }
      if (roles_.statistics != plan::Statistics::batch) continue;
      Moments& moments = scratch.moments[i];
      moments.origin = carver.take<float>(row);
      for (float** each : {&moments.shift, &moments.chain_sum, &moments.chain_square}) {
        *each = carver.take<float>(all_parts);
      }
      for (double** each : {&moments.block_sum, &moments.block_square, &moments.sum, &moments.square}) {
        *each = carver.take<double>(all_parts);
      }
    }
    scratch.bytes = carver.used();
    return scratch;
  }

  void measure(const KernelArgs& args, const Scratch& scratch) const {
    for (int i = 0; i < roles_.norms; ++i) {
      const T* x = args.in<T>(roles_.norm[i].x);
      rows_.fill(scratch.moments[i].origin, [&](std::int64_t c) { return mean_of_first_rows(x + c); });
    }
    for_parts(rows_.parts(), [&](int part) {
      for (int i = 0; i < roles_.norms; ++i) {
        measure_part(args.in<T>(roles_.norm[i].x), scratch.moments[i], part);
      }
    });
  }

  float mean_of_first_rows(const T* column) const {
    const std::int64_t count = std::min<std::int64_t>(16, rows_.rows());
    double sum = 0;
    for (std::int64_t row = 0; row < count; ++row) sum += to_float(column[row * rows_.channels()]);
    return static_cast<float>(sum / static_cast<double>(count));
  }

  void measure_part(const T* x, const Moments& moments, int part) const {
    const std::int64_t row = rows_.padded_width(), at = part * row;
    float* shift = moments.shift + at;
    double *block_sum = moments.block_sum + at, *block_square = moments.block_square + at;
    double *sum = moments.sum + at, *square = moments.square + at;
    const ShiftedMoments of_block{.shift = shift,
                                  .chain_sum = moments.chain_sum + at,
                                  .chain_square = moments.chain_square + at,
                                  .sum = block_sum,
                                  .square = block_square};
    std::copy_n(moments.origin, row, shift);
    for (float* chain : {of_block.chain_sum, of_block.chain_square}) std::fill_n(chain, row, 0.0f);
    for (double* total : {sum, square}) std::fill_n(total, row, 0.0);
    std::int64_t rows_before = 0;
    rows_.for_blocks(part, false, [&](const RowBlock& block) {
      for (double* total : {block_sum, block_square}) std::fill_n(total, row, 0.0);
      add_shifted_moments(block, x, of_block);
      // From moments about the shift to moments about the origin; then the next shift is the mean so far.
      rows_before += block.rows;
      const double rows = static_cast<double>(block.rows), mean_of = 1.0 / static_cast<double>(rows_before);
      for (std::int64_t j = 0; j < block.width; ++j) {
        const double away = static_cast<double>(shift[j]) - static_cast<double>(moments.origin[j]);
        const double s1 = block_sum[j], s2 = block_square[j];
        sum[j] += s1 + rows * away;
        square[j] += s2 + away * (2 * s1 + rows * away);
        shift[j] = static_cast<float>(static_cast<double>(moments.origin[j]) + sum[j] * mean_of);
      }
    });
  }

  void finish_statistics(const KernelArgs& args, const Scratch& scratch, int i) const {
    const NormRoles& norm = roles_.norm[i];
    for (std::int64_t c = 0; c < rows_.channels(); ++c) {
      const core::Moments all = moments_of(args, scratch, i, c);
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

  core::Moments moments_of(const KernelArgs& args, const Scratch& scratch, int i, std::int64_t c) const {
    const Moments& moments = scratch.moments[i];
    const double n = static_cast<double>(rows_.rows());
    const double sum = rows_.total(moments.sum, c), square = rows_.total(moments.square, c);
    if (!std::isfinite(square)) {
      return moments_in_doubles(args.in<T>(roles_.norm[i].x) + c, rows_.rows(), rows_.channels());
    }
    return {n, static_cast<double>(moments.origin[c]) + sum / n, square - sum * sum / n};
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
