#include "backends/cpu/conv/winograd/convolve_part.hpp"
#include "backends/cpu/conv/winograd/forms.hpp"
#include "core/check.hpp"

/// How a convolution is shared among threads, and how their sums come together.
namespace fusetape::backends::cpu::conv::winograd {
namespace {

/// Parts of a tile range follow each other.
ConvolvePart carve_part(const Problem& problem, const Shares& shares, int part, std::byte* room) {
  const int tile_part = part / shares.out_parts, out_part = part % shares.out_parts;
  const std::int64_t outs = shares.most_outs();
  ScratchCarver carver(room);
  ConvolvePart it{.index = part,
                  .first_tile = shares.tile_begin(tile_part),
                  .end_tile = shares.tile_begin(tile_part + 1),
                  .first_out = shares.out_begin(out_part),
                  .end_out = shares.out_begin(out_part + 1),
                  .block_tiles = shares.block_tiles,
                  .writes_source = out_part == 0};
  it.transformed = carver.take<float>(positions * shares.block_tiles * rounded_up(problem.in, chunk));
  it.products = carver.take<float>(half_inverted * shares.block_tiles * outs);
  it.rows = carver.take<float>(pixel_scratch);
  it.sums.shift = carver.take<float>(outs);
  it.sums.block_first = carver.take<float>(outs);
  it.sums.block_second = carver.take<float>(outs);
  it.sums.first = carver.take<double>(outs);
  it.sums.second = carver.take<double>(outs);
  it.sums.pixels = carver.take<std::int64_t>(1);
  it.room_bytes = carver.used();
  return it;
}

void clear(const PartSums& sums, std::int64_t outs) {
  for (float* each : {sums.shift, sums.block_first, sums.block_second}) std::fill_n(each, outs, 0.0f);
  for (double* each : {sums.first, sums.second}) std::fill_n(each, outs, 0.0);
  *sums.pixels = 0;
}

/// Chan's formula: to mean and M2 of n numbers come those of m others.
void add_moments(double n, double& mean, double& m2, double m, double other_mean, double other_m2) {
  const double apart = other_mean - mean;
  mean += apart * (m / (n + m));
  m2 += other_m2 + apart * apart * (n * m / (n + m));
}

void fold_moments(std::int64_t pixels, std::int64_t outs, const PartSums& sums) {
  const double n = static_cast<double>(*sums.pixels), m = static_cast<double>(pixels), one_of = 1 / m;
  for (std::int64_t c = 0; c < outs; ++c) {
    const double first = sums.block_first[c], second = sums.block_second[c];
    add_moments(n, sums.first[c], sums.second[c], m, static_cast<double>(sums.shift[c]) + first * one_of,
                second - first * first * one_of);
    sums.shift[c] = static_cast<float>(sums.first[c]);
  }
}

void fold_gradient(std::int64_t outs, const PartSums& sums) {
  for (std::int64_t c = 0; c < outs; ++c) {
    sums.first[c] += sums.block_first[c];
    sums.second[c] += sums.block_second[c];
  }
}

/// Of all parts, in the order of their tiles.
void combine(const Problem& problem, const Shares& shares, plan::Rooms rooms, const Sink& sink) {
  std::fill_n(sink.first, shares.outs, 0.0);
  std::fill_n(sink.second, shares.outs, 0.0);
  for (int out_part = 0; out_part < shares.out_parts; ++out_part) {
    double pixels = 0;
    for (int tile_part = 0; tile_part < shares.tile_parts; ++tile_part) {
      const int index = tile_part * shares.out_parts + out_part;
      const ConvolvePart part = carve_part(problem, shares, index, rooms[index]);
      const double m = static_cast<double>(*part.sums.pixels);
      if (m == 0) continue;
      for (std::int64_t c = part.first_out; c < part.end_out; ++c) {
        const double first = part.sums.first[c - part.first_out],
                     second = part.sums.second[c - part.first_out];
        if (sink.sums == Sums::moments) {
          add_moments(pixels, sink.first[c], sink.second[c], m, first, second);
        } else {
          sink.first[c] += first;
          sink.second[c] += second;
        }
      }
      pixels += m;
    }
  }
}

}  // namespace

void fold_block(Sums kind, std::int64_t pixels, std::int64_t outs, const PartSums& sums) {
  kind == Sums::moments ? fold_moments(pixels, outs, sums) : fold_gradient(outs, sums);
  *sums.pixels += pixels;
  for (float* each : {sums.block_first, sums.block_second}) std::fill_n(each, outs, 0.0f);
}

std::size_t convolve_room_bytes(const Problem& problem, const Blocking& blocking, int threads) {
  return carve_part(problem, Shares(problem, blocking, threads), 0, nullptr).room_bytes;
}

void convolve(const Problem& problem, const Source& source, const float* u, const Sink& sink,
              const Blocking& blocking, int threads, plan::Rooms rooms) {
  convolve_with(nullptr, problem, source, u, sink, blocking, threads, rooms);
}

void convolve_with(Companion* companion, const Problem& problem, const Source& source, const float* u,
                   const Sink& sink, const Blocking& blocking, int threads, plan::Rooms rooms) {
  FUSETAPE_ASSERT(is_offered(source) && is_offered(sink));
  const Shares shares(problem, blocking, threads);
  for_parts(shares.parts(), [&](int i) {
    ConvolvePart part = carve_part(problem, shares, i, rooms[i]);
    part.companion = companion;
    if (sink.sums != Sums::none) clear(part.sums, shares.most_outs());
    convolve_part(problem, source, u, sink, part);
  });
  if (sink.sums != Sums::none) combine(problem, shares, rooms, sink);
}

Blocking default_blocking(const Problem& problem, int threads) {
  // The larger the weights, the more tiles have to share each reading of them.
  const std::int64_t pairs = problem.in * problem.out, tiles = Tiles(problem).count();
  Blocking blocking{.tiles = problem.in <= 16 ? 8 : pairs <= 128 * 128 ? 16 : pairs <= 256 * 256 ? 32 : 128};
  // Too few tiles: threads share them, and each reads a part of the weights.
  const std::int64_t most = std::min<std::int64_t>(threads, divided_up(problem.out, chunk));
  for (int parts = 1; parts <= most; ++parts) {
    if (threads % parts != 0) continue;
    blocking.out_parts = parts;
    if (tiles * parts / threads >= blocking.tiles / 2) break;
  }
  return blocking;
}

}  // namespace fusetape::backends::cpu::conv::winograd
