#include "backends/cpu/batch_norm_simd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/batch_norm_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Floats = hn::ScalableTag<float>;
using Vec = hn::Vec<Floats>;
constexpr std::int64_t lanes = static_cast<std::int64_t>(hn::MaxLanes(Floats()));

/// Whole vectors.
struct Whole {
  static HWY_INLINE Vec load(const float* from) { return hn::LoadU(Floats(), from); }
  static HWY_INLINE void store(Vec v, float* to) { hn::StoreU(v, Floats(), to); }
};

/// The short vector at the end of a row: reads zeros beyond it, writes nothing there.
struct Tail {
  hn::Mask<Floats> mask;
  HWY_INLINE Vec load(const float* from) const { return hn::MaskedLoad(mask, Floats(), from); }
  HWY_INLINE void store(Vec v, float* to) const { hn::BlendedStore(v, mask, Floats(), to); }
};

/// v where !(v ≤ 0), else 0: a NaN stays.
HWY_INLINE Vec relu(Vec v) { return hn::IfThenZeroElse(hn::Le(v, hn::Zero(Floats())), v); }
HWY_INLINE Vec where_positive(Vec v, Vec g) { return hn::IfThenZeroElse(hn::Le(v, hn::Zero(Floats())), g); }
// A pattern has room behind it: no tail needed.
HWY_INLINE Vec pattern(const float* row, std::int64_t column) { return hn::LoadU(Floats(), row + column); }

/// Runs a block, strictly in the order of memory: anything else costs half of the bandwidth. A `Column` is
/// one vector of columns: it loads its patterns and sums when made, handles a row, and stores its sums at the
/// end. Where four columns are a whole wide row, as for up to 64 channels, they stay in registers; else
/// patterns and sums stay in L1.
template <class Column, class Task>
HWY_INLINE void run_block(const RowBlock block, const Task task) {
  const std::int64_t end = block.offset + block.rows * block.width;
  if (block.width == 4 * lanes) {
    Column c0(task, 0), c1(task, lanes), c2(task, 2 * lanes), c3(task, 3 * lanes);
    for (std::int64_t at = block.offset; at < end; at += 4 * lanes) {
      c0.row(task, Whole{}, at);
      c1.row(task, Whole{}, at + lanes);
      c2.row(task, Whole{}, at + 2 * lanes);
      c3.row(task, Whole{}, at + 3 * lanes);
    }
    c0.finish(task, Whole{}, 0);
    c1.finish(task, Whole{}, lanes);
    c2.finish(task, Whole{}, 2 * lanes);
    c3.finish(task, Whole{}, 3 * lanes);
    return;
  }
  const std::int64_t whole = block.width / lanes * lanes;
  const Tail tail{hn::FirstN(Floats(), static_cast<std::size_t>(block.width - whole))};
  for (std::int64_t row = block.offset; row < end; row += block.width) {
    for (std::int64_t column = 0; column < whole; column += lanes) {
      Column c(task, column);
      c.row(task, Whole{}, row + column);
      c.finish(task, Whole{}, column);
    }
    if (whole == block.width) continue;
    Column c(task, whole);
    c.row(task, tail, row + whole);
    c.finish(task, tail, whole);
  }
}

struct Moments {
  const float *x, *shift;
  float *sum, *square;
};

struct MomentsColumn {
  Vec shift, sum, square;
  HWY_INLINE MomentsColumn(const Moments& m, std::int64_t column)
      : shift(pattern(m.shift, column)), sum(pattern(m.sum, column)), square(pattern(m.square, column)) {}
  template <class Access>
  HWY_INLINE void row(const Moments& m, const Access& access, std::int64_t at) {
    const Vec d = hn::Sub(access.load(m.x + at), shift);
    sum = hn::Add(sum, d);
    square = hn::MulAdd(d, d, square);
  }
  template <class Access>
  HWY_INLINE void finish(const Moments& m, const Access& access, std::int64_t column) const {
    access.store(sum, m.sum + column);
    access.store(square, m.square + column);
  }
};

void ShiftedMoments(const RowBlock& block, const float* x, const float* shift, float* sum, float* square) {
  run_block<MomentsColumn>(block, Moments{.x = x, .shift = shift, .sum = sum, .square = square});
}

