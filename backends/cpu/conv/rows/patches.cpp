#include <omp.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "backends/cpu/channel_moments.hpp"
#include "backends/cpu/conv/rows/operand_rows.hpp"
#include "backends/cpu/conv/rows/products.hpp"
#include "backends/cpu/conv/rows/result_rows.hpp"
#include "backends/cpu/conv/rows/row_convolution.hpp"
#include "backends/cpu/conv/rows/taps.hpp"
#include "backends/cpu/conv/rows/weight_sums.hpp"

/// Convolutions of any filter, stride and dilation as products of matrices: a matrix's row is the patch of
/// the image that a pixel meets, gathered for some rows of pixels at a time. With a stride, the pixels of an
/// input's gradient meet one of several parts of the filter; those that meet the same one are a matrix.
namespace fusetape::backends::cpu::conv::rows {
namespace {

using plan::Convolution;
using plan::ConvPass;
using plan::Graph;
using plan::Group;

/// One axis of the written places of one remainder, from the first of them on.
struct AxisTaps {
  std::int64_t first = 0, count = 0;
  std::vector<std::int64_t> places;    ///< of the filter, in the order in which they meet the image
  std::vector<std::int64_t> at;        ///< where they do, of the first written place
  std::int64_t pieces = 0, piece = 1;  ///< taps side by side in the image

  AxisTaps(const Axis& axis, std::int64_t remainder) : first(remainder) {
    count = (axis.written - first + axis.period() - 1) / axis.period();
    for (std::int64_t i = 0; i < axis.kernel; ++i) {
      const std::int64_t place = axis.is_grad_input ? axis.kernel - 1 - i : i;
      std::int64_t met = 0;
      if (!axis.meets(first, place, met)) continue;
      places.push_back(place);
      at.push_back(met);
    }
    bool adjacent = true;
    for (std::size_t i = 1; i < at.size(); ++i) adjacent = adjacent && at[i] == at[i - 1] + 1;
    pieces = std::ssize(at);
    if (adjacent && pieces > 1) {
      piece = pieces;
      pieces = 1;
    }
  }
  std::int64_t taps() const { return std::ssize(places); }
};

/// Written pixels that meet the same places of the filter.
struct Lattice {
  AxisTaps rows, columns;
  std::int64_t taps() const { return rows.taps() * columns.taps(); }
};

/// A row for each pixel, cut into panels.
struct PatchMatrix {
  float* at = nullptr;
  std::int64_t width = 0, panel = 0;  ///< of a panel; floats from panel to panel

  /// `from` null: zeros.
  void put(std::int64_t pixel, std::int64_t column, const float* from, std::int64_t count) const {
    while (count > 0) {
      const std::int64_t in_panel = column % width, some = std::min(count, width - in_panel);
      float* const to = at + column / width * panel + pixel * width + in_panel;
      const auto bytes = static_cast<std::size_t>(some) * sizeof(float);
      from != nullptr ? std::memcpy(to, from, bytes) : std::memset(to, 0, bytes);
      if (from != nullptr) from += some;
      column += some;
      count -= some;
    }
  }
};

/// What the passes share: rows are those of all images, one after the other.
struct Geometry : Axes {
  std::int64_t images;

  Geometry(const Graph& graph, const Convolution& conv)
      : Axes(graph, conv), images(graph.value(conv.x).shape[0]) {}

  std::vector<Lattice> lattices() const {
    std::vector<Lattice> all;
    for (std::int64_t r = 0; r < std::min(rows.period(), rows.written); ++r) {
      for (std::int64_t q = 0; q < std::min(columns.period(), columns.written); ++q)
        all.push_back({AxisTaps(rows, r), AxisTaps(columns, q)});
    }
    return all;
  }
  std::int64_t all_rows() const { return images * rows.written; }
  /// The first row of all images that written row `row`, or a later one, reads.
  std::int64_t first_read(std::int64_t row) const {
    const std::int64_t image = row / rows.written, r = row - image * rows.written;
    return image * rows.read + (r == 0 ? 0 : std::min(rows.earliest(r), rows.read));
  }
  /// Up to before which row the written rows up to before `end` read; all of the last image if it ends there.
  std::int64_t end_read(std::int64_t begin, std::int64_t end) const {
    if (end % rows.written == 0) return end / rows.written * rows.read;
    std::int64_t last = first_read(begin), at = 0;
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t image = row / rows.written;
      for (std::int64_t i = 0; i < rows.kernel; ++i) {
        if (rows.meets(row - image * rows.written, i, at))
          last = std::max(last, image * rows.read + std::min(at + 1, rows.read));
      }
    }
    return std::max(last, first_read(end));  // for those rows that nobody meets
  }
};

template <class T>
class PatchConvolution final : public Kernel {
 public:
  PatchConvolution(const Graph& graph, const Group& group)
      : conv_(*group.as<Convolution>()),
        in_(graph.value(conv_.x).shape[3]),
        out_(graph.value(conv_.y).shape[3]),
        geometry_(graph, conv_),
        lattices_(geometry_.lattices()) {
    const bool reads_g = conv_.pass == ConvPass::grad_input;
    read_.emplace(graph, group, reads_g ? conv_.y : conv_.x, reads_g ? conv_.before_y : conv_.before_x);
    cut();
    if (makes_dw()) {
      beside_.emplace(graph, group, conv_.y, conv_.before_y);
      dw_dtype_ = graph.value(conv_.w).dtype;
      sums_.emplace(out_, summed(lattices_[0]), parts_);
    } else {
      result_.emplace(graph, conv_, parts_);
    }
    count_rooms();
    name = "highway:patches";
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
    if (result_) pack_weights(args, room);
    for_parts(parts_, [&](int part) { for_blocks(part, [&](const Rows& rows) { compute(rows, room); }); });
    if (result_) result_->end(args);
    if (sums_) sums_->end(dw_dtype_, args.out<void>(conv_.w));
  }

