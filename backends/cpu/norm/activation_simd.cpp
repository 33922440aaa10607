#include "backends/cpu/norm/activation.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/norm/activation_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/channel_vectors-inl.hpp"
#include "backends/cpu/pointwise_formulas-inl.hpp"

// Activations whose norms' kernels keep everything in registers: X(name, numbers, whether the gradient reads
// the output, whether it is a clamp). The gradient's op is name_grad. One of the cheap ones is computed in
// both passes of backward, rather than stored between them. What a clamp makes of a T is a T, and its
// gradient is g or 0: neither needs to be rounded.
#define FUSETAPE_CHEAP_ACTIVATIONS(X) \
  X(relu6, 0, true, true)             \
  X(clamp, 2, false, true)            \
  X(leaky_relu, 1, false, false) X(hardsigmoid, 0, false, false) X(hardswish, 0, false, false)
#define FUSETAPE_DEAR_ACTIVATIONS(X) \
  X(elu, 1, false, false)            \
  X(sigmoid, 0, true, false)         \
  X(tanh, 0, true, false)            \
  X(gelu, 0, false, false) X(gelu_tanh, 0, false, false) X(silu, 0, false, false) X(mish, 0, false, false)

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::norm::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

/// Copies, which no store can change.
template <class T>
struct ForwardTask {
  NormForward<T> norm;
  Numbers numbers;
};

/// y = act(norm(x)), rounded to T between the two.
template <class T, class Act, int numbers>
struct ForwardColumn {
  Vec mean, a, beta;
  HWY_INLINE ForwardColumn(const ForwardTask<T>& task, std::int64_t column)
      : mean(pattern(task.norm.mean[0], column)),
        a(pattern(task.norm.a[0], column)),
        beta(pattern(task.norm.beta[0], column)) {}
  template <class Access>
  HWY_INLINE void row(const ForwardTask<T>& task, const Access& access, std::int64_t at) const {
    const Vec normed = rounded<T>(normalised(access.load(task.norm.x[0] + at), mean, a, beta));
    access.store(with_numbers<Act, numbers>(task.numbers, Lanes(normed)), task.norm.y + at);
  }
  template <class Access>
  HWY_INLINE void finish(const ForwardTask<T>&, const Access&, std::int64_t) const {}
};

template <class T>
struct GradientTask {
  NormBackward<T> norm;
  Numbers numbers;
};

/// An activation's gradient, of g [+ g2] and what it reads of norm(x).
template <class Activation, class Derivative, int number_count, bool reads_output, bool clamps>
struct Gradient {
  template <class T>
  static HWY_INLINE Vec as_stored(Vec v) {
    return clamps ? v : rounded<T>(v);
  }
  template <class T, class Access>
  static HWY_INLINE Vec at(const GradientTask<T>& task, const Access& access, std::int64_t place, Vec x,
                           Vec mean, Vec a, Vec beta) {
    Vec g = access.load(task.norm.g + place);
    if (task.norm.g2 != nullptr) g = rounded<T>(hn::Add(g, access.load(task.norm.g2 + place)));
    Vec read = rounded<T>(normalised(x, mean, a, beta));
    if constexpr (reads_output) {
      read = as_stored<T>(with_numbers<Activation, number_count>(task.numbers, Lanes(read)));
    }
    return as_stored<T>(with_numbers<Derivative, number_count>(task.numbers, Lanes(g), Lanes(read)));
  }
};

/// masked = g'
template <class T, class G>
struct MaskedColumn {
  Vec mean, a, beta;
  HWY_INLINE MaskedColumn(const GradientTask<T>& task, std::int64_t column)
      : mean(pattern(task.norm.mean[0], column)),
        a(pattern(task.norm.scale, column)),
        beta(pattern(task.norm.beta, column)) {}
  template <class Access>
  HWY_INLINE void row(const GradientTask<T>& task, const Access& access, std::int64_t at) const {
    const Vec x = access.load(task.norm.x[0] + at);
    access.store(G::template at<T>(task, access, at, x, mean, a, beta), task.norm.masked + at);
  }
  template <class Access>
  HWY_INLINE void finish(const GradientTask<T>&, const Access&, std::int64_t) const {}
};

