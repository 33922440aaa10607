#include <omp.h>

#include <algorithm>
#include <optional>

#include "backends/cpu/conv/rows/operand_rows.hpp"
#include "backends/cpu/conv/rows/products.hpp"
#include "backends/cpu/conv/rows/result_rows.hpp"
#include "backends/cpu/conv/rows/row_convolution.hpp"

/// 1×1 convolutions with stride 1: an image is a matrix of pixels and channels.
namespace fusetape::backends::cpu::conv::rows {
namespace {

using plan::Convolution;
using plan::ConvPass;
using plan::Graph;
using plan::Group;

/// Pixels that a thread works on at a time: what it reads and writes of them stays in L2, and they are whole
/// tiles of products.
std::int64_t pixels_at_once(std::int64_t floats_of_pixel) {
  constexpr std::int64_t most_floats = 1 << 16, tile = 24, most = 16 * tile;
  return std::clamp(most_floats / floats_of_pixel / tile * tile, tile, most);
}

/// dw(o, c) = Σ over pixels of g(p, o)·x(p, c): of each thread for its own, then of all threads in their
/// order.
class WeightSums {
 public:
  WeightSums(std::int64_t out, std::int64_t in, int parts) : out_(out), in_(in), parts_(parts) {}

  /// Before the pixels of a run. The first part's sums are in dw.
  void begin(float* dw, ScratchCarver& carver) {
    dw_ = dw;
    others_ = carver.take<float>((parts_ - 1) * out_ * in_);
  }
  /// `starts`: these are the part's first pixels.
  void add(int part, bool starts, const float* g, const float* x, std::int64_t pixels, Ahead* ahead) const {
    multiply({.m = out_,
              .n = in_,
              .k = pixels,
              .a = g,
              .a_row = 1,
              .a_column = out_,
              .b = x,
              .b_row = in_,
              .b_panel = panel_width(),
              .c = part == 0 ? dw_ : others_ + (part - 1) * out_ * in_,
              .c_row = in_,
              .adds = !starts,
              .ahead = ahead});
  }
  void end() const {
    const std::int64_t size = out_ * in_;
#pragma omp parallel for num_threads(parts_) schedule(static)
    for (std::int64_t i = 0; i < size; ++i) {
      float sum = dw_[i];
      for (int part = 1; part < parts_; ++part) sum += others_[(part - 1) * size + i];
      dw_[i] = sum;
    }
  }

 private:
  std::int64_t out_, in_;
  int parts_;
  float *dw_ = nullptr, *others_ = nullptr;
};

/// All passes: y, dx, dw, or dx and dw together.
class Pointwise final : public Kernel {
 public:
  Pointwise(const Graph& graph, const Group& group)
      : conv_(*group.as<Convolution>()),
        in_(graph.value(conv_.x).shape[3]),
        out_(graph.value(conv_.y).shape[3]),
        pixels_(graph.value(conv_.x).elements() / in_),
        parts_(parts_of_pixels(pixels_)) {
    at_once_ = pixels_at_once(in_ + out_);
    const bool forward = conv_.pass == ConvPass::forward;
    if (forward || makes_dw()) x_.emplace(graph, group, forward_x(), conv_.before_x);
    if (!forward) g_.emplace(graph, group, conv_.y, conv_.before_y);
    if (makes_image()) result_.emplace(graph, conv_, parts_);
    if (makes_dw()) {
      sums_.emplace(out_, in_, parts_);
      at_once_ = std::min<std::int64_t>(at_once_, 120);
    }
    name = "highway:1×1";
    ScratchCarver counted(nullptr);
    carve({}, counted);
    scratch_bytes_ = counted.used();
  }

  void run(const KernelArgs& args) override {
    ScratchCarver carver(args.scratch);
    const Room room = carve(args, carver);
    if (makes_image()) pack_weights(args.in<float>(conv_.w), room.weights);
    for_parts(parts_, [&](int part) {
      Pixels pixels{.part = part, .first = pixels_ * part / parts_, .room = room.parts + part * part_room()};
      const std::int64_t end = pixels_ * (part + 1) / parts_;
      for (; pixels.first < end; pixels.first += pixels.count, pixels.starts = false) {
        pixels.count = std::min(at_once_, end - pixels.first);
        compute(pixels, std::min(at_once_, end - pixels.first - pixels.count), room.weights);
      }
    });
    if (result_) result_->end(args);
    if (sums_) sums_->end();
  }

