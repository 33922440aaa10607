#include <omp.h>

#include <algorithm>

#include "backends/cpu/channel_moments.hpp"
#include "backends/cpu/conv/folded_weights.hpp"
#include "backends/cpu/conv/winograd/both_gradients.hpp"
#include "backends/cpu/conv/winograd/tiles.hpp"
#include "backends/cpu/conv/winograd_candidate.hpp"
#include "backends/cpu/norm/batch_norm_simd.hpp"
#include "core/check.hpp"

/// From a group's roles to what the Winograd kernels read and write: per-channel factors before a
/// convolution, what becomes of its sums after it.
namespace fusetape::backends::cpu::conv {
namespace {

using plan::Convolution;
using plan::Graph;
using plan::Group;
using plan::NormRoles;
using plan::Prologue;
using winograd::Problem;
using winograd::Sink;
using winograd::Source;
using winograd::Sums;

/// y = fma(scale, x − mean, beta), per channel.
struct Normalisation {
  const float *mean = nullptr, *scale = nullptr, *beta = nullptr;
};

Normalisation normalisation_of(const KernelArgs& args, const NormRoles& norm, std::int64_t channels,
                               ScratchCarver& carver) {
  float* const scale = carver.take<float>(channels);
  if (scale == nullptr) return {};  // only counting
  const float *gamma = args.in<float>(norm.gamma), *inv_std = args.in<float>(norm.inv_std);
  for (std::int64_t c = 0; c < channels; ++c) scale[c] = norm::norm_scale(gamma[c], inv_std[c]);
  return {args.in<float>(norm.mean), scale, args.in<float>(norm.beta)};
}

/// A role's tensor; nullptr where the role is empty, or nothing is run yet. A role without a place would be
/// taken for an empty one.
void* tensor_of(const KernelArgs& args, int value) {
  if (value < 0 || args.values == nullptr) return nullptr;
  FUSETAPE_ASSERT(args.values[value] != nullptr);
  return args.values[value];
}

/// An operand, as it is or as the input transform makes it. With no scratch yet, factors are only counted.
class Operand {
 public:
  Operand() = default;
  Operand(const Graph& graph, const Group& group, int value, const Prologue& prologue)
      : value_(value), prologue_(prologue), dtype_(graph.value(value).dtype), written_(group.writes(value)) {
    const Shape& shape = graph.value(value).shape;
    channels_ = shape.back();
    rows_ = static_cast<double>(shape.elements()) / static_cast<double>(channels_);
  }

  Source source(const KernelArgs& args, ScratchCarver& carver) const {
    Source source{.dtype = dtype_, .relu = prologue_.activation != nullptr};
    const auto tensor = [&](int value) { return tensor_of(args, value); };
    if (prologue_.g >= 0) {
      source.x = tensor(prologue_.g);
      source.x2 = tensor(prologue_.norm[0].x);
      take_gradient(args, carver, source);
    } else if (prologue_.norms > 0) {
      source.x = tensor(prologue_.norm[0].x);
      const Normalisation first = normalisation_of(args, prologue_.norm[0], channels_, carver);
      source.mean = first.mean;
      source.scale = first.scale;
      source.shift = first.beta;
      if (prologue_.norms == 2) {
        source.x2 = tensor(prologue_.norm[1].x);
        const Normalisation second = normalisation_of(args, prologue_.norm[1], channels_, carver);
        source.mean2 = second.mean;
        source.scale2 = second.scale;
        source.shift2 = second.beta;
      } else if (prologue_.z >= 0) {
        source.x2 = tensor(prologue_.z);
      }
    } else {
      source.x = tensor(value_);
      return source;
    }
    if (written_) source.written = tensor(value_);
    return source;
  }

 private:
  /// dx = a·g + (b(x − mean) + c)
  void take_gradient(const KernelArgs& args, ScratchCarver& carver, Source& source) const {
    float* factors[3];
    for (float*& factor : factors) factor = carver.take<float>(channels_);
    if (factors[0] == nullptr) return;
    const NormRoles& norm = prologue_.norm[0];
    const float *gamma = args.in<float>(norm.gamma), *inv_std = args.in<float>(norm.inv_std),
                *dgamma = args.in<float>(norm.dgamma), *dbeta = args.in<float>(norm.dbeta);
    for (std::int64_t c = 0; c < channels_; ++c) {
      const norm::NormGradient dx = norm::norm_gradient(gamma[c], inv_std[c], dbeta[c], dgamma[c], rows_);
      factors[0][c] = dx.a;
      factors[1][c] = dx.b;
      factors[2][c] = dx.c;
    }
    source.scale = factors[0];
    source.scale2 = factors[1];
    source.shift2 = factors[2];
    source.mean2 = args.in<float>(norm.mean);
  }

