#include "backends/cpu/conv/winograd/gradient_ahead.hpp"

#include "backends/cpu/conv/winograd/gradient_steps.hpp"

namespace fusetape::backends::cpu::conv::winograd {
namespace {

/// The memory that is one source's pixels, as far as there is room to list it.
class Reading {
 public:
  Reading(const Problem& image, const Source& source, std::span<Ahead::Stretch> room)
      : image_(image), source_(source), room_(room) {}

  void add(const Rectangle& pixels, const void* tensor) {
    const std::int64_t rows = std::min(pixels.rows, image_.height - pixels.row);
    const std::int64_t columns = std::min(pixels.columns, image_.width - pixels.column);
    const auto pixel = image_.in * static_cast<std::int64_t>(size_of(source_.dtype));
    const std::byte* first =
        static_cast<const std::byte*>(tensor) +
        ((pixels.image * image_.height + pixels.row) * image_.width + pixels.column) * pixel;
    for (std::int64_t i = 0; i < rows; ++i, first += image_.width * pixel) {
      add({first, static_cast<std::size_t>(columns * pixel)});
    }
  }
  Ahead ahead() const { return Ahead(room_.first(count_)); }

 private:
  void add(Ahead::Stretch stretch) {
    if (count_ > 0 && room_[count_ - 1].data() + room_[count_ - 1].size() == stretch.data()) {
      Ahead::Stretch& last = room_[count_ - 1];
      last = {last.data(), last.size() + stretch.size()};
    } else if (count_ < room_.size()) {
      room_[count_++] = stretch;
    }
  }

  const Problem image_;
  const Source& source_;
  std::span<Ahead::Stretch> room_;
  std::size_t count_ = 0;
};

/// The pixels of x that a run reads, without those that the tiles above it have read.
Rectangle new_pixels(const Problem& problem, const Tiles& tiles, const Run& run) {
  Rectangle pixels = pixels_owned(problem, tiles, run);
  const std::int64_t end = (run.row + 1) * tile_size - problem.pad + 2;
  if (run.row > 0) pixels.row += 2;
  pixels.rows = end - pixels.row;
  return pixels;
}

}  // namespace

BothAhead pixels_ahead(const Problem& problem, const GradientSources& from, std::int64_t begin,
                       std::int64_t end, std::span<Ahead::Stretch> room) {
  const Tiles tiles(problem);
  Reading x(problem, from.x, room.first(room.size() / 2));
  Reading dy(problem.mirrored(), from.dy, room.subspan(room.size() / 2));
  for (const void* tensor : {from.x.x, from.x.x2}) {
    if (tensor == nullptr) continue;
    tiles.for_runs(begin, end, [&](const Run& run) { x.add(new_pixels(problem, tiles, run), tensor); });
  }
  for (const void* tensor : {from.dy.x, from.dy.x2}) {
    if (tensor == nullptr) continue;
    tiles.for_runs(begin, end, [&](const Run& run) { dy.add(gradient_pixels(run), tensor); });
  }
  return {x.ahead(), dy.ahead()};
}

}  // namespace fusetape::backends::cpu::conv::winograd
