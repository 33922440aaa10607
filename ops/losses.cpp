#include "ops/losses.hpp"

#include <cmath>

#include "core/autograd/autocast.hpp"
#include "core/numerics/number_text.hpp"
#include "core/tape/module_scope.hpp"
#include "fusetape/runtime.hpp"

/// Losses that are made of other ops: all but cross entropy of plain labels and binary cross entropy of
/// logits.
namespace fusetape::ops {

namespace {

template <class T>
void check_range(std::string_view op, std::span<const T> labels, std::int64_t classes,
                 std::optional<std::int64_t> ignored, Location at) {
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const auto label = static_cast<std::int64_t>(labels[i]);
    if ((label >= 0 && label < classes) || label == ignored) continue;
    fail(op, "labels in [0, " + std::to_string(classes) + ")",
         "labels[" + std::to_string(i) + "] = " + std::to_string(label), at);
  }
}

/// Labels against classes: logits or log-probabilities {…, classes} as {N, classes}, labels {…} as {N}.
struct Labelled {
  Tensor x, labels;
  Shape outer;           ///< {…}
  std::int64_t classes;  ///< ≥ 1
};

Labelled labelled(std::string_view op, Tensor x, const Tensor& labels, Location at) {
  const Shape& shape = x.shape();
  if (!is_floating(x.dtype())) fail(op, "a floating dtype", std::string(name_of(x.dtype())), at);
  if (shape.rank() < 1 || shape.back() < 1)
    fail(op, "at least one class on the last axis", to_string(shape), at);
  if (labels.dtype() != DType::i64 && labels.dtype() != DType::u8)
    fail(op, "labels of dtype i64 or u8", std::string(name_of(labels.dtype())), at);
  const Shape outer(std::span<const std::int64_t>(shape.begin(), shape.end() - 1));
  if (!(labels.shape() == outer))
    fail(op, "labels " + to_string(outer) + " for " + to_string(shape), to_string(labels.shape()), at);
  const std::int64_t rows = outer.elements(), classes = shape.back();
  return {reshape(x, {rows, classes}), cast(reshape(labels, {rows}), DType::i64), outer, classes};
}

Tensor checked_weight(std::string_view op, const Tensor& weight, std::int64_t classes, DType dtype,
                      Location at) {
  if (!(weight.shape() == Shape{classes}))
    fail(op, "a weight {" + std::to_string(classes) + "}", to_string(weight.shape()), at);
  if (!is_floating(weight.dtype()))
    fail(op, "a weight of a floating dtype", std::string(name_of(weight.dtype())), at);
  return cast(weight, dtype);
}

/// What each label counts, and the labels with class 0 in place of those that are ignored.
struct Counted {
  Tensor labels;
  Tensor onehot;   ///< bool {N, classes}
  Tensor ignored;  ///< bool {N}; undefined: none is
  Tensor share;    ///< {N}: weight of the label's class, 0 of an ignored one; undefined: all 1

