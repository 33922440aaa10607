#include <omp.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "backends/cpu/channel_moments.hpp"
#include "backends/cpu/conv/rows/depthwise_rows.hpp"
#include "backends/cpu/conv/rows/operand_rows.hpp"
#include "backends/cpu/conv/rows/result_rows.hpp"
#include "backends/cpu/conv/rows/row_convolution.hpp"
#include "backends/cpu/conv/rows/taps.hpp"
#include "core/check.hpp"
#include "core/numerics/half.hpp"

/// Depthwise convolutions, image by image and row by row. The rows of an image that are read stand in a ring:
/// each is made once, and read from L1 or L2.
namespace fusetape::backends::cpu::conv::rows {
namespace {

using plan::Convolution;
using plan::ConvPass;
using plan::Graph;
using plan::Group;

/// The filter {channels, kh, kw, 1}, and what it does.
struct Filter {
  std::int64_t height = 0, width = 0, channels = 0;
  std::int64_t places() const { return height * width; }
};

/// The last rows of one image, with room for the padding at both sides, which stays 0.
class alignas(128) Ring {
 public:
  Ring(const Axis& rows, const Axis& columns, std::int64_t channels)
      : rows_(rows.read),
        slots_(std::min(rows.read,
                        (rows.kernel - 1) * rows.dilation / (rows.is_grad_input ? rows.stride : 1) + 1)),
        left_(columns.before()),
        width_(columns.read),
        channels_(channels),
        slot_((left_ + columns.read + columns.behind()) * channels) {}

  std::int64_t floats() const { return slots_ * slot_; }
  void begin(float* room) {
    data_ = room;
    std::fill_n(room, floats(), 0.0f);
  }
  /// From row `first` of an image on.
  void begin_image(std::int64_t image, std::int64_t first) {
    image_ = image;
    next_ = first;
  }
  /// Reads on, up to before row `end` of the image.
  template <class T>
  void read_to(std::int64_t end, const OperandRows<T>& operand, float* room) {
    for (; next_ < std::min(end, rows_); ++next_) {
      float* const to = slot(next_) + left_ * channels_;
      const float* from =
          operand.read((image_ * rows_ + next_) * width_, width_, std::is_same_v<T, float> ? to : room);
      if (from != to) std::copy_n(from, width_ * channels_, to);
    }
  }
  /// What reading the next row will.
  template <class T>
  void look_ahead(const OperandRows<T>& operand, Ahead& ahead) const {
    if (next_ < rows_) operand.look_ahead((image_ * rows_ + next_) * width_, width_, ahead);
  }
  /// Pixel 0 of a row that was read and is still there.
  const float* row(std::int64_t row) const {
    FUSETAPE_ASSERT(row < next_ && row >= next_ - slots_);
    return slot(row) + left_ * channels_;
  }

 private:
  float* slot(std::int64_t row) const { return data_ + row % slots_ * slot_; }

  std::int64_t rows_, slots_, left_, width_, channels_, slot_;
  float* data_ = nullptr;
  std::int64_t image_ = 0, next_ = 0;
};

/// What all passes share.
struct Geometry : Axes {
  Geometry(const Graph& graph, const Convolution& conv)
      : Axes(graph, conv),
        filter{rows.kernel, columns.kernel, graph.value(conv.x).shape[3]},
        images(graph.value(conv.x).shape[0]) {}
  std::int64_t channels() const { return filter.channels; }
  /// Cuts the rows that are written, of all images, into a part for each thread. `whole_images`: no row may
  /// be read by two of them.
  void cut(bool whole_images) {
    const std::int64_t pixels = images * rows.written * columns.written;
    rows_of_unit = whole_images ? rows.written : 1;
    parts = static_cast<int>(
        std::min<std::int64_t>(parts_of_pixels(pixels), images * rows.written / rows_of_unit));
  }
  std::int64_t first_row(int part) const {
    return images * rows.written / rows_of_unit * part / parts * rows_of_unit;
  }
  /// The end of what row `row` meets, perhaps outside of the image.
  std::int64_t rows_met(std::int64_t row) const {
    std::int64_t end = 0, at = 0;
    for (std::int64_t i = 0; i < filter.height; ++i) {
      if (rows.meets(row, i, at)) end = std::max(end, at + 1);
    }
    return end;
  }

