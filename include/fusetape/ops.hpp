#pragma once
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "fusetape/number.hpp"
#include "fusetape/size2d.hpp"
#include "fusetape/tensor.hpp"

/// Recorded, differentiable ops. Each checks shapes and dtypes at its call and throws an Error there that
/// names the op, what was expected, what came, and the caller's line. Images are {N, H, W, C}; convolution
/// weights {out, kh, kw, in}.
namespace fusetape {

/// A tensor, parameter or number handed to an op, with the caller's source line. A number takes the other
/// operand's dtype, which must hold it (an integer beside i64 stays exact), and is a run-time input: changing
/// it makes no new plan.
class Operand {
 public:
  Operand(const Tensor& tensor, Location at = Location::current()) : tensor_(tensor), at_(at) {}
  /// A temporary is used up by the op: inside one expression, `relu(conv2d(x, w))`, no handle keeps the inner
  /// value alive.
  Operand(Tensor&& tensor, Location at = Location::current())
      : tensor_(std::move(tensor)), temporary_(true), at_(at) {}
  Operand(const Parameter& parameter, Location at = Location::current())
      : tensor_(parameter.value(at)), at_(at) {}
  template <class T>
    requires std::is_arithmetic_v<T>
  Operand(T number, Location at = Location::current()) : number_(number), is_number_(true), at_(at) {}

  bool is_number() const { return is_number_; }
  Number number() const { return number_; }
  const Tensor& tensor() const { return tensor_; }
  /// The tensor, for its one use by an op: a temporary's handle goes with it.
  Tensor take() const { return temporary_ ? std::move(tensor_) : tensor_; }
  Location at() const { return at_; }

