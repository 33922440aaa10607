#include "backends/cpu/conv/winograd/gradient_steps.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/conv/winograd/gradient_steps.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/conv/winograd/gradient_products-inl.hpp"
#include "backends/cpu/conv/winograd/gradient_result-inl.hpp"
#include "backends/cpu/conv/winograd/gradient_transform-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

using winograd::Ahead;
using winograd::BothAhead;
using winograd::ChannelBlock;
using winograd::chunk;
using winograd::chunk_sums;
using winograd::GradientCut;
using winograd::GradientPass;
using winograd::GradientSources;
using winograd::most_tiles_in_sum;
using winograd::Operand;
using winograd::Operands;
using winograd::Run;

PositionStrides strides_of(const Operand& operand) {
  return {.row = operand.row, .column = operand.column, .tile = operand.tile};
}

template <unsigned Pairs>
void spread(const winograd::Problem& image, const winograd::Tiles& tiles, const winograd::Source& source,
            std::int64_t begin, std::int64_t end, const Operand& to, std::int64_t first, bool writes,
            float* rows) {
  const std::int64_t chunks = winograd::divided_up(image.in, chunk);
  tiles.for_runs(begin, end, [&](const Run& run) HWY_ATTR {
    for (std::int64_t c = 0; c < chunks; ++c) {
      transform_gradient_run<Pairs>(image, source, run, c * chunk, writes, strides_of(to),
                                    to.at + c * to.chunk + (first + run.first) * to.tile, rows);
    }
  });
}

void SpreadTiles(const winograd::Problem& image, const winograd::Tiles& tiles, const winograd::Source& source,
                 std::int64_t begin, std::int64_t end, const Operand& to, float* rows) {
  spread<all_rows>(image, tiles, source, begin, end, to, 0, true, rows);
}

template <unsigned Pairs>
void transform_tiles(const GradientCut& cut, const GradientSources& from, std::int64_t begin,
                     std::int64_t end, const Operands& to, std::int64_t first, bool writes, float* rows) {
  cut.tiles.for_runs(begin, end, [&](const Run& run) HWY_ATTR {
    for (std::int64_t c = 0; c < cut.in_chunks; ++c) {
      transform_run<Pairs>(cut.problem, cut.tiles, from.x, run, c * chunk, writes, strides_of(to.x),
                           to.x.at + c * to.x.chunk + (first + run.first) * to.x.tile, rows);
    }
  });
  spread<Pairs>(cut.problem.mirrored(), cut.tiles, from.dy, begin, end, to.dy, first, writes, rows);
}

void TransformTiles(const GradientCut& cut, const GradientPass& pass, const GradientSources& from,
                    std::int64_t begin, std::int64_t end, const Operands& to, std::int64_t first, bool writes,
                    float* rows) {
  if (pass.count == 6) return transform_tiles<all_rows>(cut, from, begin, end, to, first, writes, rows);
  switch (pass.row[0]) {
    case 1:
      return transform_tiles<rows_12>(cut, from, begin, end, to, first, writes, rows);
    case 3:
      return transform_tiles<rows_34>(cut, from, begin, end, to, first, writes, rows);
    default:
      return transform_tiles<rows_05>(cut, from, begin, end, to, first, writes, rows);
  }
}

const float* place_in(const Operand& operand, int place, std::int64_t of_chunk) {
  return operand.at + place / 6 * operand.row + place % 6 * operand.column + of_chunk * operand.chunk;
}

using MultiplyChunk = decltype(&multiply_chunk<2, false, false>);

/// Called by a pointer: of a function that it knows, g++ keeps the caller's integers in vector registers,
/// where they wait behind all the multiplications.
template <int Columns>
MultiplyChunk multiply_of(bool adds, bool dense) {
  static constexpr MultiplyChunk of[] = {
      multiply_chunk<Columns, false, false>, multiply_chunk<Columns, false, true>,
      multiply_chunk<Columns, true, false>, multiply_chunk<Columns, true, true>};
  return of[(adds ? 2 : 0) + (dense ? 1 : 0)];
}
MultiplyChunk multiply_of(bool pair, bool adds, bool dense) {
  if constexpr (chunks_of_pair == 2) {
    if (!pair) return multiply_of<1>(adds, dense);
  }
  return multiply_of<2>(adds, dense);
}

