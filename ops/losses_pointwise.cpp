// Losses that are compared element by element: binary cross entropy and the squared error.
#include <string>

#include "core/numerics/formulas.hpp"
#include "core/op/op_list.hpp"
#include "ops/losses.hpp"

namespace fusetape::ops {

namespace formulas = core::formulas;
using core::bit;
using core::GradContext;

namespace {

void gradient_bce_logits(GradContext& ctx) {
  const Tensor g = ctx.incoming(), x = ctx.input(0), t = ctx.input(1);
  if (ctx.needs(0)) ctx.set(0, record_here(bce_logits_grad_op, {g, x, t}));
  if (ctx.needs(1)) ctx.set(1, -(g * x));
}

/// g·(σ(x) − t)
void gradient_bce_logits_grad(GradContext& ctx) {
  const Tensor h = ctx.incoming(), g = ctx.input(0), x = ctx.input(1), t = ctx.input(2);
  if (ctx.needs(0)) ctx.set(0, record_here(bce_logits_grad_op, {h, x, t}));
  if (ctx.needs(1)) ctx.set(1, record_here(sigmoid_grad_op, {h * g, sigmoid(x)}));
  if (ctx.needs(2)) ctx.set(2, -(h * g));
}

}  // namespace

constinit const OpDef bce_logits_op{.name = "bce_logits",
                                    .infer = infer_like_first,
                                    .gradient = gradient_bce_logits,
                                    .saves_inputs = bit(0) | bit(1),
                                    .pointwise = element_of<formulas::bce_logits<double>>};
constinit const OpDef bce_logits_grad_op{.name = "bce_logits_grad",
                                         .infer = infer_like_first,
                                         .gradient = gradient_bce_logits_grad,
                                         .saves_inputs = bit(0) | bit(1) | bit(2),
                                         .pointwise = element_of<formulas::bce_logits_grad<double>>};

}  // namespace fusetape::ops

namespace fusetape {

Tensor bce_with_logits(Operand logits, Operand targets, Reduction reduction) {
  ops::require_reduction("bce_with_logits", reduction, logits.at());
  auto [x, t] = ops::require_alike("bce_with_logits", logits, targets);
  const Tensor losses = core::record_one(ops::bce_logits_op, {std::move(x), std::move(t)},
                                         core::Attrs::of(core::NoAttrs{}), logits.at());
  return ops::reduced(losses, reduction, logits.at());
}

Tensor mse_loss(Operand prediction, Operand target, Reduction reduction) {
  const Location at = prediction.at();
  ops::require_reduction("mse_loss", reduction, at);
  const auto [y, t] = ops::require_alike("mse_loss", prediction, target);
  const Operand difference(sub(Operand(y, at), Operand(t, at)), at);
  return ops::reduced(mul(difference, difference), reduction, at);
}

}  // namespace fusetape
