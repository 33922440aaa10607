#include "backends/cpu/winograd/weight_gradient.hpp"

#include <span>

#include "backends/cpu/winograd/gradient_steps.hpp"

namespace fusetape::backends::cpu::winograd {
namespace {

std::span<const GradientPass> passes_of(const GradientCut& cut) {
  if (cut.blocking.passes == 1) return {&whole_pass, 1};
  return short_passes;
}

/// The first of what one of `parts` threads does of `count` things; and before what it ends, for part + 1.
std::int64_t share(std::int64_t count, int part, int parts) { return count * part / parts; }

int parts_of(std::int64_t count, int threads) {
  return static_cast<int>(std::min<std::int64_t>(count, threads));
}

// ---- by tiles ---------------------------------------------------------------------------------------------

constexpr std::size_t most_stretches = 1024;

/// What a thread has for itself.
struct Workplace {
  float* rows;
  Operands operands;
  std::span<Ahead::Stretch> stretches;
  Workplace(const GradientCut& cut, ScratchCarver scratch)
      : rows(scratch.take<float>(transform_scratch)),
        operands(cut.operands(scratch)),
        stretches(scratch.take<Ahead::Stretch>(most_stretches), most_stretches) {
    bytes = scratch.used();
  }
  std::size_t bytes;
};

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
    if (count_ > 0 && &*room_[count_ - 1].end() == stretch.data()) {
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
Rectangle new_pixels(const GradientCut& cut, const Run& run) {
  Rectangle pixels = pixels_owned(cut.problem, cut.tiles, run);
  const std::int64_t end = (run.row + 1) * tile_size - cut.problem.pad + 2;
  if (run.row > 0) pixels.row += 2;
  pixels.rows = end - pixels.row;
  return pixels;
}

BothAhead ahead_of(const GradientCut& cut, const GradientSources& from, std::int64_t begin, std::int64_t end,
                   std::span<Ahead::Stretch> room) {
  Reading x(cut.problem, from.x, room.first(room.size() / 2));
  Reading dy(cut.problem.mirrored(), from.dy, room.subspan(room.size() / 2));
  for (const void* tensor : {from.x.x, from.x.x2}) {
    if (tensor == nullptr) continue;
    cut.tiles.for_runs(begin, end, [&](const Run& run) { x.add(new_pixels(cut, run), tensor); });
  }
  for (const void* tensor : {from.dy.x, from.dy.x2}) {
    if (tensor == nullptr) continue;
    cut.tiles.for_runs(begin, end, [&](const Run& run) { dy.add(gradient_pixels(run), tensor); });
  }
  return {x.ahead(), dy.ahead()};
}

/// The sums over the tiles of one part.
void sum_part(const GradientCut& cut, const GradientSources& from, int part, int parts, const Workplace& at,
              float* sums) {
  const std::int64_t begin = share(cut.blocks, part, parts), end = share(cut.blocks, part + 1, parts);
  bool first_pass = true;
  for (const GradientPass& pass : passes_of(cut)) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = cut.begin_of(block), last = cut.begin_of(block + 1);
      transform_tiles(cut, pass, from, first, last, at.operands, 0, first_pass, at.rows);
      const BothAhead ahead =
          block + 1 < end ? ahead_of(cut, from, last, cut.begin_of(block + 2), at.stretches) : BothAhead();
      multiply_tiles(cut, pass, at.operands, last - first, cut.all_channels(), block > begin, sums, ahead);
    }
    first_pass = false;
  }
}

void sum_by_tiles(const GradientCut& cut, const GradientSources& from, void* dw, DType dtype, int threads,
                  ScratchCarver& scratch) {
  const int parts = parts_of(cut.blocks, threads);
  float* const sums = scratch.take<float>(parts * cut.sums_size());
  const std::size_t size = Workplace(cut, ScratchCarver(nullptr)).bytes;
  auto* const places = scratch.take<std::byte>(static_cast<std::int64_t>(size) * parts);
  if (dw == nullptr) return;
  for_parts(parts, [&](int part) {
    const Workplace at(cut, ScratchCarver(places + static_cast<std::size_t>(part) * size));
    sum_part(cut, from, part, parts, at, sums + part * cut.sums_size());
  });
  const std::int64_t chunks = cut.out_chunks * cut.in_chunks;
  const int writers = parts_of(chunks, threads);
  for_parts(writers, [&](int part) {
    for (std::int64_t i = share(chunks, part, writers); i < share(chunks, part + 1, writers); ++i) {
      write_weights(cut, i / cut.in_chunks, i % cut.in_chunks, sums, parts, dw, dtype);
    }
  });
}

// ---- by channels ------------------------------------------------------------------------------------------

/// The products of a block of channels over the tiles that were transformed; of the last tiles, its weights.
void sum_channels(const GradientCut& cut, const Operands& operands, std::int64_t block,
                  const ChannelBlock& channels, float* sums, void* dw, DType dtype) {
  const std::int64_t tiles = cut.begin_of(block + 1) - cut.begin_of(block);
  multiply_tiles(cut, whole_pass, operands, tiles, channels, block > 0, sums, {});
  if (block + 1 < cut.blocks) return;
  for (std::int64_t out = channels.out_begin; out < channels.out_end; ++out) {
    for (std::int64_t in = channels.in_begin; in < channels.in_end; ++in) {
      write_weights(cut, out, in, sums, 1, dw, dtype);
    }
  }
}

void sum_by_channels(const GradientCut& cut, const GradientSources& from, void* dw, DType dtype, int threads,
                     ScratchCarver& scratch) {
  float* const sums = scratch.take<float>(cut.sums_size());
  float* const rows = scratch.take<float>(threads * transform_scratch);
  const Operands operands = cut.operands(scratch);
  if (dw == nullptr) return;
  const std::int64_t side = cut.blocking.chunks;
  const std::int64_t out_blocks = divided_up(cut.out_chunks, side),
                     in_blocks = divided_up(cut.in_chunks, side);
  const int workers = parts_of(out_blocks * in_blocks, threads);
  for (std::int64_t block = 0; block < cut.blocks; ++block) {
    const std::int64_t begin = cut.begin_of(block), tiles = cut.begin_of(block + 1) - begin;
    const int transformers = parts_of(tiles, threads);
    for_parts(transformers, [&](int part) {
      const std::int64_t first = share(tiles, part, transformers),
                         last = share(tiles, part + 1, transformers);
      transform_tiles(cut, whole_pass, from, begin + first, begin + last, operands, first, true,
                      rows + part * transform_scratch);
    });
    for_parts(workers, [&](int part) {
      const std::int64_t count = out_blocks * in_blocks;
      for (std::int64_t i = share(count, part, workers); i < share(count, part + 1, workers); ++i) {
        const std::int64_t out = i / in_blocks * side, in = i % in_blocks * side;
        const ChannelBlock channels = {out, std::min(out + side, cut.out_chunks), in,
                                       std::min(in + side, cut.in_chunks)};
        sum_channels(cut, operands, block, channels, sums, dw, dtype);
      }
    });
  }
}

void run_or_count(const GradientCut& cut, const GradientSources& from, void* dw, DType dtype, int threads,
                  ScratchCarver& scratch) {
  cut.blocking.by_channels ? sum_by_channels(cut, from, dw, dtype, threads, scratch)
                           : sum_by_tiles(cut, from, dw, dtype, threads, scratch);
}

}  // namespace

GradientBlocking default_gradient_blocking(const Problem& problem, int) {
  const std::int64_t sums = divided_up(problem.in, chunk) * divided_up(problem.out, chunk) * chunk_sums;
  return {.tiles = 32, .passes = sums * 4 > (1 << 19) ? 3 : 1};
}

std::size_t weight_gradient_scratch_bytes(const Problem& problem, const GradientBlocking& blocking,
                                          int threads) {
  ScratchCarver counter(nullptr);
  run_or_count(GradientCut(problem, blocking), {{}, {}}, nullptr, DType::f32, threads, counter);
  return counter.used();
}

void weight_gradient(const Problem& problem, const Source& x, const Source& dy, void* dw, DType dtype,
                     const GradientBlocking& blocking, int threads, std::byte* scratch) {
  ScratchCarver places(scratch);
  run_or_count(GradientCut(problem, blocking), {x, dy}, dw, dtype, threads, places);
}

}  // namespace fusetape::backends::cpu::winograd
