#pragma once
#include "ops/helpers.hpp"

/// What losses share.
namespace fusetape::ops {

struct Compared {
  Tensor prediction, target;
};
/// Tensors of one shape and one floating dtype, wide under autocast; checks.
Compared require_alike(std::string_view op, const Operand& prediction, const Operand& target);

Tensor reduced(const Tensor& losses, Reduction reduction, Location at);

/// Throws unless labels that are there already are all in [0, classes), or `ignored`.
void check_known_labels(std::string_view op, const Tensor& labels, std::int64_t classes,
                        std::optional<std::int64_t> ignored, Location at);

/// cross_entropy of logits {N, classes} and labels {N}, one kernel; checks.
Tensor hard_cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing, Reduction reduction,
                          Location at);

}  // namespace fusetape::ops