  /// Losses {N} as they count. What an ignored label has is left out, be it infinite.
  Tensor weighed(const Tensor& losses) const {
    const Tensor all = share.defined() ? losses * share : losses;
    return ignored.defined() ? where(ignored, scalar(0, losses.dtype()), all) : all;
  }
};

Counted counted(const Labelled& of, const Tensor& weight, std::optional<std::int64_t> ignored) {
  Counted result{.labels = of.labels};
  const DType dtype = of.x.dtype();
  if (ignored.has_value()) {
    result.ignored = equal(of.labels, scalar(static_cast<double>(*ignored), DType::i64));
    result.labels = where(result.ignored, scalar(0, DType::i64), of.labels);
  }
  result.onehot = equal(reshape(result.labels, {of.x.shape()[0], 1}), arange(of.classes, DType::i64));
  if (weight.defined()) result.share = sum(where(result.onehot, weight, scalar(0, dtype)), {1});
  if (result.ignored.defined()) {
    const Tensor counts = 1 - cast(result.ignored, dtype);
    result.share = result.share.defined() ? result.share * counts : counts;
  }
  return result;
}

/// Of losses {N} that are weighed already.
Tensor reduced_rows(const Tensor& losses, const Tensor& share, const Shape& outer, Reduction reduction) {
  if (reduction == Reduction::none) return reshape(losses, outer);
  if (reduction == Reduction::sum) return sum(losses);
  return share.defined() ? sum(losses) / sum(share) : mean(losses);
}

/// 16 bits cannot count the labels of an image.
Tensor counting(const Tensor& x) { return size_of(x.dtype()) == 2 ? cast(x, DType::f32) : x; }

/// `logits`: their dtype, and the loss's.
Tensor labelled_cross_entropy(Labelled of, DType logits, const CrossEntropyOptions& options, Location at) {
  const double s = options.label_smoothing;
  const bool plain = !options.weight.defined() && !options.ignore_index.has_value();
  if (plain) {
    const Tensor loss = hard_cross_entropy(of.x, of.labels, s, options.reduction, at);
    return options.reduction == Reduction::none ? reshape(loss, of.outer) : loss;
  }
  of.x = counting(of.x);
  check_known_labels("cross_entropy", of.labels, of.classes, options.ignore_index, at);
  const Tensor weight = options.weight.defined()
                            ? checked_weight("cross_entropy", options.weight, of.classes, of.x.dtype(), at)
                            : Tensor();
  const Counted count = counted(of, weight, options.ignore_index);
  const bool weighs_smoothing = s > 0 && weight.defined();
  Tensor losses =
      count.weighed(hard_cross_entropy(of.x, count.labels, weighs_smoothing ? 0 : s, Reduction::none, at));
  if (weighs_smoothing) {
    Tensor all = -sum(log_softmax(of.x) * weight, {1}) * (s / static_cast<double>(of.classes));
    if (count.ignored.defined()) all = where(count.ignored, scalar(0, of.x.dtype()), all);
    losses = losses * (1 - s) + all;
  }
  return cast(reduced_rows(losses, count.share, of.outer, options.reduction), logits);
}

/// At least −100, of 0, too, without a gradient there.
Tensor bounded_log(const Tensor& x) {
  const Tensor none = equal(x, 0.0);
  return where(none, scalar(-100, x.dtype()), maximum(log(where(none, scalar(1, x.dtype()), x)), -100.0));
}

/// Of probabilities as targets.
Tensor soft_cross_entropy(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options,
                          Location at) {
  if (options.ignore_index.has_value())
    fail("cross_entropy", "labels beside ignore_index", "probabilities", at);
  if (!(targets.shape() == logits.shape())) {
    fail("cross_entropy", "labels of dtype i64 or u8, or probabilities " + to_string(logits.shape()),
         to_string(targets.shape()) + " " + std::string(name_of(targets.dtype())), at);
  }
  const auto [x, t] = require_alike("cross_entropy", {logits, at}, {targets, at});
  if (x.rank() < 1 || x.shape().back() < 1)
    fail("cross_entropy", "at least one class on the last axis", to_string(x.shape()), at);
  const double s = options.label_smoothing, classes = static_cast<double>(x.shape().back());
  Tensor target = s > 0 ? t * (1 - s) + s / classes : t;
  if (options.weight.defined())
    target = target * checked_weight("cross_entropy", options.weight, x.shape().back(), x.dtype(), at);
  const Tensor losses = -sum(log_softmax(x) * target, {-1});
  return reduced(losses, options.reduction, at);
}

}  // namespace

Compared require_alike(std::string_view op, const Operand& prediction, const Operand& target) {
  Tensor left = require_tensor(op, prediction), right = require_tensor(op, target);
  if (!(left.shape() == right.shape())) {
    fail(op, "a target of shape " + to_string(left.shape()), to_string(right.shape()), prediction.at());
  }
  const DType dtype = core::autocast_input(core::Takes::wide, left.dtype()),
              other = core::autocast_input(core::Takes::wide, right.dtype());
  const std::string first(name_of(dtype)), second(name_of(other));
  if (!is_floating(dtype)) fail(op, "a floating dtype", first + "; use cast", prediction.at());
  if (dtype != other) fail(op, "equal dtypes", first + " and " + second + "; use cast", prediction.at());
  const Location at = prediction.at();
  return {cast({std::move(left), at}, dtype), cast({std::move(right), at}, dtype)};
}

Tensor reduced(const Tensor& losses, Reduction reduction, Location at) {
  switch (reduction) {
    case Reduction::mean:
      return mean(Operand(losses, at));
    case Reduction::sum:
      return sum(Operand(losses, at));
    case Reduction::none:
      break;
  }
  return losses;
}

void check_known_labels(std::string_view op, const Tensor& labels, std::int64_t classes,
                        std::optional<std::int64_t> ignored, Location at) {
  if (labels.pending()) return;
  if (labels.dtype() == DType::i64) check_range(op, labels.span<std::int64_t>(at), classes, ignored, at);
  if (labels.dtype() == DType::u8 && classes < 256)
    check_range(op, labels.span<std::uint8_t>(at), classes, ignored, at);
}

}  // namespace fusetape::ops

