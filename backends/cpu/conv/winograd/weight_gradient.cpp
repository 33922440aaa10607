#include "backends/cpu/conv/winograd/weight_gradient.hpp"

#include <span>

#include "backends/cpu/conv/winograd/forms.hpp"
#include "backends/cpu/conv/winograd/gradient_steps.hpp"
#include "core/check.hpp"

namespace fusetape::backends::cpu::conv::winograd {
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

/// What a thread has for itself, with the sums of so many parts.
struct Workplace {
  float* rows;
  Operands operands;
  std::span<Ahead::Stretch> stretches;
  float* sums;
  std::size_t bytes;
  Workplace(const GradientCut& cut, std::int64_t parts, std::byte* room) {
    ScratchCarver scratch(room);
    rows = scratch.take<float>(pixel_scratch);
    operands = cut.operands(scratch);
    stretches = {scratch.take<Ahead::Stretch>(most_stretches), most_stretches};
    sums = scratch.take<float>(parts * cut.all_channels().sums_size());
    bytes = scratch.used();
  }
};

/// The sums over the blocks of tiles from `begin` to before `end`.
void sum_blocks(const GradientCut& cut, const GradientSources& from, std::int64_t begin, std::int64_t end,
                const Workplace& at, float* sums) {
  bool first_pass = true;
  for (const GradientPass& pass : passes_of(cut)) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = cut.begin_of(block), next = cut.begin_of(block + 1);
      transform_tiles(cut, pass, from, first, next, at.operands, 0, first_pass, at.rows);
      const BothAhead ahead = pixels_ahead(cut.problem, from, next, cut.begin_of(block + 2), at.stretches);
      multiply_tiles(pass, at.operands, next - first, cut.all_channels(), block > begin, sums, ahead);
    }
    first_pass = false;
  }
}

void sum_by_tiles(const GradientCut& cut, const GradientSources& from, void* dw, DType dtype, int threads,
                  ScratchCarver& scratch) {
  const int workers = parts_of(cut.blocks, threads);
  const auto parts = static_cast<int>(cut.parts(workers));
  const ChannelBlock all = cut.all_channels();
  const int writers = parts_of(all.pairs(), threads);
  const int parts_each = parts / workers;
  const auto** const sums = scratch.take<const float*>(parts);
  const auto totals = scratch.take_rooms<float>(writers, chunk_sums);
  const std::size_t place_size = Workplace(cut, parts_each, nullptr).bytes;
  const auto places = scratch.take_rooms<std::byte>(workers, static_cast<std::int64_t>(place_size));
  if (dw == nullptr) return;
  for_parts(workers, [&](int worker) {
    const Workplace at(cut, parts_each, places[worker]);
    for (int i = 0; i < parts_each; ++i) {
      const int part = worker * parts_each + i;
      float* const to = at.sums + i * all.sums_size();
      sum_blocks(cut, from, share(cut.blocks, part, parts), share(cut.blocks, part + 1, parts), at, to);
      sums[part] = to;
    }
  });
  join_parts(cut, {sums, static_cast<std::size_t>(parts)}, writers, false, totals, dw, dtype);
}

// ---- by channels ------------------------------------------------------------------------------------------

/// The blocks of channels, and where each one's sums are.
struct ChannelGrid {
  const GradientCut& cut;
  std::int64_t out_side, in_side, in_blocks, count;
  explicit ChannelGrid(const GradientCut& c)
      : cut(c),
        out_side(std::min(c.blocking.chunks, c.out_chunks)),
        in_side(std::min(c.blocking.chunks, c.in_chunks)),
        in_blocks(divided_up(c.in_chunks, in_side)),
        count(divided_up(c.out_chunks, out_side) * in_blocks) {}

  std::int64_t sums_size() const { return out_side * in_side * chunk_sums; }
  ChannelBlock block(std::int64_t i) const {
    const std::int64_t out = i / in_blocks * out_side, in = i % in_blocks * in_side;
    return {out, std::min(out + out_side, cut.out_chunks), in, std::min(in + in_side, cut.in_chunks)};
  }
};