template <int Norms, bool Relu, bool HasZ>
struct ForwardColumn {
  static constexpr int last = Norms - 1;
  Vec a0, s0, a1, s1;
  HWY_INLINE ForwardColumn(const NormForward& n, std::int64_t column)
      : a0(pattern(n.a[0], column)),
        s0(pattern(n.s[0], column)),
        a1(pattern(n.a[last], column)),
        s1(pattern(n.s[last], column)) {}
  template <class Access>
  HWY_INLINE void row(const NormForward& n, const Access& access, std::int64_t at) const {
    Vec v = hn::MulAdd(a0, access.load(n.x[0] + at), s0);
    if constexpr (Norms == 2) v = hn::Add(v, hn::MulAdd(a1, access.load(n.x[1] + at), s1));
    if constexpr (HasZ) v = hn::Add(v, access.load(n.z + at));
    if constexpr (Relu) v = relu(v);
    access.store(v, n.y + at);
  }
  template <class Access>
  HWY_INLINE void finish(const NormForward&, const Access&, std::int64_t) const {}
};

template <int Norms, bool Relu>
void forward_block(const RowBlock& block, const NormForward& norm) {
  norm.z != nullptr ? run_block<ForwardColumn<Norms, Relu, true>>(block, norm)
                    : run_block<ForwardColumn<Norms, Relu, false>>(block, norm);
}

void Forward(const RowBlock& block, const NormForward& norm) {
  if (norm.norms == 2) {
    norm.relu ? forward_block<2, true>(block, norm) : forward_block<2, false>(block, norm);
  } else {
    norm.relu ? forward_block<1, true>(block, norm) : forward_block<1, false>(block, norm);
  }
}

/// g' at one place; `x`, `a` and `s` are the first normalisation's, for the recomputed mask.
template <MaskFrom Mask, class Access>
HWY_INLINE Vec masked_gradient(const NormBackward& n, const Access& access, std::int64_t at, Vec x, Vec a,
                               Vec s) {
  Vec g = access.load(n.g + at);
  if (n.g2 != nullptr) g = hn::Add(g, access.load(n.g2 + at));
  if constexpr (Mask == MaskFrom::output) g = where_positive(access.load(n.y + at), g);
  if constexpr (Mask == MaskFrom::input) g = where_positive(hn::MulAdd(a, x, s), g);
  return g;
}

template <int Norms, MaskFrom Mask>
struct SumsColumn {
  Vec sum, a = hn::Zero(Floats()), s = a, mean0 = a, mean1 = a, sum0 = a, sum1 = a;
  HWY_INLINE SumsColumn(const NormBackward& n, std::int64_t column) : sum(pattern(n.sum_g, column)) {
    if constexpr (Mask == MaskFrom::input) {
      a = pattern(n.scale, column);
      s = pattern(n.shift, column);
    }
    if constexpr (Norms > 0) {
      mean0 = pattern(n.mean[0], column);
      sum0 = pattern(n.sum_gx[0], column);
    }
    if constexpr (Norms > 1) {
      mean1 = pattern(n.mean[1], column);
      sum1 = pattern(n.sum_gx[1], column);
    }
  }
  template <class Access>
  HWY_INLINE void row(const NormBackward& n, const Access& access, std::int64_t at) {
    Vec x0 = hn::Zero(Floats()), x1 = x0;
    if constexpr (Norms > 0) x0 = access.load(n.x[0] + at);
    if constexpr (Norms > 1) x1 = access.load(n.x[1] + at);
    const Vec g = masked_gradient<Mask>(n, access, at, x0, a, s);
    if (n.masked != nullptr) access.store(g, n.masked + at);
    sum = hn::Add(sum, g);
    if constexpr (Norms > 0) sum0 = hn::MulAdd(g, hn::Sub(x0, mean0), sum0);
    if constexpr (Norms > 1) sum1 = hn::MulAdd(g, hn::Sub(x1, mean1), sum1);
  }
  template <class Access>
  HWY_INLINE void finish(const NormBackward& n, const Access& access, std::int64_t column) const {
    access.store(sum, n.sum_g + column);
    if constexpr (Norms > 0) access.store(sum0, n.sum_gx[0] + column);
    if constexpr (Norms > 1) access.store(sum1, n.sum_gx[1] + column);
  }
};