namespace fusetape {

Tensor cross_entropy(Operand logits, Operand targets, CrossEntropyOptions options) {
  const Location at = logits.at();
  const Tensor x = ops::require_tensor("cross_entropy", logits),
               t = ops::require_tensor("cross_entropy", targets);
  const double smoothing = options.label_smoothing;
  if (!(smoothing >= 0 && smoothing < 1))
    ops::fail("cross_entropy", "label_smoothing in [0, 1)", core::number_text(smoothing), at);
  ops::require_reduction("cross_entropy", options.reduction, at);
  const bool plain = !options.weight.defined() && !options.ignore_index.has_value();
  if (plain && x.rank() == 2 && !is_floating(t.dtype()))
    return ops::hard_cross_entropy(x, t, smoothing, options.reduction, at);
  const core::LineScope line(at);
  if (is_floating(t.dtype())) return ops::soft_cross_entropy(x, t, options, at);
  const Tensor wide = cast(x, core::autocast_input(core::Takes::wide, x.dtype()));
  return ops::labelled_cross_entropy(ops::labelled("cross_entropy", wide, t, at), wide.dtype(), options, at);
}

Tensor nll_loss(Operand log_probabilities, Operand labels, NllOptions options) {
  const Location at = log_probabilities.at();
  const Tensor x = ops::require_tensor("nll_loss", log_probabilities),
               t = ops::require_tensor("nll_loss", labels);
  ops::require_reduction("nll_loss", options.reduction, at);
  const core::LineScope line(at);
  ops::Labelled of = ops::labelled("nll_loss", x, t, at);
  of.x = ops::counting(of.x);
  if (t.pending()) materialize({t}, at);
  ops::check_known_labels("nll_loss", t, of.classes, options.ignore_index, at);
  const Tensor weight = options.weight.defined()
                            ? ops::checked_weight("nll_loss", options.weight, of.classes, of.x.dtype(), at)
                            : Tensor();
  const ops::Counted count = ops::counted(of, weight, options.ignore_index);
  const Tensor losses = count.weighed(-sum(where(count.onehot, of.x, scalar(0, of.x.dtype())), {1}));
  return cast(ops::reduced_rows(losses, count.share, of.outer, options.reduction), x.dtype());
}

Tensor l1_loss(Operand prediction, Operand target, Reduction reduction) {
  ops::require_reduction("l1_loss", reduction, prediction.at());
  const auto [y, t] = ops::require_alike("l1_loss", prediction, target);
  const core::LineScope line(prediction.at());
  return ops::reduced(abs(y - t), reduction, prediction.at());
}

Tensor huber_loss(Operand prediction, Operand target, HuberOptions options) {
  const Location at = prediction.at();
  const double delta = options.delta;
  if (!(delta > 0) || std::isinf(delta))
    ops::fail("huber_loss", "a finite delta > 0", core::number_text(delta), at);
  ops::require_reduction("huber_loss", options.reduction, at);
  const auto [y, t] = ops::require_alike("huber_loss", prediction, target);
  const core::LineScope line(at);
  const Tensor d = y - t, size = abs(d);
  const Tensor losses = where(less_equal(size, delta), d * d * 0.5, (size - delta / 2) * delta);
  return ops::reduced(losses, options.reduction, at);
}

Tensor binary_cross_entropy(Operand probabilities, Operand targets, Reduction reduction) {
  ops::require_reduction("binary_cross_entropy", reduction, probabilities.at());
  const auto [p, t] = ops::require_alike("binary_cross_entropy", probabilities, targets);
  const core::LineScope line(probabilities.at());
  const Tensor losses = -(t * ops::bounded_log(p) + (1 - t) * ops::bounded_log(1 - p));
  return ops::reduced(losses, reduction, probabilities.at());
}

Tensor kl_div(Operand log_q, Operand p, Reduction reduction) {
  const Location at = log_q.at();
  ops::require_reduction("kl_div", reduction, at);
  const auto [log_of_q, of_p] = ops::require_alike("kl_div", log_q, p);
  if (of_p.rank() < 1) ops::fail("kl_div", "distributions on a last axis", to_string(of_p.shape()), at);
  const core::LineScope line(at);
  const Tensor none = equal(of_p, 0.0), one = scalar(1, of_p.dtype());
  const Tensor terms = of_p * (log(where(none, one, of_p)) - log_of_q);
  return ops::reduced(sum(where(none, scalar(0, of_p.dtype()), terms), {-1}), reduction, at);
}

Tensor focal_loss(Operand logits, Operand targets, FocalOptions options) {
  const Location at = logits.at();
  if (!(options.gamma >= 0) || std::isinf(options.gamma))
    ops::fail("focal_loss", "a finite gamma ≥ 0", core::number_text(options.gamma), at);
  if (!(options.alpha <= 1)) ops::fail("focal_loss", "alpha ≤ 1", core::number_text(options.alpha), at);
  ops::require_reduction("focal_loss", options.reduction, at);
  const auto [x, t] = ops::require_alike("focal_loss", logits, targets);
  const core::LineScope line(at);
  const Tensor p = sigmoid(x), of_target = p * t + (1 - p) * (1 - t);
  Tensor losses = bce_with_logits(x, t, Reduction::none) * pow(1 - of_target, options.gamma);
  if (options.alpha >= 0) losses = losses * (t * options.alpha + (1 - t) * (1 - options.alpha));
  return ops::reduced(losses, options.reduction, at);
}

}  // namespace fusetape