  Filter filter;
  std::int64_t images, rows_of_unit = 1;
  int parts = 1;
};

/// dw(c, i, j) = Σ over pixels of x·g. The sum of some rows is in f32, that of many in doubles: of each
/// thread for its own, then of all threads in their order.
class TapSums {
 public:
  TapSums(const Filter& filter, int parts) : filter_(filter), parts_(parts) {}

  /// Before the rows of a run.
  void begin(RoomCarver& rooms) {
    sums_ = rooms.take<float>(size());
    totals_ = rooms.take<double>(size());
  }
  void begin_part(int part) const {
    std::fill_n(sums_[part], size(), 0.0f);
    std::fill_n(totals_[part], size(), 0.0);
  }
  /// {channels} for a place of the filter.
  float* sums(int part, std::int64_t place) const { return sums_[part] + place * filter_.channels; }
  /// To the doubles.
  void fold(int part) const {
    float* const sums = sums_[part];
    double* const totals = totals_[part];
    for (std::int64_t i = 0; i < size(); ++i) totals[i] += static_cast<double>(std::exchange(sums[i], 0.0f));
  }
  void end(DType dtype, void* dw) const {
    for (std::int64_t c = 0; c < filter_.channels; ++c) {
      for (std::int64_t i = 0; i < filter_.places(); ++i) {
        double sum = 0;
        for (int part = 0; part < parts_; ++part) sum += totals_[part][i * filter_.channels + c];
        dw_element(dtype, dw, c * filter_.places() + i, static_cast<float>(sum));
      }
    }
  }

 private:
  static void dw_element(DType dtype, void* dw, std::int64_t i, float value) {
    if (dtype == DType::f32)
      static_cast<float*>(dw)[i] = value;
    else
      static_cast<std::uint16_t*>(dw)[i] = core::to_bf16(value);
  }
  std::int64_t size() const { return filter_.places() * filter_.channels; }

  Filter filter_;
  int parts_;
  InRooms<float> sums_;
  InRooms<double> totals_;
};

/// All passes: y, dx, dw, or dx and dw together. The ring holds x where y or dw alone is made, else g.
/// T is float or Bf16; what is computed with are floats.
template <class T>
class Depthwise final : public Kernel {
 public:
  Depthwise(const Graph& graph, const Group& group)
      : conv_(*group.as<Convolution>()), geometry_(graph, conv_) {
    const bool of_g = conv_.pass == ConvPass::grad_input;
    const bool alone = conv_.pass == ConvPass::grad_weight;
    of_g ? ringed_.emplace(graph, group, conv_.y, conv_.before_y)
         : ringed_.emplace(graph, group, conv_.x, conv_.before_x);
    if (alone) beside_.emplace(graph, group, conv_.y, conv_.before_y);
    geometry_.cut(ringed_->is_written());
    if (conv_.weights_node >= 0) beside_.emplace(graph, group, conv_.read_x, conv_.before_x);
    if (!alone) result_.emplace(graph, conv_, geometry_.parts);
    if (beside_) {
      sums_.emplace(geometry_.filter, geometry_.parts);
      dw_dtype_ = graph.value(dw()).dtype;
    }
    rings_.assign(static_cast<std::size_t>(geometry_.parts),
                  Ring(geometry_.rows, geometry_.columns, geometry_.channels()));
    // Some rows are finished at a time: sums over a few pixels cost more than the pixels.
    constexpr std::int64_t most_floats = 1 << 16;
    const std::int64_t repeat = result_ ? result_->pixels_of_row() : 1, rows = most_floats / row_floats();
    std::int64_t unit = 1;  // rows that are whole wide ones
    while (unit < repeat && unit * geometry_.columns.written % repeat != 0) ++unit;
    rows_at_once_ = std::max(unit, rows - rows % unit);
    name = "highway:depthwise";
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
    if (result_) turn_weights(args.in<T>(conv_.w), room.weights);
    for_parts(geometry_.parts, [&](int part) {
      Part mine{.part = part, .ring = &rings_[static_cast<std::size_t>(part)], .weights = room.weights};
      ScratchCarver own(room.parts[part]);
      mine.ring->begin(carve(mine, own));
      run_part(mine);
    });
    if (result_) result_->end(args);
    if (sums_) sums_->end(dw_dtype_, args.out<void>(dw()));
  }

