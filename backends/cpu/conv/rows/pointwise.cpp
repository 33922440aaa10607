#include <omp.h>

#include <algorithm>
#include <optional>

#include "backends/cpu/channel_moments.hpp"
#include "backends/cpu/conv/rows/operand_rows.hpp"
#include "backends/cpu/conv/rows/products.hpp"
#include "backends/cpu/conv/rows/result_rows.hpp"
#include "backends/cpu/conv/rows/row_convolution.hpp"
#include "backends/cpu/conv/rows/weight_sums.hpp"

/// 1×1 convolutions with stride 1: an image is a matrix of pixels and channels.
namespace fusetape::backends::cpu::conv::rows {
namespace {

using plan::Convolution;
using plan::ConvPass;
using plan::Graph;
using plan::Group;

/// Pixels that a thread works on at a time: what it reads and writes of them stays in L2, they are whole
/// tiles of products, and enough of them that the weights need not come from memory for a few.
std::int64_t pixels_at_once(std::int64_t floats_of_pixel) {
  constexpr std::int64_t most_floats = 1 << 16, tile = 24, most = 16 * tile, least = 3 * tile;
  return std::clamp(most_floats / floats_of_pixel / tile * tile, least, most);
}

/// All passes: y, dx, dw, or dx and dw together. T is float or Bf16; products are of floats.
template <class T>
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
    if (makes_dw()) {
      dw_dtype_ = graph.value(dw()).dtype;
      sums_.emplace(out_, in_, parts_);
      at_once_ = std::min<std::int64_t>(at_once_, 120);
    }
    if (makes_image()) {
      result_.emplace(graph, conv_, parts_);
      const std::int64_t row = result_->pixels_of_row();
      at_once_ = (at_once_ + row - 1) / row * row;
    }
    name = "highway:1×1";
    ScratchCarver counted(nullptr);
    RoomCarver rooms({});
    carve({}, counted, rooms);
    scratch_bytes_ = counted.used();
    room_bytes_ = rooms.used();
  }

  void run(const KernelArgs& args) override {
    ScratchCarver carver(args.scratch);
    RoomCarver rooms(args.rooms);
    const Room room = carve(args, carver, rooms);
    if (makes_image()) pack_weights(args, room);
    for_parts(parts_, [&](int part) {
      Pixels pixels{.part = part, .first = pixels_ * part / parts_, .room = room.parts[part]};
      const std::int64_t end = pixels_ * (part + 1) / parts_;
      for (; pixels.first < end; pixels.first += pixels.count, pixels.starts = false) {
        pixels.count = std::min(at_once_, end - pixels.first);
        compute(pixels, std::min(at_once_, end - pixels.first - pixels.count), room.weights);
      }
    });
    if (result_) result_->end(args);
    if (sums_) sums_->end(dw_dtype_, args.out<void>(dw()));
  }

  std::size_t scratch_bytes() const override { return scratch_bytes_; }
  std::size_t room_bytes() const override { return room_bytes_; }

  std::vector<std::pair<int, int>> in_place() const override { return tracked_in_place(conv_.statistics); }

 private:
  struct Room {
    float *as_floats, *weights;
    InRooms<float> parts;
  };
  /// Some of a part.
  struct Pixels {
    int part = 0;
    std::int64_t first = 0, count = 0;
    bool starts = true;
    float* room = nullptr;
  };

  static constexpr bool narrow = std::is_same_v<T, Bf16>;

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
  std::int64_t products_room() const { return makes_image() && narrow ? at_once_ * made() : 0; }
  std::int64_t part_room() const { return x_room() + g_room() + products_room(); }
  Room carve(const KernelArgs& args, ScratchCarver& carver, RoomCarver& rooms) {
    if (x_) x_->begin(args, carver);
    if (g_) g_->begin(args, carver);
    if (result_) result_->begin(args, carver, rooms);
    if (sums_) sums_->begin(rooms);
    float* const as_floats = carver.take<float>(makes_image() && narrow ? in_ * out_ : 0);
    float* const weights = carver.take<float>(makes_image() ? packed_size(summed(), made()) : 0);
    return {as_floats, weights, rooms.take<float>(part_room())};
  }

  void pack_weights(const KernelArgs& args, const Room& room) const {
    float* const packed = room.weights;
    const auto* w = args.in<float>(conv_.w);
    if constexpr (narrow) {
      load_block(DType::bf16, w, room.as_floats, static_cast<std::size_t>(in_ * out_));
      w = room.as_floats;
    }
    const std::int64_t panel = summed() * panel_width();
    is_forward() ? pack(w, in_, out_, 1, in_, packed, panel, parts_)
                 : pack(w, out_, in_, in_, 1, packed, panel, parts_);
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
    if (sums_) sums_->add(pixels.part, pixels.starts, g, {x, in_, panel_width()}, count, &ahead);
    if (!result_) return;
    T* const result = result_->at(first);
    float* products = pixels.room + x_room() + g_room();
    if constexpr (!narrow) products = result;
    multiply({.m = count,
              .n = made(),
              .k = summed(),
              .a = is_forward() ? x : g,
              .a_row = summed(),
              .a_column = 1,
              .b = weights,
              .b_row = panel_width(),
              .b_panel = summed() * panel_width(),
              .c = products,
              .c_row = made(),
              .ahead = sums_ ? nullptr : &ahead});
    if constexpr (narrow)
      store_block(DType::bf16, products, result, static_cast<std::size_t>(count * made()));
    result_->finish(pixels.part, first, count);
  }

  Convolution conv_;
  std::int64_t in_, out_, pixels_;
  int parts_;
  std::int64_t at_once_ = 0;
  std::size_t scratch_bytes_ = 0, room_bytes_ = 0;
  DType dw_dtype_ = DType::f32;
  std::optional<OperandRows<T>> x_, g_;
  std::optional<ResultRows<T>> result_;
  std::optional<WeightSums> sums_;
};

}  // namespace

int parts_of_pixels(std::int64_t pixels) {
  return static_cast<int>(std::clamp<std::int64_t>(pixels / 64, 1, omp_get_max_threads()));
}

std::unique_ptr<Kernel> make_pointwise(const Graph& graph, const Group& group) {
  if (graph.value(group.as<Convolution>()->x).dtype == DType::bf16)
    return std::make_unique<Pointwise<Bf16>>(graph, group);
  return std::make_unique<Pointwise<float>>(graph, group);
}

}  // namespace fusetape::backends::cpu::conv::rows