void sum_by_channels(const GradientCut& cut, const GradientSources& from, void* dw, DType dtype, int threads,
                     ScratchCarver& scratch) {
  const ChannelGrid grid(cut);
  const int workers = parts_of(grid.count, threads);
  const int transformers = parts_of(std::min(cut.blocking.tiles, cut.tiles.count()), threads);
  // What is complete at once needs no sums but those of the block at hand.
  const bool at_once = cut.blocks == 1 && cut.blocking.passes == 1;
  const std::int64_t most_blocks = at_once ? 1 : divided_up(grid.count, workers);
  const auto sums = scratch.take_rooms<float>(workers, most_blocks * grid.sums_size());
  const auto rows = scratch.take_rooms<float>(transformers, pixel_scratch);
  const Operands operands = cut.operands(scratch);
  if (dw == nullptr) return;
  const GradientPass& last_pass = passes_of(cut).back();
  for (const GradientPass& pass : passes_of(cut)) {
    for (std::int64_t block = 0; block < cut.blocks; ++block) {
      const std::int64_t begin = cut.begin_of(block), tiles = cut.begin_of(block + 1) - begin;
      for_parts(transformers, [&](int part) {
        const std::int64_t first = share(tiles, part, transformers),
                           end = share(tiles, part + 1, transformers);
        transform_tiles(cut, pass, from, begin + first, begin + end, operands, first,
                        &pass == &passes_of(cut).front(), rows[part]);
      });
      const bool last = &pass == &last_pass && block + 1 == cut.blocks;
      for_parts(workers, [&](int part) {
        const std::int64_t first = share(grid.count, part, workers);
        for (std::int64_t i = first; i < share(grid.count, part + 1, workers); ++i) {
          const ChannelBlock channels = grid.block(i);
          float* const to = sums[part] + (at_once ? 0 : i - first) * grid.sums_size();
          multiply_tiles(pass, operands, tiles, channels, block > 0, to, {});
          if (last) write_weights(cut.problem, channels, to, false, dw, dtype);
        }
      });
    }
  }
}

void run_or_count(const GradientCut& cut, const GradientSources& from, void* dw, DType dtype, int threads,
                  ScratchCarver& scratch) {
  cut.blocking.by_channels ? sum_by_channels(cut, from, dw, dtype, threads, scratch)
                           : sum_by_tiles(cut, from, dw, dtype, threads, scratch);
}

}  // namespace

void join_parts(const GradientCut& cut, std::span<const float* const> parts, int writers, bool turned,
                const Rooms<float>& totals, void* dw, DType dtype) {
  const ChannelBlock all = cut.all_channels();
  for_parts(writers, [&](int writer) {
    float* const total = totals[writer];
    const std::int64_t end = share(all.pairs(), writer + 1, writers);
    for (std::int64_t i = share(all.pairs(), writer, writers); i < end; ++i) {
      const std::int64_t out = i / cut.in_chunks, in = i % cut.in_chunks;
      // First as they lie in memory: most are in another core's cache.
      add_parts(parts, all.sums_at(out, in), chunk_sums, total);
      write_weights(cut.problem, {out, out + 1, in, in + 1}, total, turned, dw, dtype);
    }
  });
}

/// Measured on Zen 4 (1 MB of L2, 32 MB of L3).
GradientBlocking default_gradient_blocking(const Problem& problem, int threads) {
  constexpr std::int64_t much = 1 << 22;
  const std::int64_t ins = divided_up(problem.in, chunk), outs = divided_up(problem.out, chunk);
  const std::int64_t tiles = Tiles(problem).count(), sums = ins * outs * chunk_sums * 4;
  // Sums of its own for each thread are as many times the memory, and read again at the end.
  if (sums > much || (tiles < 16 * threads && ins * outs >= 2 * threads)) {
    GradientBlocking by_channels{.tiles = 256, .by_channels = true, .chunks = 4};
    const auto blocks = [&] {
      return divided_up(ins, by_channels.chunks) * divided_up(outs, by_channels.chunks);
    };
    while (by_channels.chunks > 1 && blocks() < 2 * threads) by_channels.chunks /= 2;
    return by_channels;
  }
  return {.tiles = std::clamp<std::int64_t>(divided_up(tiles, threads), 8, 32)};
}

std::size_t weight_gradient_scratch_bytes(const Problem& problem, const GradientBlocking& blocking,
                                          int threads) {
  ScratchCarver counter(nullptr);
  run_or_count(GradientCut(problem, blocking), {{}, {}}, nullptr, DType::f32, threads, counter);
  return counter.used();
}

void weight_gradient(const Problem& problem, const Source& x, const Source& dy, void* dw, DType dtype,
                     const GradientBlocking& blocking, int threads, std::byte* scratch) {
  FUSETAPE_ASSERT(is_offered(x) && is_offered(dy));
  ScratchCarver places(scratch);
  run_or_count(GradientCut(problem, blocking), {x, dy}, dw, dtype, threads, places);
}

}  // namespace fusetape::backends::cpu::conv::winograd