  std::size_t scratch_bytes() const override { return scratch_bytes_; }
  std::size_t room_bytes() const override { return room_bytes_; }

  std::vector<std::pair<int, int>> in_place() const override { return tracked_in_place(conv_.statistics); }

 private:
  struct Room {
    float* weights;
    InRooms<std::byte> parts;
  };
  struct Part {
    int part = 0;
    Ring* ring = nullptr;
    const float* weights = nullptr;
    float *beside = nullptr, *products = nullptr, *ringed = nullptr;  ///< a row of each
    // Of each tap.
    const float **images = nullptr, **filters = nullptr;
    float** sums = nullptr;
  };

  static constexpr bool narrow = std::is_same_v<T, Bf16>;

  int dw() const { return conv_.weights_node >= 0 ? conv_.dw : conv_.w; }
  std::int64_t row_floats() const { return geometry_.columns.written * geometry_.channels(); }
  std::int64_t beside_room() const { return beside_ ? beside_->room(geometry_.columns.written) : 0; }
  std::int64_t products_room() const { return result_ && narrow ? row_floats() : 0; }
  std::int64_t ringed_room() const { return narrow ? ringed_->room(geometry_.columns.read) : 0; }
  /// What a thread has for itself; returns the ring's floats.
  float* carve(Part& part, ScratchCarver& room) const {
    const std::int64_t places = geometry_.filter.places();
    part.beside = room.take<float>(beside_room());
    part.products = room.take<float>(products_room());
    part.ringed = room.take<float>(ringed_room());
    part.images = room.take<const float*>(places);
    part.filters = room.take<const float*>(places);
    part.sums = room.take<float*>(places);
    return room.take<float>(rings_[0].floats());
  }
  Room carve(const KernelArgs& args, ScratchCarver& carver, RoomCarver& rooms) {
    ringed_->begin(args, carver);
    if (beside_) beside_->begin(args, carver);
    if (result_) result_->begin(args, carver, rooms);
    if (sums_) sums_->begin(rooms);
    const Filter& filter = geometry_.filter;
    float* const weights = carver.take<float>(filter.places() * filter.channels);
    Part counted;
    ScratchCarver one(nullptr);
    carve(counted, one);
    return {weights, rooms.take<std::byte>(static_cast<std::int64_t>(one.used()))};
  }

  /// {channels, place} to {place, channels}.
  void turn_weights(const T* w, float* turned) const {
    const Filter& filter = geometry_.filter;
    for (std::int64_t c = 0; c < filter.channels; ++c) {
      for (std::int64_t i = 0; i < filter.places(); ++i)
        turned[i * filter.channels + c] = to_float(w[c * filter.places() + i]);
    }
  }

  void run_part(const Part& mine) {
    const std::int64_t width = geometry_.columns.written, height = geometry_.rows.written;
    const std::int64_t begin = geometry_.first_row(mine.part), end = geometry_.first_row(mine.part + 1);
    constexpr std::int64_t pixels_of_sum = 256;
    const std::int64_t rows_of_sum = std::max<std::int64_t>(1, pixels_of_sum / width);
    if (sums_) sums_->begin_part(mine.part);
    std::int64_t done = begin;
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t image = row / height, r = row - image * height;
      if (r == 0 || row == begin) mine.ring->begin_image(image, r == 0 ? 0 : geometry_.rows.earliest(r));
      mine.ring->read_to(geometry_.rows_met(r), *ringed_, mine.ringed);
      const float* const beside = beside_ ? beside_->read(row * width, width, mine.beside) : nullptr;
      Ahead ahead;
      mine.ring->look_ahead(*ringed_, ahead);
      if (beside_ && row + 1 < end) beside_->look_ahead((row + 1) * width, width, ahead);
      if (result_ && row + 1 < end) result_->look_ahead((row + 1) * width, width, ahead);
      compute(mine, row, r, beside, ahead);
      if (r + 1 == height && ringed_->is_written())
        mine.ring->read_to(geometry_.rows.read, *ringed_, mine.ringed);
      const bool last = row + 1 == end;
      if (sums_ && (last || (row + 1 - begin) % rows_of_sum == 0)) sums_->fold(mine.part);
      if (row + 1 - done < rows_at_once_ && !last) continue;
      if (result_) result_->finish(mine.part, done * width, (row + 1 - done) * width);
      done = row + 1;
    }
  }

