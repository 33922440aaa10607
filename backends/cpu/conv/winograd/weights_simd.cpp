#include "backends/cpu/conv/winograd/winograd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/conv/winograd/weights_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/channel_vectors-inl.hpp"
#include "backends/cpu/conv/winograd/tiles.hpp"

/// G g Gᵀ: the 3×3 filter of each pair of channels to 6×6 positions,
/// u [half row][vector of out][in][3][lanes]: 12 halves of three positions, one after the other.
HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

/// The weights to transform: tap p of channel `in` for channel `out` is w[in·in_stride + p·tap_stride +
/// out·out_stride], from `w` on.
template <class T>
struct Filters {
  const T* w;
  std::ptrdiff_t in_stride, tap_stride, out_stride;
  std::int64_t in, out;
};

/// Filters of one vector of outputs, {9, chunk, lanes}; zeros beyond the last output.
template <class T>
void gather_taps(const Filters<T>& filters, std::int64_t first_in, std::int64_t ins, std::int64_t first_out,
                 float* taps) {
  const std::int64_t outs = std::min(lanes, filters.out - first_out);
  if (outs < lanes) {
    std::memset(taps, 0, sizeof(float) * static_cast<std::size_t>(9 * winograd::chunk * lanes));
  }
  const T* from = filters.w + first_in * filters.in_stride + first_out * filters.out_stride;
  const auto copy = [&](std::int64_t in, std::int64_t p, std::int64_t out) {
    taps[(p * winograd::chunk + in) * lanes + out] =
        to_float(from[in * filters.in_stride + p * filters.tap_stride + out * filters.out_stride]);
  };
  // Innermost what stands side by side in memory.
  if (filters.in_stride == 1) {
    for (std::int64_t out = 0; out < outs; ++out) {
      for (std::int64_t p = 0; p < 9; ++p) {
        for (std::int64_t in = 0; in < ins; ++in) copy(in, p, out);
      }
    }
  } else {
    for (std::int64_t in = 0; in < ins; ++in) {
      for (std::int64_t p = 0; p < 9; ++p) {
        for (std::int64_t out = 0; out < outs; ++out) copy(in, p, out);
      }
    }
  }
}

/// Three taps times Gᵀ.
HWY_INLINE void transform_taps(Vec g0, Vec g1, Vec g2, Vec (&to)[6]) {
  const Floats f;
  const Vec sixth = hn::Set(f, 1.0f / 6);
  const Vec even = hn::Mul(hn::Set(f, -1.0f / 6), hn::Add(g0, g2)), odd = hn::Mul(sixth, g1);
  const Vec wide_even = hn::MulAdd(sixth, g2, hn::Mul(hn::Set(f, 1.0f / 24), g0));
  const Vec wide_odd = hn::Mul(hn::Set(f, 1.0f / 12), g1);
  to[0] = hn::Mul(hn::Set(f, 0.25f), g0);
  to[1] = hn::Sub(even, odd);
  to[2] = hn::Add(even, odd);
  to[3] = hn::Add(wide_even, wide_odd);
  to[4] = hn::Sub(wide_even, wide_odd);
  to[5] = g2;
}

/// One filter for a vector of outputs; `half_stride` floats from half row to half row of the positions.
void transform_filter(const float* taps, float* to, std::ptrdiff_t half_stride) {
  const Floats f;
  const auto tap = [&](int i, int j)
                       HWY_ATTR { return hn::Load(f, taps + (i * 3 + j) * winograd::chunk * lanes); };
  Vec columns[3][6], row[6];
  for (int j = 0; j < 3; ++j) transform_taps(tap(0, j), tap(1, j), tap(2, j), columns[j]);
  for (int i = 0; i < 6; ++i, to += 2 * half_stride) {
    transform_taps(columns[0][i], columns[1][i], columns[2][i], row);
    for (int j = 0; j < 6; ++j) hn::Store(row[j], f, to + j / 3 * half_stride + j % 3 * lanes);
  }
}

/// Parts of `parts`: vectors of outputs times chunks of inputs.
template <class T>
void transform_part(const Filters<T>& filters, float* u, int part, int parts) {
  HWY_ALIGN float taps[9 * winograd::chunk * lanes];
  const std::int64_t chunks = winograd::divided_up(filters.in, winograd::chunk);
  const std::int64_t vectors = winograd::divided_up(filters.out, lanes), items = vectors * chunks;
  const std::ptrdiff_t half_stride = vectors * filters.in * 3 * lanes;
  for (std::int64_t item = items * part / parts; item < items * (part + 1) / parts; ++item) {
    const std::int64_t vector = item / chunks, first_in = item % chunks * winograd::chunk;
    const std::int64_t ins = std::min(winograd::chunk, filters.in - first_in);
    gather_taps(filters, first_in, ins, vector * lanes, taps);
    float* to = u + (vector * filters.in + first_in) * 3 * lanes;
    for (std::int64_t in = 0; in < ins; ++in) {
      transform_filter(taps + in * lanes, to + in * 3 * lanes, half_stride);
    }
  }
}

/// The mirrored problem reads a filter from its end, and in and out change places.
template <class T>
void transform_typed(const winograd::Problem& p, const void* w, bool for_input_gradient, float* u, int part,
                     int parts) {
  const T* first = static_cast<const T*>(w);
  const Filters<T> forward{first, 1, p.in, 9 * p.in, p.in, p.out};
  const Filters<T> mirrored{first + 8 * p.in, 9 * p.in, -p.in, 1, p.out, p.in};
  transform_part(for_input_gradient ? mirrored : forward, u, part, parts);
}

void TransformWeights(const winograd::Problem& problem, const void* w, DType dtype, bool for_input_gradient,
                      float* u, int part, int parts) {
  dtype == DType::bf16 ? transform_typed<Bf16>(problem, w, for_input_gradient, u, part, parts)
                       : transform_typed<float>(problem, w, for_input_gradient, u, part, parts);
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::conv {

HWY_EXPORT(TransformWeights);

namespace winograd {

std::size_t weights_bytes(const Problem& problem) {
  // Either way round: the widest vector is a chunk.
  const std::int64_t pairs =
      std::max(rounded_up(problem.out, chunk) * problem.in, rounded_up(problem.in, chunk) * problem.out);
  return static_cast<std::size_t>(pairs * 36) * sizeof(float);
}

void transform_weights(const Problem& problem, const void* w, DType dtype, bool for_input_gradient, float* u,
                       int threads) {
  constexpr std::int64_t least_pairs = 512;  // below it a second thread costs more than it brings
  const int parts =
      static_cast<int>(std::clamp<std::int64_t>(problem.in * problem.out / least_pairs, 1, threads));
  for_parts(parts, [&](int part) {
    HWY_DYNAMIC_DISPATCH(TransformWeights)(problem, w, dtype, for_input_gradient, u, part, parts);
  });
}

}  // namespace winograd
}  // namespace fusetape::backends::cpu::conv
#endif  // HWY_ONCE