void MultiplyTiles(const GradientPass& pass, const Operands& from, std::int64_t tiles,
                   const ChannelBlock& channels, bool add, float* sums, BothAhead ahead) {
  const std::int64_t ins = channels.in_end - channels.in_begin, outs = channels.out_end - channels.out_begin;
  const std::int64_t products = pass.count * 6 * outs * winograd::divided_up(ins, chunks_of_pair) *
                                winograd::divided_up(tiles, most_tiles_in_sum);
  ahead.x.spread(products, std::min(tiles, most_tiles_in_sum));
  ahead.dy.spread(products, std::min(tiles, most_tiles_in_sum));
  const bool dense = ahead.x.step() + ahead.dy.step() > Ahead::line;
  for (int place = 0; place < pass.count * 6; ++place) {
    const std::int64_t position = pass.row[place / 6] * 6 + place % 6;
    for (std::int64_t out = channels.out_begin; out < channels.out_end; ++out) {
      for (std::int64_t in = channels.in_begin; in < channels.in_end; in += chunks_of_pair) {
        GradientPlaces at = {
            .x = place_in(from.x, place, in),
            .dy = place_in(from.dy, place, out),
            .x_apart = chunks_of_pair == 2 ? from.x.chunk : lanes,
            .dy_tile = from.dy.tile,
            .sums = sums + channels.sums_at(out, in) + position * chunk * chunk,
            .sums_apart = chunks_of_pair == 2 ? chunk_sums : lanes,
        };
        const bool pair = in + chunks_of_pair <= channels.in_end;
        for (std::int64_t t = 0; t < tiles; t += most_tiles_in_sum) {
          const auto multiply = multiply_of(pair, add || t > 0, dense);
          multiply(at, std::min(most_tiles_in_sum, tiles - t), ahead.x.next(), ahead.dy.next());
          at.x += most_tiles_in_sum * chunk;
          at.dy += most_tiles_in_sum * from.dy.tile;
        }
      }
    }
  }
}

void AddParts(std::span<const float* const> parts, std::int64_t at, std::int64_t count, float* total) {
  const Floats d;
  for (std::int64_t i = 0; i < count; i += lanes) {
    Vec sum = hn::Load(d, parts[0] + at + i);
    for (const float* part : parts.subspan(1)) sum = hn::Add(sum, hn::Load(d, part + at + i));
    hn::Store(sum, d, total + i);
  }
}

/// Row by row of dw, which is written as it lies in memory as far as the block goes.
template <class T>
void write_block(const winograd::Problem& problem, const ChannelBlock& channels, const float* sums,
                 bool turned, T* dw) {
  const std::int64_t end = std::min(channels.out_end * chunk, problem.out);
  const bool past_cache = goes_past_cache(dw, problem.out, problem.in);
  for (std::int64_t out = channels.out_begin * chunk; out < end; ++out) {
    for (std::int64_t c = channels.in_begin; c < channels.in_end; ++c) {
      write_filters(sums + channels.sums_at(out / chunk, c) + out % chunk * chunk,
                    std::min(chunk, problem.in - c * chunk), past_cache, turned,
                    dw + out * 9 * problem.in + c * chunk, problem.in);
    }
  }
  if (past_cache) hwy::FlushStream();
}

void WriteWeights(const winograd::Problem& problem, const ChannelBlock& channels, const float* sums,
                  bool turned, void* dw, DType dtype) {
  dtype == DType::bf16 ? write_block(problem, channels, sums, turned, static_cast<Bf16*>(dw))
                       : write_block(problem, channels, sums, turned, static_cast<float*>(dw));
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::conv {

HWY_EXPORT(TransformTiles);
HWY_EXPORT(SpreadTiles);
HWY_EXPORT(MultiplyTiles);
HWY_EXPORT(AddParts);
HWY_EXPORT(WriteWeights);

namespace winograd {

void transform_tiles(const GradientCut& cut, const GradientPass& pass, const GradientSources& from,
                     std::int64_t begin, std::int64_t end, const Operands& to, std::int64_t first,
                     bool writes, float* rows) {
  HWY_DYNAMIC_DISPATCH(TransformTiles)(cut, pass, from, begin, end, to, first, writes, rows);
}

void spread_tiles(const Problem& image, const Tiles& tiles, const Source& source, std::int64_t begin,
                  std::int64_t end, const Operand& to, float* rows) {
  HWY_DYNAMIC_DISPATCH(SpreadTiles)(image, tiles, source, begin, end, to, rows);
}

void multiply_tiles(const GradientPass& pass, const Operands& from, std::int64_t tiles,
                    const ChannelBlock& channels, bool add, float* sums, BothAhead ahead) {
  HWY_DYNAMIC_DISPATCH(MultiplyTiles)(pass, from, tiles, channels, add, sums, ahead);
}

void add_parts(std::span<const float* const> parts, std::int64_t at, std::int64_t count, float* total) {
  HWY_DYNAMIC_DISPATCH(AddParts)(parts, at, count, total);
}

void write_weights(const Problem& problem, const ChannelBlock& channels, const float* sums, bool turned,
                   void* dw, DType dtype) {
  HWY_DYNAMIC_DISPATCH(WriteWeights)(problem, channels, sums, turned, dw, dtype);
}

}  // namespace winograd
}  // namespace fusetape::backends::cpu::conv
#endif  // HWY_ONCE