  std::size_t scratch_bytes() const override { return scratch_bytes_; }
  std::size_t room_bytes() const override { return room_bytes_; }

  std::vector<std::pair<int, int>> in_place() const override { return tracked_in_place(conv_.statistics); }

 private:
  static constexpr bool narrow = std::is_same_v<T, Bf16>;

  struct Room {
    float *as_floats, *weights;
    InRooms<float> read, beside, patches, products;
  };
  /// Some written rows of a part, and of how many are next.
  struct Rows {
    int part = 0;
    std::int64_t begin = 0, end = 0, next = 0;
    bool starts = true;
  };

  bool makes_dw() const { return conv_.pass == ConvPass::grad_weight; }
  bool is_forward() const { return conv_.pass == ConvPass::forward; }
  std::int64_t width() const { return geometry_.columns.written; }
  std::int64_t filter_places() const { return geometry_.rows.kernel * geometry_.columns.kernel; }
  std::int64_t read_channels() const { return read_->channels(); }
  std::int64_t made() const { return is_forward() ? out_ : in_; }
  std::int64_t summed(const Lattice& lattice) const { return lattice.taps() * read_channels(); }
  std::int64_t most_summed() const {
    std::int64_t most = 0;
    for (const Lattice& lattice : lattices_) most = std::max(most, summed(lattice));
    return most;
  }
  /// Whether the written pixels stand in one matrix as in the image.
  bool whole() const { return lattices_.size() == 1; }
  std::int64_t pixels_of(const Lattice& lattice, const Rows& rows) const {
    std::int64_t count = 0;
    for (std::int64_t row = rows.begin; row < rows.end; ++row) count += meets_rows(lattice, row) ? 1 : 0;
    return count * lattice.columns.count;
  }
  bool meets_rows(const Lattice& lattice, std::int64_t row) const {
    return row % geometry_.rows.written % geometry_.rows.period() == lattice.rows.first;
  }

  /// Rows to blocks, of which the patches stay in L2, and blocks to threads: no two of them write what is
  /// read.
  void cut() {
    constexpr std::int64_t most_floats = 1 << 17, most_pixels = 192, least_pixels = 24;
    const std::int64_t periods = geometry_.rows.period() * geometry_.columns.period();
    const std::int64_t pixels =
        std::clamp(most_floats / std::max<std::int64_t>(1, most_summed()), least_pixels, most_pixels) *
        periods;
    rows_at_once_ = std::max<std::int64_t>(1, pixels / width());
    rows_of_unit_ = read_->is_written() ? geometry_.rows.written : 1;
    parts_ = static_cast<int>(std::min<std::int64_t>(parts_of_pixels(geometry_.all_rows() * width()),
                                                     geometry_.all_rows() / rows_of_unit_));
  }
  template <class F>
  void for_blocks(int part, F&& f) const {
    const std::int64_t units = geometry_.all_rows() / rows_of_unit_;
    const std::int64_t end = units * (part + 1) / parts_ * rows_of_unit_;
    Rows rows{.part = part, .begin = units * part / parts_ * rows_of_unit_};
    for (; rows.begin < end; rows.begin = rows.end, rows.starts = false) {
      rows.end = std::min(rows.begin + rows_at_once_, end);
      rows.next = std::min(rows_at_once_, end - rows.end);
      f(rows);
    }
  }

