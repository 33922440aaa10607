// Cross entropy of logits against class labels, with softmax inside: −Σ t·log softmax(x), t = (1−s)·onehot +
// s/C (label smoothing: Szegedy et al. 2016, section 7).
#include <cmath>
#include <cstdint>
#include <string>

#include "core/numerics/loss_formulas.hpp"
#include "core/numerics/number_text.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "fusetape/ops.hpp"
#include "ops/losses.hpp"
#include "ops/reference.hpp"

namespace fusetape::ops {

using core::bit;
using core::CrossEntropyAttrs;
using core::GradContext;
using core::InferContext;
using core::RefContext;
using core::RefTensor;

namespace {

Reduction reduction_of(const CrossEntropyAttrs& a) { return static_cast<Reduction>(a.reduction); }

// ---- checks and shapes
// ------------------------------------------------------------------------------------------------

/// Checks logits (input `first`) and the labels behind them; the loss's shape.
Shape loss_shape(const InferContext& ctx, int first) {
  const Shape &logits = ctx.shape(first), &labels = ctx.shape(first + 1);
  const auto a = ctx.attrs.as<CrossEntropyAttrs>();
  ctx.require(is_floating(ctx.dtype(first)), "logits of a floating dtype", ctx.dtype(first));
  ctx.require(logits.rank() == 2 && logits[1] >= 1, "logits {N, classes}", logits);
  const DType type = ctx.dtype(first + 1);
  ctx.require(type == DType::i64 || type == DType::u8, "labels of dtype i64 or u8", type);
  if (labels.rank() != 1 || labels[0] != logits[0]) {
    ctx.fail("labels {" + std::to_string(logits[0]) + "} for logits " + to_string(logits), to_string(labels));
  }
  return reduction_of(a) == Reduction::none ? Shape{logits[0]} : Shape{};
}

void infer_cross_entropy(InferContext& ctx) {
  const Shape loss = loss_shape(ctx, 0);
  ctx.output(loss, ctx.dtype(0));
}

void infer_cross_entropy_grad(InferContext& ctx) {
  const Shape loss = loss_shape(ctx, 1);
  if (!(ctx.shape(0) == loss)) ctx.fail("g " + to_string(loss), to_string(ctx.shape(0)));
  ctx.require(ctx.dtype(0) == ctx.dtype(1), "g of the logits' dtype", ctx.dtype(0));
  ctx.output(ctx.shape(1), ctx.dtype(1));
}

std::string labels_in(std::int64_t classes) { return "labels in [0, " + std::to_string(classes) + ")"; }
std::string label_text(std::int64_t index, std::int64_t label) {
  return "labels[" + std::to_string(index) + "] = " + std::to_string(label);
}

// ---- gradients
// --------------------------------------------------------------------------------------------------------

void gradient_cross_entropy(GradContext& ctx) {
  if (!ctx.needs(0)) return;
  ctx.set(0, record_here(cross_entropy_grad_op, {ctx.incoming(), ctx.input(0), ctx.input(1), ctx.input(2)},
                         ctx.raw_attrs()));
}

/// softmax(x) − t in plain ops.
Tensor residual(const Tensor& probabilities, const Tensor& labels, double smoothing) {
  const std::int64_t n = probabilities.shape()[0], classes = probabilities.shape()[1];
  const Tensor column = cast(labels, DType::i64).reshape({n, 1});
  const Tensor onehot = cast(equal(column, arange(classes, DType::i64)), probabilities.dtype());
  return probabilities - (onehot * (1 - smoothing) + smoothing / static_cast<double>(classes));
}

/// dx = c·g·(p − t), c = 1/N for the mean. By g: Σ h·c·(p − t) over what shares g. By x: softmax's gradient
/// of h·c·g.
void gradient_cross_entropy_grad(GradContext& ctx) {
  const auto a = ctx.attrs<CrossEntropyAttrs>();
  const bool per_row = reduction_of(a) == Reduction::none;
  const Tensor probabilities = softmax(ctx.input(1), 1);
  const std::int64_t n = probabilities.shape()[0];
  Tensor h = ctx.incoming();
  if (reduction_of(a) == Reduction::mean) h = h / static_cast<double>(n);
  if (ctx.needs(0)) {
    const Tensor products = h * residual(probabilities, ctx.input(2), ctx.number(3));
    ctx.set(0, per_row ? sum(products, {1}) : sum(products));
  }
  if (ctx.needs(1)) {
    const Tensor g = per_row ? ctx.input(0).reshape({n, 1}) : ctx.input(0);
    const core::AxisAttrs axis{.axis = 1};
    ctx.set(1, record_here(softmax_grad_op, {h * g, probabilities}, core::Attrs::of(axis)));
  }
}

// ---- reference
// --------------------------------------------------------------------------------------------------------

std::int64_t checked_label(const RefContext& ctx, const RefTensor& labels, std::int64_t row,
                           std::int64_t classes) {
  const auto label = static_cast<std::int64_t>(labels.data[row]);
  if (label < 0 || label >= classes) {
    ctx.fail("expected " + labels_in(classes) + ", got " + label_text(row, label));
  }
  return label;
}

double row_loss(const double* x, std::int64_t classes, std::int64_t label, double smoothing) {
  const LogSoftmax log_softmax(x, {0, 1, classes});
  const double hard = -log_softmax(x[label]);
  if (smoothing == 0) return hard;  // a logit of −∞ elsewhere is then no NaN
  double all = 0;
  for (std::int64_t c = 0; c < classes; ++c) all -= log_softmax(x[c]);
  return core::smoothed_loss(hard, all, smoothing, static_cast<double>(classes));
}

void reference_cross_entropy(RefContext& ctx) {
  const auto a = ctx.attrs.as<CrossEntropyAttrs>();
  const RefTensor &logits = ctx.in[0], &labels = ctx.in[1];
  const double smoothing = ctx.in[2].data[0];
  const std::int64_t n = logits.shape[0], classes = logits.shape[1];
  double total = 0;
  for (std::int64_t row = 0; row < n; ++row) {
    const std::int64_t label = checked_label(ctx, labels, row, classes);
    const double loss = row_loss(logits.data + row * classes, classes, label, smoothing);
    if (reduction_of(a) == Reduction::none) ctx.out[0].data[row] = loss;
    total += loss;
  }
  if (reduction_of(a) == Reduction::sum) ctx.out[0].data[0] = total;
  if (reduction_of(a) == Reduction::mean)
    ctx.out[0].data[0] = total / static_cast<double>(n);  // no rows: 0/0
}

/// dx = g·(softmax(x) − t), over N for the mean.
void reference_cross_entropy_grad(RefContext& ctx) {
  const auto a = ctx.attrs.as<CrossEntropyAttrs>();
  const RefTensor &g = ctx.in[0], &logits = ctx.in[1], &labels = ctx.in[2], &dx = ctx.out[0];
  const double smoothing = ctx.in[3].data[0];
  const std::int64_t n = logits.shape[0], classes = logits.shape[1];
  for (std::int64_t row = 0; row < n; ++row) {
    const std::int64_t label = checked_label(ctx, labels, row, classes);
    const double* x = logits.data + row * classes;
    const LogSoftmax log_softmax(x, {0, 1, classes});
    double scale = g.data[reduction_of(a) == Reduction::none ? row : 0];
    if (reduction_of(a) == Reduction::mean) scale /= static_cast<double>(n);
    for (std::int64_t c = 0; c < classes; ++c) {
      const double target = (c == label ? 1 - smoothing : 0) + smoothing / static_cast<double>(classes);
      dx.data[row * classes + c] = scale * (std::exp(log_softmax(x[c])) - target);
    }
  }
}

}  // namespace

const core::OpDef cross_entropy_op{.name = "cross_entropy",
                                   .infer = infer_cross_entropy,
                                   .numbers = 1,
                                   .gradient = gradient_cross_entropy,
                                   .saves_inputs = bit(0) | bit(1) | bit(2),
                                   .reference = reference_cross_entropy,
                                   .takes = core::Takes::wide};

const core::OpDef cross_entropy_grad_op{
    .name = "cross_entropy_grad",
    .infer = infer_cross_entropy_grad,
    .numbers = 1,
    .gradient = gradient_cross_entropy_grad,
    .saves_inputs = bit(0) | bit(1) | bit(2),
    .reference = reference_cross_entropy_grad,
};

}  // namespace fusetape::ops

namespace fusetape::ops {

Tensor hard_cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing, Reduction reduction,
                          Location at) {
  const CrossEntropyAttrs attrs{.reduction = static_cast<std::int64_t>(reduction)};
  if (logits.rank() == 2) check_known_labels("cross_entropy", labels, logits.shape()[1], {}, at);
  return core::record_one(cross_entropy_op, {logits, labels, number(smoothing, at)}, core::Attrs::of(attrs),
                          at);
}

}  // namespace fusetape::ops