 private:
  mutable Tensor tensor_;
  bool temporary_ = false;
  Number number_ = 0;
  bool is_number_ = false;
  Location at_;
};

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

// ---- convolution
// ------------------------------------------------------------------------------------------------------
/// Each size is {height, width}; a single number is both: `{.padding = 1}`.
struct Conv2dOptions {
  Size2d stride = 1;
  Padding2d padding = 0;  ///< on both sides of height and width
  Size2d dilation = 1;
  std::int64_t groups = 1;
};
/// Cross-correlation. x {N, H, W, C}, w {O, kh, kw, C/groups} → {N, OH, OW, O}, OH = (H + 2p − d(kh−1) − 1)/s
/// + 1.
Tensor conv2d(Operand x, Operand w, Conv2dOptions options = {});
Tensor conv2d(Operand x, Operand w, Operand b, Conv2dOptions options = {});

struct ConvTranspose2dOptions {
  Size2d stride = 1;
  Padding2d padding = 0;
  Size2d output_padding = 0;
  Size2d dilation = 1;
  std::int64_t groups = 1;
};
/// The gradient of conv2d by its input, as a layer. x {N, H, W, C}, w {C, kh, kw, O/groups} →
/// {N, OH, OW, O}, OH = (H−1)s − 2p + d(kh−1) + output_padding + 1.
Tensor conv_transpose2d(Operand x, Operand w, ConvTranspose2dOptions options = {});

// ---- normalisation
// ----------------------------------------------------------------------------------------------------
struct BatchNormOptions {
  double eps = 1e-5;      ///< part of the model: each new one makes a new plan
  double momentum = 0.1;  ///< a run-time input; running = (1 − momentum)·running + momentum·batch; the
                          ///< variance enters unbiased (n/(n−1)) and an empty batch not at all
};
struct BatchNormResult {
  Tensor y;                          ///< γ(x−μ)/√(σ²+ε) + β
  Tensor running_mean, running_var;  ///< the new versions; undefined when none were given
};
/// Training mode: statistics of this batch over all axes but the last. x {…, C}; gamma, beta {C}. One value a
/// channel (N·H·W = 1) is an Error: leave such a last batch out with the loader's drop_last. y is made as
/// (x−μ)·a + β with a = γ/√(σ²+ε), to a few units in the last place of the larger summand, however large μ
/// is; squares of x may exceed f32, x − μ may not.
BatchNormResult batch_norm(Operand x, Operand gamma, Operand beta, const Tensor& running_mean,
                           const Tensor& running_var, BatchNormOptions options = {});
Tensor batch_norm(Operand x, Operand gamma, Operand beta, BatchNormOptions options = {});
/// Evaluation mode: the given statistics. Folded into the convolution before it, as plans and fold_batch_norm
/// do, y is (a·w)∗x + a(b−μ)+β, each factor rounded once: where μ is large beside the deviation, its error is
/// a few units in the last place of a·μ.
Tensor batch_norm_inference(Operand x, Operand gamma, Operand beta, Operand running_mean, Operand running_var,
                            BatchNormOptions options = {});

// ---- pooling
// ----------------------------------------------------------------------------------------------------------
struct Pool2dOptions {
  Size2d window = 2;
  Size2d stride = 0;  ///< 0: the window
  Padding2d padding = 0;
  bool count_padding = true;  ///< average pooling divides by the whole window
};
/// The gradient goes to the first of a window's equal elements.
Tensor max_pool2d(Operand x, Pool2dOptions options = {});
Tensor avg_pool2d(Operand x, Pool2dOptions options = {});
/// With the window alone: `max_pool2d(x, 2)`.
Tensor max_pool2d(Operand x, Size2d window);
Tensor avg_pool2d(Operand x, Size2d window);
/// {N, H, W, C} → {N, C}.
Tensor global_avg_pool(Operand x);

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

// ---- reductions; axes empty: all
// ---------------------------------------------------------------------------------------
Tensor sum(Operand x, Axes axes = {}, ReduceOptions options = {});
Tensor mean(Operand x, Axes axes = {}, ReduceOptions options = {});
/// The largest element; NaN wins. k equal ones get 1/k of the gradient each, as of PyTorch 2.15's amax and of
/// its max over all axes.
Tensor max(Operand x, Axes axes = {}, ReduceOptions options = {});
/// The index (i64) of the first largest element along one axis.
Tensor argmax(Operand x, int axis = -1, ReduceOptions options = {});

// ---- losses
// -----------------------------------------------------------------------------------------------------------
enum class Reduction : std::uint8_t { mean, sum, none };
Tensor softmax(Operand x, int axis = -1);
Tensor log_softmax(Operand x, int axis = -1);
struct CrossEntropyOptions {
  double label_smoothing = 0;  ///< in [0, 1): the target becomes (1−s)·target + s/classes
  Reduction reduction = Reduction::mean;
  Tensor weight = {};  ///< {classes}, of the logits' dtype; none: all 1
  std::optional<std::int64_t> ignore_index =
      {};  ///< labels that count for nothing; may lie outside of the classes
};
/// −Σ over classes of weight·target·log softmax(logits); logits {…, classes}. Targets: labels {…} i64 or u8,
/// each in [0, classes), or probabilities {…, classes} of the logits' dtype. The mean of labels is divided by
/// the sum of their classes' weights, that of probabilities by their number, as PyTorch's; without any label
/// that counts it is NaN. Plain labels of logits {N, classes} are one kernel each way; the others are made of
/// several ops.
Tensor cross_entropy(Operand logits, Operand targets, CrossEntropyOptions options = {});
struct NllOptions {  // as cross_entropy's
  Reduction reduction = Reduction::mean;
  Tensor weight = {};
  std::optional<std::int64_t> ignore_index = {};
};
/// −weight·log_probabilities[label], log_probabilities {…, classes}. Labels that are pending are computed
/// here, to be checked.
Tensor nll_loss(Operand log_probabilities, Operand labels, NllOptions options = {});
/// Stable: max(x,0) − x·t + log(1+e^−|x|). Shapes of logits and targets are equal.
Tensor bce_with_logits(Operand logits, Operand targets, Reduction reduction = Reduction::mean);
Tensor mse_loss(Operand prediction, Operand target, Reduction reduction = Reduction::mean);
/// |prediction − target|
Tensor l1_loss(Operand prediction, Operand target, Reduction reduction = Reduction::mean);
struct HuberOptions {
  double delta = 1;  ///< > 0
  Reduction reduction = Reduction::mean;
};
/// d²/2 where |d| ≤ delta, else delta·(|d| − delta/2); d = prediction − target (Huber 1964).
Tensor huber_loss(Operand prediction, Operand target, HuberOptions options = {});
/// −t·log p − (1 − t)·log(1 − p), each logarithm at least −100, as PyTorch's. Probabilities in [0, 1]; a
/// logarithm of 0 has no gradient (PyTorch's is up to 1e12). Of logits, bce_with_logits is more exact.
Tensor binary_cross_entropy(Operand probabilities, Operand targets, Reduction reduction = Reduction::mean);
/// Σ over the last axis of p·(log p − log_q), 0 where p is 0: the Kullback–Leibler divergence of q from p.
/// The mean is over distributions: PyTorch's "batchmean" (its "mean" divides by the number of classes, too).
Tensor kl_div(Operand log_q, Operand p, Reduction reduction = Reduction::mean);
struct FocalOptions {
  double alpha = 0.25;  ///< weight of positive targets, 1 − alpha of negative ones; < 0: all 1
  double gamma = 2;     ///< ≥ 0
  Reduction reduction = Reduction::mean;
};
/// Of each logit against its target in [0, 1], α·(1 − p)^γ·bce_with_logits, p the probability of the target
/// (Lin et al., "Focal Loss for Dense Object Detection", 2017).
Tensor focal_loss(Operand logits, Operand targets, FocalOptions options = {});

// ---- random (counter-based Philox 4x32-10; the counter is drawn when recorded)
// -----------------------------------------
Tensor rand(Shape shape, DType dtype = DType::f32, Location at = Location::current());  ///< uniform in [0, 1)
Tensor randn(Shape shape, DType dtype = DType::f32, Location at = Location::current());  ///< standard normal
/// Zeroes elements with probability p and scales the others by 1/(1−p). p in [0, 1).
Tensor dropout(Operand x, double p = 0.5);

}  // namespace fusetape