  std::size_t scratch_bytes() const override { return scratch_bytes_; }

  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs;
    const plan::NormRoles& norm = conv_.statistics;
    if (norm.new_running_mean >= 0) pairs.emplace_back(norm.running_mean, norm.new_running_mean);
    if (norm.new_running_var >= 0) pairs.emplace_back(norm.running_var, norm.new_running_var);
    return pairs;
  }

 private:
  struct Room {
    float *weights, *parts;
  };
  /// Some of a part.
  struct Pixels {
    int part = 0;
    std::int64_t first = 0, count = 0;
    bool starts = true;
    float* room = nullptr;
  };

  bool makes_image() const { return conv_.pass != ConvPass::grad_weight; }
  bool makes_dw() const { return conv_.pass == ConvPass::grad_weight || conv_.weights_node >= 0; }
  int forward_x() const { return conv_.pass == ConvPass::grad_input ? conv_.read_x : conv_.x; }
  int dw() const { return conv_.pass == ConvPass::grad_input ? conv_.dw : conv_.w; }
  /// Of the product that makes an image: y = x·wᵀ or dx = g·w.
  bool is_forward() const { return conv_.pass == ConvPass::forward; }
  std::int64_t summed() const { return is_forward() ? in_ : out_; }
  std::int64_t made() const { return is_forward() ? out_ : in_; }

  std::int64_t x_room() const { return x_ ? x_->room(at_once_) : 0; }
  std::int64_t g_room() const { return g_ ? g_->room(at_once_) : 0; }
  std::int64_t part_room() const { return x_room() + g_room(); }
  Room carve(const KernelArgs& args, ScratchCarver& carver) {
    if (x_) x_->begin(args, carver);
    if (g_) g_->begin(args, carver);
    if (result_) result_->begin(args, carver);
    if (sums_) sums_->begin(args.values == nullptr ? nullptr : args.out<float>(dw()), carver);
    float* const weights = carver.take<float>(makes_image() ? packed_size(summed(), made()) : 0);
    return {weights, carver.take<float>(parts_ * part_room())};
  }

  void pack_weights(const float* w, float* packed) const {
    is_forward() ? pack(w, in_, out_, 1, in_, packed) : pack(w, out_, in_, in_, 1, packed);
  }

  /// `next`: pixels that come after these.
  void compute(const Pixels& pixels, std::int64_t next, const float* weights) {
    const std::int64_t first = pixels.first, count = pixels.count, following = first + count;
    const float* const x = x_ ? x_->read(first, count, pixels.room) : nullptr;
    const float* const g = g_ ? g_->read(first, count, pixels.room + x_room()) : nullptr;
    Ahead ahead;
    if (x_) x_->look_ahead(following, next, ahead);
    if (g_) g_->look_ahead(following, next, ahead);
    if (result_) result_->look_ahead(following, next, ahead);
    if (sums_) sums_->add(pixels.part, pixels.starts, g, x, count, &ahead);
    if (!result_) return;
    multiply({.m = count,
              .n = made(),
              .k = summed(),
              .a = is_forward() ? x : g,
              .a_row = summed(),
              .a_column = 1,
              .b = weights,
              .b_row = panel_width(),
              .b_panel = summed() * panel_width(),
              .c = result_->at(first),
              .c_row = made(),
              .ahead = sums_ ? nullptr : &ahead});
    result_->finish(pixels.part, first, count);
  }

  Convolution conv_;
  std::int64_t in_, out_, pixels_;
  int parts_;
  std::int64_t at_once_ = 0;
  std::size_t scratch_bytes_ = 0;
  std::optional<OperandRows<float>> x_, g_;
  std::optional<ResultRows<float>> result_;
  std::optional<WeightSums> sums_;
};

}  // namespace

int parts_of_pixels(std::int64_t pixels) {
  return static_cast<int>(std::clamp<std::int64_t>(pixels / 64, 1, omp_get_max_threads()));
}

std::unique_ptr<Kernel> make_pointwise(const Graph& graph, const Group& group) {
  return std::make_unique<Pointwise>(graph, group);
}

}  // namespace fusetape::backends::cpu::conv::rows
