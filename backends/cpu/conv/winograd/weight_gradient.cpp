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
  float *sums, *total;
  std::size_t bytes;
  Workplace(const GradientCut& cut, std::int64_t parts, std::byte* room) {
    ScratchCarver carver(room);
    total = carver.take<float>(chunk_sums);
    rows = carver.take<float>(pixel_scratch);
    operands = cut.operands(carver);
    stretches = {carver.take<Ahead::Stretch>(most_stretches), most_stretches};
    sums = carver.take<float>(parts * cut.all_channels().sums_size());
    bytes = carver.used();
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

/// By tiles: how many threads, and how many parts of the sum each of them makes.
struct TileShares {
  int workers, parts_each;
  TileShares(const GradientCut& cut, int threads)
      : workers(parts_of(cut.blocks, threads)), parts_each(static_cast<int>(cut.parts(workers)) / workers) {}
  int parts() const { return workers * parts_each; }
};

void sum_by_tiles(const GradientCut& cut, const GradientSources& from, void* dw, DType dtype, int threads,
                  std::byte* scratch, plan::Rooms rooms) {
  const TileShares shares(cut, threads);
  const int parts = shares.parts();
  auto** const sums = reinterpret_cast<const float**>(scratch);
  for_parts(shares.workers, [&](int worker) {
    const Workplace at(cut, shares.parts_each, rooms[worker]);
    for (int i = 0; i < shares.parts_each; ++i) {
      const int part = worker * shares.parts_each + i;
      float* const to = at.sums + i * cut.all_channels().sums_size();
      sum_blocks(cut, from, share(cut.blocks, part, parts), share(cut.blocks, part + 1, parts), at, to);
    }
  });
  for (int part = 0; part < parts; ++part) {
    const Workplace at(cut, shares.parts_each, rooms[part / shares.parts_each]);
    sums[part] = at.sums + part % shares.parts_each * cut.all_channels().sums_size();
  }
  join_parts(cut, {sums, static_cast<std::size_t>(parts)}, false, {dw, dtype}, threads, rooms);
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

/// By channels: what threads transform together, and what each sums.
struct ChannelShares {
  ChannelGrid grid;
  int workers, transformers;
  // What is complete at once needs no sums but those of the block at hand.
  bool at_once;
  ChannelShares(const GradientCut& cut, int threads)
      : grid(cut),
        workers(parts_of(grid.count, threads)),
        transformers(parts_of(std::min(cut.blocking.tiles, cut.tiles.count()), threads)),
        at_once(cut.blocks == 1 && cut.blocking.passes == 1) {}
  std::int64_t most_blocks() const { return at_once ? 1 : divided_up(grid.count, workers); }
};

struct ChannelWorkplace {
  float *rows, *sums;
  std::size_t bytes;
  ChannelWorkplace(const ChannelShares& shares, std::byte* room) {
    ScratchCarver carver(room);
    rows = carver.take<float>(pixel_scratch);
    sums = carver.take<float>(shares.most_blocks() * shares.grid.sums_size());
    bytes = carver.used();
  }
};

void sum_by_channels(const GradientCut& cut, const GradientSources& from, void* dw, DType dtype, int threads,
                     std::byte* scratch, plan::Rooms rooms) {
  const ChannelShares shares(cut, threads);
  const ChannelGrid& grid = shares.grid;
  const int workers = shares.workers, transformers = shares.transformers;
  ScratchCarver carver(scratch);
  const Operands operands = cut.operands(carver);
  const GradientPass& last_pass = passes_of(cut).back();
  for (const GradientPass& pass : passes_of(cut)) {
    for (std::int64_t block = 0; block < cut.blocks; ++block) {
      const std::int64_t begin = cut.begin_of(block), tiles = cut.begin_of(block + 1) - begin;
      for_parts(transformers, [&](int part) {
        const std::int64_t first = share(tiles, part, transformers),
                           end = share(tiles, part + 1, transformers);
        transform_tiles(cut, pass, from, begin + first, begin + end, operands, first,
                        &pass == &passes_of(cut).front(), ChannelWorkplace(shares, rooms[part]).rows);
      });
      const bool last = &pass == &last_pass && block + 1 == cut.blocks;
      for_parts(workers, [&](int part) {
        const std::int64_t first = share(grid.count, part, workers);
        float* const sums = ChannelWorkplace(shares, rooms[part]).sums;
        for (std::int64_t i = first; i < share(grid.count, part + 1, workers); ++i) {
          const ChannelBlock channels = grid.block(i);
          float* const to = sums + (shares.at_once ? 0 : i - first) * grid.sums_size();
          multiply_tiles(pass, operands, tiles, channels, block > 0, to, {});
          if (last) write_weights(cut.problem, channels, to, false, dw, dtype);
        }
      });
    }
  }
}

}  // namespace

void join_parts(const GradientCut& cut, std::span<const float* const> parts, bool turned,
                const WeightGradient& weights, int threads, plan::Rooms rooms) {
  const ChannelBlock all = cut.all_channels();
  const int writers = parts_of(all.pairs(), threads);
  for_parts(writers, [&](int writer) {
    auto* const total = reinterpret_cast<float*>(rooms[writer]);
    const std::int64_t end = share(all.pairs(), writer + 1, writers);
    for (std::int64_t i = share(all.pairs(), writer, writers); i < end; ++i) {
      const std::int64_t out = i / cut.in_chunks, in = i % cut.in_chunks;
      // First as they lie in memory: most are in another core's cache.
      add_parts(parts, all.sums_at(out, in), chunk_sums, total);
      write_weights(cut.problem, {out, out + 1, in, in + 1}, total, turned, weights.dw, weights.dtype);
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

GradientMemory weight_gradient_memory(const Problem& problem, const GradientBlocking& blocking, int threads) {
  const GradientCut cut(problem, blocking);
  if (blocking.by_channels) {
    ScratchCarver counter(nullptr);
    cut.operands(counter);
    return {counter.used(), ChannelWorkplace(ChannelShares(cut, threads), nullptr).bytes};
  }
  const TileShares shares(cut, threads);
  return {static_cast<std::size_t>(shares.parts()) * sizeof(const float*),
          Workplace(cut, shares.parts_each, nullptr).bytes};
}

void weight_gradient(const Problem& problem, const Source& x, const Source& dy, void* dw, DType dtype,
                     const GradientBlocking& blocking, int threads, std::byte* scratch, plan::Rooms rooms) {
  FUSETAPE_ASSERT(is_offered(x) && is_offered(dy));
  const GradientCut cut(problem, blocking);
  const auto sum = blocking.by_channels ? sum_by_channels : sum_by_tiles;
  sum(cut, {x, dy}, dw, dtype, threads, scratch, rooms);
}

}  // namespace fusetape::backends::cpu::conv::winograd