  int value_ = -1;
  Prologue prologue_;
  DType dtype_ = DType::f32;
  bool written_ = false;
  std::int64_t channels_ = 0;
  double rows_ = 0;
};

std::byte* take_scratch(ScratchCarver& carver, const winograd::GradientMemory& memory) {
  return carver.take<std::byte>(static_cast<std::int64_t>(memory.scratch));
}

/// conv2d and conv2d_grad_input, and beside the latter conv2d_grad_weight.
class WinogradConvolution final : public Kernel {
 public:
  WinogradConvolution(const Graph& graph, const Group& group)
      : conv_(*group.as<Convolution>()),
        is_grad_input_(conv_.pass == plan::ConvPass::grad_input),
        threads_(omp_get_max_threads()) {
    const plan::GraphNode& node = graph.node(conv_.node);
    weights_of_ = *winograd_problem(graph, node);
    problem_ = is_grad_input_ ? weights_of_.mirrored() : weights_of_;
    operand_ = Operand(graph, group, read_image(), prologue());
    blocking_ = tuned_blocking(node, winograd_blockings(problem_, threads_));
    if (has_weights()) {
      x_ = Operand(graph, group, conv_.read_x, conv_.before_x);
      dw_dtype_ = graph.value(conv_.dw).dtype;
      blocking_ = winograd::both_gradients_blocking;
    }
    if (conv_.folded.present()) folded_.emplace(graph, conv_);
    w_dtype_ = folded_ ? DType::f32 : graph.value(conv_.w).dtype;
    y_dtype_ = graph.value(conv_.result()).dtype;
    if (conv_.statistics.present())
      eps_ = graph.node(conv_.statistics.node).attrs.as<core::BatchNormAttrs>().eps;
    name = "highway:winograd F(4×4, 3×3)";
    if (has_weights()) name += " and F(3×3, 4×4)";
    arithmetic = {.flops = winograd::product_flops(problem_) * (has_weights() ? 2 : 1), .dtype = DType::f32};
  }

  void run(const KernelArgs& args) override {
    ScratchCarver carver(args.scratch);
    const Source source = operand_.source(args, carver);
    Sink sink = this->sink(args, carver);
    float* u = take_weights(carver);
    const void* w = args.values[conv_.w];
    if (folded_) {
      const Folded folded = take_folded(carver);
      folded_->make(args, folded.weights, folded.bias);
      w = folded.weights;
      sink.bias = folded.bias;
    }
    winograd::transform_weights(weights_of_, w, w_dtype_, is_grad_input_, u, threads_);
    if (has_weights()) {
      const Source x = x_.source(args, carver);
      winograd::both_gradients(weights_of_, x, source, u, sink, {args.values[conv_.dw], dw_dtype_}, blocking_,
                               threads_, take_scratch(carver, memory()), args.rooms);
    } else {
      winograd::convolve(problem_, source, u, sink, blocking_, threads_, args.rooms);
    }
    if (conv_.statistics.present()) finish_statistics(args, sink);
    if (conv_.sums.present()) finish_sums(args, sink);
  }

  std::size_t scratch_bytes() const override {
    ScratchCarver carver(nullptr);
    operand_.source({}, carver);
    sink({}, carver);
    take_weights(carver);
    if (folded_) take_folded(carver);
    if (has_weights()) x_.source({}, carver);
    take_scratch(carver, memory());
    return carver.used();
  }
  std::size_t room_bytes() const override { return memory().room; }

  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs = tracked_in_place(conv_.statistics);
    // What the prologue reads is read again after parts of y are written, and the sums' x after its own
    // pixel.
    const auto reads = [this](int image, const Prologue& read) {
      return conv_.z == image || conv_.z == read.g || conv_.z == read.z || conv_.z == read.norm[0].x ||
             conv_.z == read.norm[1].x;
    };
    const bool free = !reads(read_image(), prologue()) && conv_.z != conv_.sums.x &&
                      !(has_weights() && reads(conv_.read_x, conv_.before_x));
    if (conv_.z >= 0 && free) pairs.emplace_back(conv_.z, conv_.result());
    return pairs;
  }

 private:
  struct Folded {
    float *weights, *bias;
  };
  Folded take_folded(ScratchCarver& carver) const {
    return {carver.take<float>(folded_->weights()), carver.take<float>(folded_->channels())};
  }
  float* take_weights(ScratchCarver& carver) const {
    return carver.take<float>(static_cast<std::int64_t>(winograd::weights_bytes(problem_) / sizeof(float)));
  }
  winograd::GradientMemory memory() const {
    if (has_weights()) return winograd::both_gradients_memory(weights_of_, blocking_, threads_);
    return {.room = winograd::convolve_room_bytes(problem_, blocking_, threads_)};
  }
  bool has_weights() const { return conv_.weights_node >= 0; }

  Sink sink(const KernelArgs& args, ScratchCarver& carver) const {
    const auto tensor = [&](int value) { return tensor_of(args, value); };
    Sink sink{.y = tensor(conv_.result()),
              .dtype = y_dtype_,
              .bias = folded_ ? nullptr : static_cast<const float*>(tensor(conv_.bias)),
              .z = tensor(conv_.z),
              .relu = conv_.activation != nullptr,
              .mask_y = tensor(conv_.mask)};
    if (conv_.masked_by.present()) {
      const Normalisation mask = normalisation_of(args, conv_.masked_by, problem_.out, carver);
      sink.mask_x = tensor(conv_.masked_by.x);
      sink.mask_mean = mask.mean;
      sink.mask_scale = mask.scale;
      sink.mask_shift = mask.beta;
    }
    if (conv_.statistics.present()) sink.sums = Sums::moments;
    if (conv_.sums.present()) {
      sink.sums = Sums::gradient;
      sink.norm_x = tensor(conv_.sums.x);
      sink.norm_mean = static_cast<const float*>(tensor(conv_.sums.mean));
    }
    if (sink.sums != Sums::none) {
      sink.first = carver.take<double>(problem_.out);
      sink.second = carver.take<double>(problem_.out);
    }
    return sink;
  }

