// Activations, and their gradients as ops of their own: from the stored output where it suffices.
#include <cmath>

#include "core/formulas.hpp"
#include "core/number_text.hpp"
#include "ops/helpers.hpp"
#include "ops/ops.hpp"

namespace fusetape::ops {

namespace formulas = core::formulas;
using core::bit;
using core::GradContext;

namespace {

// ---- relu ----

void gradient_relu(GradContext& ctx) {
  ctx.set(0, record_here(relu_grad_op, {ctx.incoming(), ctx.output(0)}));
}
/// Linear in g; flat in y almost everywhere.
void gradient_relu_grad(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_here(relu_grad_op, {ctx.incoming(), ctx.input(1)}));
}

// ---- leaky_relu ----

void gradient_leaky_relu(GradContext& ctx) {
  ctx.set(0, record_here(leaky_relu_grad_op, {ctx.incoming(), ctx.input(0), ctx.input(1)}));
}
void gradient_leaky_relu_grad(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_here(leaky_relu_grad_op, {ctx.incoming(), ctx.input(1), ctx.input(2)}));
}

// ---- sigmoid ----

void gradient_sigmoid(GradContext& ctx) {
  ctx.set(0, record_here(sigmoid_grad_op, {ctx.incoming(), ctx.output(0)}));
}
/// g·y·(1−y): by g the same again, by y g·(1−2y).
void gradient_sigmoid_grad(GradContext& ctx) {
  const Tensor h = ctx.incoming(), g = ctx.input(0), y = ctx.input(1);
  if (ctx.needs(0)) ctx.set(0, record_here(sigmoid_grad_op, {h, y}));
  if (ctx.needs(1)) ctx.set(1, h * g * (1 - 2 * y));
}

// ---- tanh ----

void gradient_tanh(GradContext& ctx) {
  ctx.set(0, record_here(tanh_grad_op, {ctx.incoming(), ctx.output(0)}));
}
/// g·(1−y²): by y −2·g·y.
void gradient_tanh_grad(GradContext& ctx) {
  const Tensor h = ctx.incoming(), g = ctx.input(0), y = ctx.input(1);
  if (ctx.needs(0)) ctx.set(0, record_here(tanh_grad_op, {h, y}));
  if (ctx.needs(1)) ctx.set(1, h * g * (-2 * y));
}

// ---- gelu ----

void gradient_gelu(GradContext& ctx) {
  ctx.set(0, record_here(gelu_grad_op, {ctx.incoming(), ctx.input(0)}));
}
/// g·(Φ + x·φ): by x g·φ·(2 − x²).
void gradient_gelu_grad(GradContext& ctx) {
  const Tensor h = ctx.incoming(), g = ctx.input(0), x = ctx.input(1);
  if (ctx.needs(0)) ctx.set(0, record_here(gelu_grad_op, {h, x}));
  if (!ctx.needs(1)) return;
  const Tensor square = x * x;
  ctx.set(1, h * g * (formulas::inverse_sqrt_two_pi<double>() * exp(-0.5 * square) * (2 - square)));
}

}  // namespace

// ---- ops ----

constinit const OpDef relu_op{.name = "relu",
                              .infer = infer_like_first,
                              .gradient = gradient_relu,
                              .saves_outputs = bit(0),
                              .pointwise = element_of<formulas::relu<double>>};
constinit const OpDef relu_grad_op{.name = "relu_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_relu_grad,
                                   .saves_inputs = bit(1),
                                   .pointwise = element_of<formulas::relu_grad<double>>};
constinit const OpDef leaky_relu_op{.name = "leaky_relu",
                                    .infer = infer_like_first,
                                    .numbers = 1,
                                    .gradient = gradient_leaky_relu,
                                    .saves_inputs = bit(0) | bit(1),
                                    .pointwise = element_of<formulas::leaky_relu<double>>};
constinit const OpDef leaky_relu_grad_op{.name = "leaky_relu_grad",
                                         .infer = infer_like_first,
                                         .numbers = 1,
                                         .gradient = gradient_leaky_relu_grad,
                                         .saves_inputs = bit(1) | bit(2),
                                         .pointwise = element_of<formulas::leaky_relu_grad<double>>};
constinit const OpDef sigmoid_op{.name = "sigmoid",
                                 .infer = infer_like_first,
                                 .gradient = gradient_sigmoid,
                                 .saves_outputs = bit(0),
                                 .pointwise = element_of<formulas::sigmoid<double>>};
constinit const OpDef sigmoid_grad_op{.name = "sigmoid_grad",
                                      .infer = infer_like_first,
                                      .gradient = gradient_sigmoid_grad,
                                      .saves_inputs = bit(0) | bit(1),
                                      .pointwise = element_of<formulas::sigmoid_grad<double>>};
constinit const OpDef tanh_op{.name = "tanh",
                              .infer = infer_like_first,
                              .gradient = gradient_tanh,
                              .saves_outputs = bit(0),
                              .pointwise = element_of<formulas::tanh<double>>};
constinit const OpDef tanh_grad_op{.name = "tanh_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_tanh_grad,
                                   .saves_inputs = bit(0) | bit(1),
                                   .pointwise = element_of<formulas::tanh_grad<double>>};
constinit const OpDef gelu_op{.name = "gelu",
                              .infer = infer_like_first,
                              .gradient = gradient_gelu,
                              .saves_inputs = bit(0),
                              .pointwise = element_of<formulas::gelu<double>>};
constinit const OpDef gelu_grad_op{.name = "gelu_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_gelu_grad,
                                   .saves_inputs = bit(0) | bit(1),
                                   .pointwise = element_of<formulas::gelu_grad<double>>};

}  // namespace fusetape::ops

namespace fusetape {

Tensor relu(Operand x) { return ops::record_unary(ops::relu_op, x); }
Tensor leaky_relu(Operand x, double slope) {
  if (!std::isfinite(slope)) ops::fail("leaky_relu", "a finite slope", core::number_text(slope), x.at());
  return core::record_one(ops::leaky_relu_op,
                          {ops::require_tensor("leaky_relu", x), ops::number(slope, x.at())},
                          core::Attrs::of(core::NoAttrs{}), x.at());
}
Tensor sigmoid(Operand x) { return ops::record_unary(ops::sigmoid_op, x); }
Tensor tanh(Operand x) { return ops::record_unary(ops::tanh_op, x); }
Tensor gelu(Operand x) { return ops::record_unary(ops::gelu_op, x); }

}  // namespace fusetape
