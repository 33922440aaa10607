#pragma once
#include <cstdint>
#include <optional>

#include "fusetape/operand.hpp"

/// Losses: recorded, differentiable ops.
namespace fusetape {

enum class Reduction : std::uint8_t { mean, sum, none };
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

}  // namespace fusetape