  void finish_statistics(const KernelArgs& args, const Sink& sink) const {
    const NormRoles& norm = conv_.statistics;
    for (std::int64_t c = 0; c < problem_.out; ++c) {
      const core::Moments all = moments_of(sink, c);
      if (norm.mean >= 0) args.out<float>(norm.mean)[c] = static_cast<float>(all.mean);
      if (norm.inv_std >= 0) args.out<float>(norm.inv_std)[c] = norm::inverse_deviation(all.variance(), eps_);
      track(args, norm, c, all);
    }
  }

  core::Moments moments_of(const Sink& sink, std::int64_t c) const {
    const std::int64_t rows = problem_.batch * problem_.out_height() * problem_.out_width();
    if (std::isfinite(sink.second[c])) return {static_cast<double>(rows), sink.first[c], sink.second[c]};
    return y_dtype_ == DType::bf16
               ? moments_in_doubles(static_cast<const Bf16*>(sink.y) + c, rows, problem_.out)
               : moments_in_doubles(static_cast<const float*>(sink.y) + c, rows, problem_.out);
  }

  void finish_sums(const KernelArgs& args, const Sink& sink) const {
    const NormRoles& norm = conv_.sums;
    const float* inv_std = args.in<float>(norm.inv_std);
    for (std::int64_t c = 0; c < problem_.out; ++c) {
      if (norm.dbeta >= 0) args.out<float>(norm.dbeta)[c] = static_cast<float>(sink.first[c]);
      if (norm.dgamma >= 0) args.out<float>(norm.dgamma)[c] = static_cast<float>(sink.second[c] * inv_std[c]);
    }
  }

  int read_image() const { return is_grad_input_ ? conv_.y : conv_.x; }
  const Prologue& prologue() const { return is_grad_input_ ? conv_.before_y : conv_.before_x; }

  Convolution conv_;
  bool is_grad_input_;
  Problem weights_of_;  ///< the forward convolution's
  Problem problem_;
  Operand operand_, x_;
  std::optional<FoldedWeights> folded_;  ///< of a batch norm in evaluation
  winograd::Blocking blocking_;
  int threads_;
  DType w_dtype_ = DType::f32, y_dtype_ = DType::f32, dw_dtype_ = DType::f32;
  double eps_ = 0;  ///< of the norm whose statistics these are
};

class WinogradGradWeight final : public Kernel {
 public:
  WinogradGradWeight(const Graph& graph, const Group& group) : threads_(omp_get_max_threads()) {
    const auto& conv = *group.as<Convolution>();
    const plan::GraphNode& node = graph.node(conv.node);
    problem_ = *winograd_problem(graph, node);
    x_ = Operand(graph, group, conv.x, conv.before_x);
    dy_ = Operand(graph, group, conv.y, conv.before_y);
    dw_ = conv.w;
    dtype_ = graph.value(dw_).dtype;
    blocking_ = tuned_blocking(node, winograd_gradient_blockings(problem_, threads_));
    name = "highway:winograd F(3×3, 4×4)";
    arithmetic = {.flops = winograd::product_flops(problem_), .dtype = DType::f32};
  }

  void run(const KernelArgs& args) override {
    ScratchCarver carver(args.scratch);
    const Source x = x_.source(args, carver), dy = dy_.source(args, carver);
    winograd::weight_gradient(problem_, x, dy, args.values[dw_], dtype_, blocking_, threads_,
                              take_scratch(carver, memory()), args.rooms);
  }

  std::size_t scratch_bytes() const override {
    ScratchCarver carver(nullptr);
    x_.source({}, carver);
    dy_.source({}, carver);
    take_scratch(carver, memory());
    return carver.used();
  }
  std::size_t room_bytes() const override { return memory().room; }

 private:
  winograd::GradientMemory memory() const {
    return winograd::weight_gradient_memory(problem_, blocking_, threads_);
  }

  Problem problem_;
  Operand x_, dy_;
  int dw_ = -1;
  DType dtype_ = DType::f32;
  winograd::GradientBlocking blocking_;
  int threads_;
};

}  // namespace

std::unique_ptr<Kernel> make_winograd_convolution(const Graph& graph, const Group& group) {
  return std::make_unique<WinogradConvolution>(graph, group);
}

std::unique_ptr<Kernel> make_winograd_grad_weight(const Graph& graph, const Group& group) {
  return std::make_unique<WinogradGradWeight>(graph, group);
}

}  // namespace fusetape::backends::cpu::conv