  void count_rooms() {
    std::vector<std::int64_t> most(lattices_.size());  // pixels of a block
    for (int part = 0; part < parts_; ++part) {
      for_blocks(part, [&](const Rows& rows) {
        const std::int64_t read = geometry_.end_read(rows.begin, rows.end) - geometry_.first_read(rows.begin);
        most_read_ = std::max(most_read_, read * geometry_.columns.read);
        for (std::size_t i = 0; i < most.size(); ++i)
          most[i] = std::max(most[i], pixels_of(lattices_[i], rows));
      });
    }
    for (std::size_t i = 0; i < most.size(); ++i) {
      const std::int64_t k = summed(lattices_[i]);
      patch_floats_ = std::max(patch_floats_, most[i] * (makes_dw() ? packed_size(1, k) : k));
      if (!result_) continue;
      weight_floats_ += packed_size(k, made());
      if (narrow || !whole()) product_floats_ = std::max(product_floats_, most[i] * made());
    }
  }

  Room carve(const KernelArgs& args, ScratchCarver& carver, RoomCarver& rooms) {
    read_->begin(args, carver);
    if (beside_) beside_->begin(args, carver);
    if (result_) result_->begin(args, carver, rooms);
    if (sums_) sums_->begin(rooms);
    const std::int64_t pixels = rows_at_once_ * width();
    Room room{};
    room.as_floats = carver.take<float>(result_ && narrow ? in_ * out_ * filter_places() : 0);
    room.weights = carver.take<float>(weight_floats_);
    room.read = rooms.take<float>(read_->room(most_read_));
    room.beside = rooms.take<float>(beside_ ? beside_->room(pixels) : 0);
    room.patches = rooms.take<float>(patch_floats_);
    room.products = rooms.take<float>(product_floats_);
    return room;
  }

  /// Of each lattice {tap, channel read} by {channel made}, the taps in its order.
  void pack_weights(const KernelArgs& args, const Room& room) const {
    const auto* w = args.in<float>(conv_.w);
    const std::int64_t of_out = filter_places() * in_;
    if constexpr (narrow) {
      load_block(DType::bf16, w, room.as_floats, static_cast<std::size_t>(of_out * out_));
      w = room.as_floats;
    }
    float* to = room.weights;
    for (const Lattice& lattice : lattices_) {
      const std::int64_t panel = summed(lattice) * panel_width();
      float* tap = to;
      for (const std::int64_t i : lattice.rows.places) {
        for (const std::int64_t j : lattice.columns.places) {
          const float* from = w + (i * geometry_.columns.kernel + j) * in_;
          is_forward() ? pack(from, in_, out_, 1, of_out, tap, panel, parts_)
                       : pack(from, out_, in_, of_out, 1, tap, panel, parts_);
          tap += read_channels() * panel_width();
        }
      }
      to += packed_size(summed(lattice), made());
    }
  }

  void compute(const Rows& rows, const Room& room) {
    const std::int64_t first = geometry_.first_read(rows.begin);
    const std::int64_t pixel = first * geometry_.columns.read;
    const std::int64_t pixels = geometry_.end_read(rows.begin, rows.end) * geometry_.columns.read - pixel;
    const float* const image = read_->read(pixel, pixels, room.read[rows.part]);
    Ahead ahead = look_ahead(rows);
    if (sums_) return add_weights(rows, image, first, room, ahead);
    const std::int64_t begin = rows.begin * width(), count = (rows.end - rows.begin) * width();
    T* const result = result_->at(begin);
    const float* weights = room.weights;
    for (const Lattice& lattice : lattices_) {
      const std::int64_t k = summed(lattice);
      float* products = room.products[rows.part];
      if constexpr (!narrow) products = whole() ? result : products;
      const PatchMatrix patches{room.patches[rows.part], std::max<std::int64_t>(1, k), 0};
      const std::int64_t m = gather(lattice, rows, image, first, patches);
      multiply({.m = m,
                .n = made(),
                .k = k,
                .a = patches.at,
                .a_row = k,
                .a_column = 1,
                .b = weights,
                .b_row = panel_width(),
                .b_panel = k * panel_width(),
                .c = products,
                .c_row = made(),
                .ahead = &ahead});
      if (k == 0) std::fill_n(products, m * made(), 0.0f);
      weights += packed_size(k, made());
      if (!whole()) {
        scatter(lattice, rows, products, result);
      } else if constexpr (narrow) {
        store_block(DType::bf16, products, result, static_cast<std::size_t>(count * made()));
      }
    }
    result_->finish(rows.part, begin, count);
  }

  void add_weights(const Rows& rows, const float* image, std::int64_t first, const Room& room,
                   Ahead& ahead) const {
    const Lattice& lattice = lattices_[0];
    const std::int64_t count = (rows.end - rows.begin) * width();
    const float* const g = beside_->read(rows.begin * width(), count, room.beside[rows.part]);
    const PatchMatrix patches{room.patches[rows.part], panel_width(), count * panel_width()};
    gather(lattice, rows, image, first, patches);
    sums_->add(rows.part, rows.starts, g, {patches.at, patches.width, patches.panel}, count, &ahead);
  }