template <int Norms, MaskFrom Mask>
struct GradientColumn {
  static constexpr int last = Norms - 1;
  Vec mean0, a0, b0, c0, mean1, a1, b1, c1, s;
  HWY_INLINE GradientColumn(const NormBackward& n, std::int64_t column)
      : mean0(pattern(n.mean[0], column)),
        a0(pattern(n.a[0], column)),
        b0(pattern(n.b[0], column)),
        c0(pattern(n.c[0], column)),
        mean1(pattern(n.mean[last], column)),
        a1(pattern(n.a[last], column)),
        b1(pattern(n.b[last], column)),
        c1(pattern(n.c[last], column)),
        s(pattern(Mask == MaskFrom::input ? n.shift : n.c[0], column)) {}
  template <class Access>
  HWY_INLINE void row(const NormBackward& n, const Access& access, std::int64_t at) const {
    // Everything is read before anything is written: dx may share a buffer with any of it.
    const Vec x0 = access.load(n.x[0] + at);
    const Vec x1 = Norms > 1 ? access.load(n.x[last] + at) : x0;
    const Vec g = masked_gradient<Mask>(n, access, at, x0, a0, s);
    access.store(hn::MulAdd(a0, g, hn::MulAdd(b0, hn::Sub(x0, mean0), c0)), n.dx[0] + at);
    if constexpr (Norms > 1)
      access.store(hn::MulAdd(a1, g, hn::MulAdd(b1, hn::Sub(x1, mean1), c1)), n.dx[1] + at);
  }
  template <class Access>
  HWY_INLINE void finish(const NormBackward&, const Access&, std::int64_t) const {}
};

template <int Norms, MaskFrom Mask>
void sums_block(const RowBlock& block, const NormBackward& norm) {
  run_block<SumsColumn<Norms, Mask>>(block, norm);
}

template <int Norms, MaskFrom Mask>
void gradient_block(const RowBlock& block, const NormBackward& norm) {
  run_block<GradientColumn<Norms, Mask>>(block, norm);
}

void GradientSums(const RowBlock& block, const NormBackward& norm) {
  if (norm.norms == 0) return sums_block<0, MaskFrom::output>(block, norm);
  if (norm.norms == 2) return sums_block<2, MaskFrom::output>(block, norm);
  switch (norm.mask) {
    case MaskFrom::nothing:
      return sums_block<1, MaskFrom::nothing>(block, norm);
    case MaskFrom::output:
      return sums_block<1, MaskFrom::output>(block, norm);
    case MaskFrom::input:
      return sums_block<1, MaskFrom::input>(block, norm);
  }
}

void Gradient(const RowBlock& block, const NormBackward& norm) {
  if (norm.norms == 2) {
    return norm.mask == MaskFrom::nothing ? gradient_block<2, MaskFrom::nothing>(block, norm)
                                          : gradient_block<2, MaskFrom::output>(block, norm);
  }
  switch (norm.mask) {
    case MaskFrom::nothing:
      return gradient_block<1, MaskFrom::nothing>(block, norm);
    case MaskFrom::output:
      return gradient_block<1, MaskFrom::output>(block, norm);
    case MaskFrom::input:
      return gradient_block<1, MaskFrom::input>(block, norm);
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu {

HWY_EXPORT(ShiftedMoments);
HWY_EXPORT(Forward);
HWY_EXPORT(GradientSums);
HWY_EXPORT(Gradient);

void add_shifted_moments(const RowBlock& block, const float* x, const float* shift, float* sum,
                         float* square) {
  HWY_DYNAMIC_DISPATCH(ShiftedMoments)(block, x, shift, sum, square);
}

void apply_norm(const RowBlock& block, const NormForward& norm) {
  HWY_DYNAMIC_DISPATCH(Forward)(block, norm);
}

void add_gradient_sums(const RowBlock& block, const NormBackward& norm) {
  HWY_DYNAMIC_DISPATCH(GradientSums)(block, norm);
}

void apply_norm_gradient(const RowBlock& block, const NormBackward& norm) {
  HWY_DYNAMIC_DISPATCH(Gradient)(block, norm);
}

}  // namespace fusetape::backends::cpu
#endif  // HWY_ONCE
