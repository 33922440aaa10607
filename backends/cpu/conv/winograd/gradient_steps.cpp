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
using winograd::GradientCut;
using winograd::GradientPass;
using winograd::GradientSources;
using winograd::most_tiles_in_sum;
using winograd::Operands;
using winograd::Run;

template <unsigned Pairs>
void transform_tiles(const GradientCut& cut, const GradientSources& from, std::int64_t begin,
                     std::int64_t end, const Operands& to, std::int64_t first, bool writes, float* rows) {
  const PositionStrides x_strides{.row = 6 * to.x_stride, .column = to.x_stride, .tile = chunk};
  cut.tiles.for_runs(begin, end, [&](const Run& run) HWY_ATTR {
    for (std::int64_t c = 0; c < cut.in_chunks; ++c) {
      transform_run<Pairs>(cut.problem, cut.tiles, from.x, run, c * chunk, writes, x_strides,
                           to.x + (c * to.tiles + first + run.first) * chunk, rows);
    }
  });
  const PositionStrides dy_strides{.row = 6 * to.dy_stride, .column = to.dy_stride, .tile = chunk};
  const winograd::Problem image = cut.problem.mirrored();
  cut.tiles.for_runs(begin, end, [&](const Run& run) HWY_ATTR {
    for (std::int64_t c = 0; c < cut.out_chunks; ++c) {
      transform_gradient_run<Pairs>(image, from.dy, run, c * chunk, writes, dy_strides,
                                    to.dy + (c * to.tiles + first + run.first) * chunk, rows);
    }
  });
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

void MultiplyTiles(const GradientPass& pass, const Operands& from, std::int64_t tiles,
                   const ChannelBlock& channels, bool add, float* sums, BothAhead ahead) {
  const std::int64_t products =
      pass.count * 6 * channels.pairs() * winograd::divided_up(tiles, most_tiles_in_sum);
  ahead.x.spread(products, std::min(tiles, most_tiles_in_sum));
  ahead.dy.spread(products, std::min(tiles, most_tiles_in_sum));
  // Called by a pointer: of a function that it knows, g++ keeps the caller's integers in vector registers,
  // where they wait behind all the multiplications.
  const bool dense = ahead.x.step() + ahead.dy.step() > Ahead::line;
  const auto make = dense ? multiply_chunk<false, true> : multiply_chunk<false, false>;
  const auto extend = dense ? multiply_chunk<true, true> : multiply_chunk<true, false>;
  for (int place = 0; place < pass.count * 6; ++place) {
    const std::int64_t position = pass.row[place / 6] * 6 + place % 6;
    for (std::int64_t out = channels.out_begin; out < channels.out_end; ++out) {
      for (std::int64_t in = channels.in_begin; in < channels.in_end; ++in) {
        const float* const x = from.x + place * from.x_stride + in * from.tiles * chunk;
        const float* const dy = from.dy + place * from.dy_stride + out * from.tiles * chunk;
        float* const to = sums + channels.sums_at(out, in) + position * chunk * chunk;
        for (std::int64_t t = 0; t < tiles; t += most_tiles_in_sum) {
          const auto multiply = add || t > 0 ? extend : make;
          multiply(x + t * chunk, dy + t * chunk, std::min(most_tiles_in_sum, tiles - t), to, ahead.x.next(),
                   ahead.dy.next());
        }
      }
    }
  }
}

void AddParts(const float* sums, int parts, std::int64_t part_stride, std::int64_t count, float* total) {
  const Floats d;
  for (std::int64_t i = 0; i < count; i += lanes) {
    Vec sum = hn::Load(d, sums + i);
    for (int part = 1; part < parts; ++part) sum = hn::Add(sum, hn::Load(d, sums + part * part_stride + i));
    hn::Store(sum, d, total + i);
  }
}

/// Row by row of dw, which is written as it lies in memory as far as the block goes.
template <class T>
void write_block(const winograd::Problem& problem, const ChannelBlock& channels, const float* sums, T* dw) {
  const std::int64_t end = std::min(channels.out_end * chunk, problem.out);
  const bool past_cache = goes_past_cache(dw, problem.out, problem.in);
  for (std::int64_t out = channels.out_begin * chunk; out < end; ++out) {
    for (std::int64_t c = channels.in_begin; c < channels.in_end; ++c) {
      write_filters(sums + channels.sums_at(out / chunk, c) + out % chunk * chunk,
                    std::min(chunk, problem.in - c * chunk), past_cache,
                    dw + out * 9 * problem.in + c * chunk, problem.in);
    }
  }
  if (past_cache) hwy::FlushStream();
}

void WriteWeights(const winograd::Problem& problem, const ChannelBlock& channels, const float* sums, void* dw,
                  DType dtype) {
  dtype == DType::bf16 ? write_block(problem, channels, sums, static_cast<Bf16*>(dw))
                       : write_block(problem, channels, sums, static_cast<float*>(dw));
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::conv {

HWY_EXPORT(TransformTiles);
HWY_EXPORT(MultiplyTiles);
HWY_EXPORT(AddParts);
HWY_EXPORT(WriteWeights);

namespace winograd {

void transform_tiles(const GradientCut& cut, const GradientPass& pass, const GradientSources& from,
                     std::int64_t begin, std::int64_t end, const Operands& to, std::int64_t first,
                     bool writes, float* rows) {
  HWY_DYNAMIC_DISPATCH(TransformTiles)(cut, pass, from, begin, end, to, first, writes, rows);
}

void multiply_tiles(const GradientPass& pass, const Operands& from, std::int64_t tiles,
                    const ChannelBlock& channels, bool add, float* sums, BothAhead ahead) {
  HWY_DYNAMIC_DISPATCH(MultiplyTiles)(pass, from, tiles, channels, add, sums, ahead);
}

void add_parts(const float* sums, int parts, std::int64_t part_stride, std::int64_t count, float* total) {
  HWY_DYNAMIC_DISPATCH(AddParts)(sums, parts, part_stride, count, total);
}

void write_weights(const Problem& problem, const ChannelBlock& channels, const float* sums, void* dw,
                   DType dtype) {
  HWY_DYNAMIC_DISPATCH(WriteWeights)(problem, channels, sums, dw, dtype);
}

}  // namespace winograd
}  // namespace fusetape::backends::cpu::conv
#endif  // HWY_ONCE