  Ahead look_ahead(const Rows& rows) const {
    Ahead ahead;
    if (rows.next == 0) return ahead;
    const std::int64_t read = geometry_.columns.read, end = rows.end + rows.next;
    const std::int64_t pixel = geometry_.end_read(rows.begin, rows.end) * read;
    read_->look_ahead(pixel, geometry_.end_read(rows.end, end) * read - pixel, ahead);
    if (beside_) beside_->look_ahead(rows.end * width(), rows.next * width(), ahead);
    if (result_) result_->look_ahead(rows.end * width(), rows.next * width(), ahead);
    return ahead;
  }

  /// The patches of the lattice's pixels in these rows, of which there are so many. `image`: from row `first`
  /// of all images on.
  std::int64_t gather(const Lattice& lattice, const Rows& rows, const float* image, std::int64_t first,
                      const PatchMatrix& to) const {
    const Axis &down = geometry_.rows, &across = geometry_.columns;
    std::int64_t pixel = 0;
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      if (!meets_rows(lattice, row)) continue;
      const std::int64_t of_image = row / down.written, r = row - of_image * down.written;
      const std::int64_t step = (r - lattice.rows.first) / down.period() * down.step();
      for (std::int64_t tap = 0; tap < lattice.rows.taps(); ++tap) {
        const std::int64_t at = lattice.rows.at[static_cast<std::size_t>(tap)] + step;
        const bool inside = at >= 0 && at < down.read;
        const float* const from =
            inside ? image + (of_image * down.read + at - first) * across.read * read_channels() : nullptr;
        gather_row(lattice.columns, from, pixel, tap * lattice.columns.taps() * read_channels(), to);
      }
      pixel += lattice.columns.count;
    }
    return pixel;
  }

  /// What the pixels of one row meet in one row of the image; null: it lies outside.
  void gather_row(const AxisTaps& columns, const float* from, std::int64_t pixel, std::int64_t column,
                  const PatchMatrix& to) const {
    const std::int64_t step = geometry_.columns.step(), extent = geometry_.columns.read;
    const std::int64_t channels = read_channels(), of_piece = columns.piece;
    for (std::int64_t j = 0; j < columns.count; ++j, ++pixel) {
      for (std::int64_t p = 0; p < columns.pieces; ++p) {
        const std::int64_t at = columns.at[static_cast<std::size_t>(p)] + j * step;
        const std::int64_t begin = std::clamp<std::int64_t>(-at, 0, of_piece);
        const std::int64_t end = from == nullptr ? begin : std::clamp(extent - at, begin, of_piece);
        const std::int64_t place = column + p * of_piece * channels;
        to.put(pixel, place, nullptr, begin * channels);
        if (end > begin)
          to.put(pixel, place + begin * channels, from + (at + begin) * channels, (end - begin) * channels);
        to.put(pixel, place + end * channels, nullptr, (of_piece - end) * channels);
      }
    }
  }

  /// From a matrix to the pixels that it is of.
  void scatter(const Lattice& lattice, const Rows& rows, const float* products, T* result) const {
    constexpr DType dtype = narrow ? DType::bf16 : DType::f32;
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      if (!meets_rows(lattice, row)) continue;
      std::int64_t at = (row - rows.begin) * width() + lattice.columns.first;
      for (std::int64_t j = 0; j < lattice.columns.count; ++j, at += geometry_.columns.period()) {
        store_block(dtype, products, result + at * made(), static_cast<std::size_t>(made()));
        products += made();
      }
    }
  }

  Convolution conv_;
  std::int64_t in_, out_;
  Geometry geometry_;
  std::vector<Lattice> lattices_;
  int parts_ = 1;
  std::int64_t rows_at_once_ = 1, rows_of_unit_ = 1;
  std::int64_t most_read_ = 0, patch_floats_ = 0, weight_floats_ = 0, product_floats_ = 0;
  std::size_t scratch_bytes_ = 0, room_bytes_ = 0;
  DType dw_dtype_ = DType::f32;
  std::optional<OperandRows<T>> read_, beside_;
  std::optional<ResultRows<T>> result_;
  std::optional<WeightSums> sums_;
};

}  // namespace

std::unique_ptr<Kernel> make_patches(const Graph& graph, const Group& group) {
  if (graph.value(group.as<Convolution>()->x).dtype == DType::bf16)
    return std::make_unique<PatchConvolution<Bf16>>(graph, group);
  return std::make_unique<PatchConvolution<float>>(graph, group);
}

}  // namespace fusetape::backends::cpu::conv::rows