  /// Row `row` of all images, which is row r of its own.
  void compute(const Part& mine, std::int64_t row, std::int64_t r, const float* beside, Ahead& ahead) const {
    if (!result_) return convolve(mine, r, beside, nullptr, ahead);
    T* const result = result_->at(row * geometry_.columns.written);
    if constexpr (narrow) {
      convolve(mine, r, beside, mine.products, ahead);
      store_block(DType::bf16, mine.products, result, static_cast<std::size_t>(row_floats()));
    } else {
      convolve(mine, r, beside, result, ahead);
    }
  }

  /// Row r of an image: the columns of one remainder after the other.
  void convolve(const Part& mine, std::int64_t r, const float* beside, float* to, Ahead& ahead) const {
    const Axis& columns = geometry_.columns;
    const std::int64_t channels = geometry_.channels(), period = columns.period();
    for (std::int64_t q = 0; q < std::min(period, columns.written); ++q) {
      const int taps = find_taps(mine, r, q);
      const std::int64_t pixels = (columns.written - q + period - 1) / period;
      if (beside != nullptr) {
        add_weight_gradient({.taps = taps,
                             .x = mine.images,
                             .g = beside + q * channels,
                             .sums = mine.sums,
                             .pixels = pixels,
                             .channels = channels,
                             .x_step = columns.step() * channels,
                             .g_step = period * channels});
      }
      if (to == nullptr) continue;
      convolve_row({.taps = taps,
                    .x = mine.images,
                    .w = mine.filters,
                    .y = to + q * channels,
                    .pixels = pixels,
                    .channels = channels,
                    .x_step = columns.step() * channels,
                    .y_step = period * channels,
                    .ahead = &ahead});
    }
  }

  /// What meets the written row r, from its column q on.
  int find_taps(const Part& mine, std::int64_t r, std::int64_t q) const {
    const Axis &rows = geometry_.rows, &columns = geometry_.columns;
    const std::int64_t channels = geometry_.channels();
    int taps = 0;
    for (std::int64_t i = 0; i < rows.kernel; ++i) {
      std::int64_t row = 0, column = 0;
      if (!rows.meets(r, i, row) || row < 0 || row >= rows.read) continue;
      for (std::int64_t j = 0; j < columns.kernel; ++j) {
        if (!columns.meets(q, j, column)) continue;
        const std::int64_t place = i * columns.kernel + j;
        mine.images[taps] = mine.ring->row(row) + column * channels;
        mine.filters[taps] = mine.weights + place * channels;
        mine.sums[taps] = sums_ ? sums_->sums(mine.part, place) : nullptr;
        ++taps;
      }
    }
    return taps;
  }

  Convolution conv_;
  Geometry geometry_;
  std::int64_t rows_at_once_ = 0;
  std::size_t scratch_bytes_ = 0, room_bytes_ = 0;
  DType dw_dtype_ = DType::f32;
  std::optional<OperandRows<T>> ringed_, beside_;
  std::optional<ResultRows<T>> result_;
  std::optional<TapSums> sums_;
  std::vector<Ring> rings_;
};

}  // namespace

std::unique_ptr<Kernel> make_depthwise(const Graph& graph, const Group& group) {
  if (graph.value(group.as<Convolution>()->x).dtype == DType::bf16)
    return std::make_unique<Depthwise<Bf16>>(graph, group);
  return std::make_unique<Depthwise<float>>(graph, group);
}

}  // namespace fusetape::backends::cpu::conv::rows