/// Σg' and Σg'(x − mean); g', too, where it is wanted.
template <class T, class G>
struct SumsColumn : MaskedColumn<T, G> {
  Vec sum, sum_x;
  HWY_INLINE SumsColumn(const GradientTask<T>& task, std::int64_t column)
      : MaskedColumn<T, G>(task, column),
        sum(pattern(task.norm.chain_g, column)),
        sum_x(pattern(task.norm.chain_gx[0], column)) {}
  template <class Access>
  HWY_INLINE void row(const GradientTask<T>& task, const Access& access, std::int64_t at) {
    const Vec x = access.load(task.norm.x[0] + at);
    const Vec g = G::template at<T>(task, access, at, x, this->mean, this->a, this->beta);
    if (task.norm.masked != nullptr) access.store(g, task.norm.masked + at);
    sum = hn::Add(sum, g);
    sum_x = hn::MulAdd(g, hn::Sub(x, this->mean), sum_x);
  }
  template <class Access>
  HWY_INLINE void finish(const GradientTask<T>& task, const Access& access, std::int64_t column) const {
    access.store(sum, task.norm.chain_g + column);
    access.store(sum_x, task.norm.chain_gx[0] + column);
  }
};

/// dx = a·g' + (b(x − mean) + c)
template <class T, class G>
struct DxColumn : MaskedColumn<T, G> {
  Vec b, c;
  HWY_INLINE DxColumn(const GradientTask<T>& task, std::int64_t column)
      : MaskedColumn<T, G>(task, column),
        b(pattern(task.norm.b[0], column)),
        c(pattern(task.norm.c[0], column)) {}
  template <class Access>
  HWY_INLINE void row(const GradientTask<T>& task, const Access& access, std::int64_t at) const {
    const Vec x = access.load(task.norm.x[0] + at);
    const Vec g = G::template at<T>(task, access, at, x, this->mean, this->a, this->beta);
    access.store(hn::MulAdd(this->a, g, hn::MulAdd(b, hn::Sub(x, this->mean), c)), task.norm.dx[0] + at);
  }
};

template <class T, class Act, int count>
void forward_rows(const RowBlock& block, const NormForward<T>& norm, const Numbers& numbers) {
  run_block<ForwardColumn<T, Act, count>>(block, ForwardTask<T>{norm, numbers});
}
template <class T, class G>
void masked_rows(const RowBlock& block, const NormBackward<T>& norm, const Numbers& numbers) {
  run_block<MaskedColumn<T, G>>(block, GradientTask<T>{norm, numbers});
}
template <class T, class G>
void sums_rows(const RowBlock& block, const NormBackward<T>& norm, const Numbers& numbers) {
  const ChainSum sums[] = {{norm.chain_g, norm.sum_g}, {norm.chain_gx[0], norm.sum_gx[0]}};
  run_chains<SumsColumn<T, G>>(block, GradientTask<T>{norm, numbers}, sums);
}
template <class T, class G>
void dx_rows(const RowBlock& block, const NormBackward<T>& norm, const Numbers& numbers) {
  run_block<DxColumn<T, G>>(block, GradientTask<T>{norm, numbers});
}

template <class T>
ActivationRows<T> rows_of(const core::OpDef& activation) {
#define FUSETAPE_CHEAP_ROWS(name, count, reads_output, clamps)                                            \
  if (&activation == &ops::name##_op) {                                                                   \
    using G = Gradient<name##_formula, name##_grad_formula, count, reads_output, clamps>;                 \
    return {                                                                                              \
        .forward = forward_rows<T, name##_formula, count>, .sums = sums_rows<T, G>, .dx = dx_rows<T, G>}; \
  }
#define FUSETAPE_DEAR_ROWS(name, count, reads_output, clamps)                                \
  if (&activation == &ops::name##_op) {                                                      \
    using G = Gradient<name##_formula, name##_grad_formula, count, reads_output, clamps>;    \
    return {.forward = forward_rows<T, name##_formula, count>, .masked = masked_rows<T, G>}; \
  }
  FUSETAPE_CHEAP_ACTIVATIONS(FUSETAPE_CHEAP_ROWS)
  FUSETAPE_DEAR_ACTIVATIONS(FUSETAPE_DEAR_ROWS)
#undef FUSETAPE_CHEAP_ROWS
#undef FUSETAPE_DEAR_ROWS
  return {};
}

ActivationRows<float> RowsF32(const core::OpDef& activation) { return rows_of<float>(activation); }
ActivationRows<Bf16> RowsBf16(const core::OpDef& activation) { return rows_of<Bf16>(activation); }

}  // namespace
}  // namespace fusetape::backends::cpu::norm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::norm {

HWY_EXPORT(RowsF32);
HWY_EXPORT(RowsBf16);

template <>
ActivationRows<float> activation_rows<float>(const core::OpDef& activation) {
  return HWY_DYNAMIC_DISPATCH(RowsF32)(activation);
}
template <>
ActivationRows<Bf16> activation_rows<Bf16>(const core::OpDef& activation) {
  return HWY_DYNAMIC_DISPATCH(RowsBf16)(activation);
}

}  // namespace fusetape::backends::cpu::norm
#endif  // HWY_ONCE
