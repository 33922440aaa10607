#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "fusetape/axes.hpp"
#include "fusetape/image_ops.hpp"
#include "fusetape/loss_ops.hpp"
#include "fusetape/operand.hpp"

/// Recorded, differentiable ops. Each checks shapes and dtypes at its call and throws an Error there that
/// names the op, what was expected, what came, and the caller's line. Images are {N, H, W, C}; convolution
/// weights {out, kh, kw, in}.
namespace fusetape {

// ---- pointwise, with NumPy broadcasting
// -------------------------------------------------------------------------------
Tensor add(Operand a, Operand b);
Tensor sub(Operand a, Operand b);
Tensor mul(Operand a, Operand b);
Tensor div(Operand a, Operand b);
Tensor pow(Operand base, Operand exponent);
/// Of equal elements each gets half of the gradient; where one is a NaN, both get it (as in PyTorch 2.15).
Tensor minimum(Operand a, Operand b);
Tensor maximum(Operand a, Operand b);
Tensor operator+(Operand a, Operand b);
Tensor operator-(Operand a, Operand b);
Tensor operator*(Operand a, Operand b);
Tensor operator/(Operand a, Operand b);
Tensor operator-(Operand x);

Tensor neg(Operand x);
Tensor abs(Operand x);
Tensor exp(Operand x);
Tensor log(Operand x);
Tensor sqrt(Operand x);
Tensor rsqrt(Operand x);  ///< 1/√x
Tensor expm1(Operand x);  ///< eˣ − 1, exact where x is small
Tensor log1p(Operand x);  ///< log(1 + x), exact where x is small
Tensor sin(Operand x);
Tensor cos(Operand x);
/// No gradient flows through these three; integers are as they are, and their sign.
Tensor floor(Operand x);
Tensor round(Operand x);  ///< of two the even one
Tensor sign(Operand x);   ///< −1, 0 or 1; NaN stays NaN
/// NaN stays NaN. The gradient passes where low < x < high: at the bounds, which are rounded to x's dtype, it
/// is 0, as in PyTorch 2.15 (1 in versions before).
Tensor clamp(Operand x, double low, double high);
Tensor relu(Operand x);   ///< NaN stays NaN; gradient from y: g where !(y ≤ 0)
Tensor relu6(Operand x);  ///< min(max(x, 0), 6); the gradient is 0 at both ends
Tensor leaky_relu(Operand x, double slope = 0.01);
/// x where x > 0, else α(eˣ − 1); the gradient at 0 is α. (Clevert, Unterthiner, Hochreiter 2015.)
Tensor elu(Operand x, double alpha = 1);
Tensor sigmoid(Operand x);
Tensor tanh(Operand x);
Tensor gelu(Operand x);  ///< exact: x·Φ(x), with erf
/// x(1 + tanh(√(2/π)(x + 0.044715x³)))/2: GELU's older approximation.
Tensor gelu_tanh(Operand x);
Tensor silu(Operand x);  ///< x·σ(x), swish
/// log(1 + eˣ), at every x (PyTorch's is x from its threshold of 20 on: 2e-9 less).
Tensor softplus(Operand x);
Tensor mish(Operand x);  ///< x·tanh(softplus(x)) (Misra 2019)
/// relu6(x + 3)/6, and x times that (Howard et al. 2019). At −3 and 3 the gradients are 0 and 0, and 0 and 1,
/// as in PyTorch 2.15.
Tensor hardsigmoid(Operand x);
Tensor hardswish(Operand x);

// Comparisons give dtype bool and carry no gradient.
Tensor equal(Operand a, Operand b);
Tensor not_equal(Operand a, Operand b);
Tensor less(Operand a, Operand b);
Tensor less_equal(Operand a, Operand b);
Tensor greater(Operand a, Operand b);
Tensor greater_equal(Operand a, Operand b);
// Of truths: a number other than 0 is true, NaN too. Bool, without a gradient.
Tensor logical_and(Operand a, Operand b);
Tensor logical_or(Operand a, Operand b);
Tensor logical_xor(Operand a, Operand b);
Tensor logical_not(Operand x);
/// a where condition (bool) holds, else b.
Tensor where(Operand condition, Operand a, Operand b);

Tensor cast(Operand x, DType dtype);
/// x + b with b {C} along the last axis.
Tensor bias_add(Operand x, Operand b);

// ---- linear algebra
// ---------------------------------------------------------------------------------------------------
struct MatmulOptions {
  bool transpose_a = false;  ///< of the last two axes
  bool transpose_b = false;
};
/// {…, M, K} × {…, K, N} → {…, M, N}; equal leading axes, or a matrix on one side.
Tensor matmul(Operand a, Operand b, MatmulOptions options = {});
/// x {…, in} · wᵀ, w {out, in}, + b {out}.
Tensor linear(Operand x, Operand w);
Tensor linear(Operand x, Operand w, Operand b);

// ---- shape
// ------------------------------------------------------------------------------------------------------------
Tensor reshape(Operand x, Shape shape);        ///< one extent may be -1
Tensor flatten(Operand x, int from_axis = 1);  ///< joins the axes from `from_axis` on
Tensor transpose(Operand x, std::vector<int> permutation);
Tensor transpose(Operand x);  ///< of a matrix, or of the last two axes
Tensor broadcast_to(Operand x, Shape shape);
Tensor concat(const std::vector<Tensor>& parts, int axis, Location at = Location::current());
/// x[…, start:stop:step, …] on one axis; negative start and stop count from the end; stop is exclusive. step
/// ≥ 1.
Tensor slice(Operand x, int axis, std::int64_t start, std::int64_t stop, std::int64_t step = 1);
/// {before, after} elements of `value` on each axis; a single number is both.
Tensor pad(Operand x, std::vector<PadWidth> widths, Number value = 0);
Tensor squeeze(Operand x, int axis);    ///< without this axis, whose extent is 1
Tensor unsqueeze(Operand x, int axis);  ///< with a new axis of extent 1 at this place of the result
/// Tensors of one shape along a new axis.
Tensor stack(const std::vector<Tensor>& parts, int axis = 0, Location at = Location::current());
/// Parts of so many places of the axis each, all of them together.
std::vector<Tensor> split(Operand x, const std::vector<std::int64_t>& sizes, int axis = 0);
/// `times[i]` copies behind each other along axis i; as many numbers as axes.
Tensor repeat(Operand x, const std::vector<std::int64_t>& times);
/// The axes in reverse order.
Tensor flip(Operand x, Axes axes);
/// Place i becomes place i + shift; what leaves at the end comes in again.
Tensor roll(Operand x, std::int64_t shift, int axis = 0);

// ---- by index; indices are i64 in [0, extent): others throw when it runs
// ---------------------------------------------
/// y[…, k, …] = x[…, index[k], …]; index {K}. This and what follows run on the host where there is a GPU, as
/// explain() says.
Tensor index_select(Operand x, int axis, const Tensor& index);
/// y[…, k, …] = x[…, index[…, k, …], …]; index has y's shape, which differs from x's on the axis only.
Tensor gather(Operand x, int axis, const Tensor& index);
/// x + values, each added at its index: x[…, index[…, k, …], …] += values[…, k, …], in the order of k, so
/// that the bits are the same every time. values and index have one shape.
Tensor scatter_add(Operand x, int axis, const Tensor& index, const Tensor& values);
/// weight {entries, width}, indices {…} → {…, width}.
Tensor embedding(Operand weight, const Tensor& indices);
/// labels {…} i64 or u8 → {…, classes}: 1 at the label, else 0 (everywhere for a label that is no class).
Tensor one_hot(const Tensor& labels, std::int64_t classes, DType dtype = DType::f32,
               Location at = Location::current());

// ---- reductions; axes empty: all
// ---------------------------------------------------------------------------------------
Tensor sum(Operand x, Axes axes = {}, ReduceOptions options = {});
Tensor mean(Operand x, Axes axes = {}, ReduceOptions options = {});
/// The largest element; NaN wins. k equal ones get 1/k of the gradient each, as of PyTorch 2.15's amax and of
/// its max over all axes.
Tensor max(Operand x, Axes axes = {}, ReduceOptions options = {});
/// The index (i64) of the first largest element along one axis.
Tensor argmax(Operand x, int axis = -1, ReduceOptions options = {});
/// The smallest, as max.
Tensor min(Operand x, Axes axes = {}, ReduceOptions options = {});
Tensor argmin(Operand x, int axis = -1, ReduceOptions options = {});
struct VarOptions {
  double correction = 1;  ///< Σ(x − mean)² is divided by n − correction; n must be larger
  bool keep_dims = false;
};
Tensor var(Operand x, Axes axes = {}, VarOptions options = {});
/// The product along one axis; that of nothing is 1. Pairwise, so that its gradient is exact where a factor
/// is 0.
Tensor prod(Operand x, int axis = -1, ReduceOptions options = {});
/// log Σ eˣ, without overflow; −∞ where all are.
Tensor logsumexp(Operand x, Axes axes = {}, ReduceOptions options = {});
/// The sums of all places up to each. Integers and bools are counted in i64. cumsum and topk run in the
/// reference loops, on a GPU on the host, as explain() says.
Tensor cumsum(Operand x, int axis = -1);
struct TopK {
  Tensor values, places;  ///< the largest first; of equal ones the first; NaN is larger than all. places: i64
};
TopK topk(Operand x, std::int64_t count, int axis = -1);
Tensor softmax(Operand x, int axis = -1);
Tensor log_softmax(Operand x, int axis = -1);

// ---- attention
// --------------------------------------------------------------------------------------------------------
struct AttentionOptions {
  Tensor mask =
      {};  ///< {…, L, S} or what broadcasts to it, bool: true may be looked at; or added to the scores
  bool causal = false;  ///< query i looks at keys 0 to i + S − L
  double scale = 0;     ///< of q·k; 0: 1/√E
  double dropout = 0;   ///< of the weights, in [0, 1): for training only
};
/// softmax(scale·q·kᵀ + mask)·v (Vaswani et al. 2017): q {…, L, E}, k {…, S, E}, v {…, S, V} → {…, L, V},
/// with equal leading axes. A query that may look at nothing gives the mean of v.
Tensor scaled_dot_product_attention(Operand q, Operand k, Operand v, AttentionOptions options = {});

// ---- random (counter-based Philox 4x32-10; the counter is drawn when recorded)
// -----------------------------------------
Tensor rand(Shape shape, DType dtype = DType::f32, Location at = Location::current());  ///< uniform in [0, 1)
Tensor randn(Shape shape, DType dtype = DType::f32, Location at = Location::current());  ///< standard normal
/// Zeroes elements with probability p and scales the others by 1/(1−p). p in [0, 1).
Tensor dropout(Operand x, double p = 0.5);

}  // namespace fusetape
