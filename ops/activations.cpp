// Activations, and their gradients as ops of their own: from the stored output where it suffices.
#include <cmath>
#include <numbers>

#include "ops/helpers.hpp"
#include "ops/ops.hpp"

namespace fusetape::ops {

using core::Attrs;
using core::bit;
using core::GradContext;
using core::LeakyReluAttrs;

namespace {

// ---- relu ----

double relu_element(const double* in, const Attrs&) { return in[0] <= 0 ? 0 : in[0]; }
/// The mask is on the stored output; a NaN passes its gradient.
double relu_grad_element(const double* in, const Attrs&) { return !(in[1] <= 0) ? in[0] : 0; }

void gradient_relu(GradContext& ctx) {
  ctx.set(0, record_here(relu_grad_op, {ctx.incoming(), ctx.output(0)}));
}
/// Linear in g; flat in y almost everywhere.
void gradient_relu_grad(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_here(relu_grad_op, {ctx.incoming(), ctx.input(1)}));
}

// ---- leaky_relu ----

double leaky_relu_element(const double* in, const Attrs& attrs) {
  return in[0] <= 0 ? attrs.as<LeakyReluAttrs>().slope * in[0] : in[0];
}
double leaky_relu_grad_element(const double* in, const Attrs& attrs) {
  return in[1] <= 0 ? attrs.as<LeakyReluAttrs>().slope * in[0] : in[0];
}

void gradient_leaky_relu(GradContext& ctx) {
  ctx.set(0, record_here(leaky_relu_grad_op, {ctx.incoming(), ctx.input(0)}, ctx.raw_attrs()));
}
void gradient_leaky_relu_grad(GradContext& ctx) {
  if (ctx.needs(0))
    ctx.set(0, record_here(leaky_relu_grad_op, {ctx.incoming(), ctx.input(1)}, ctx.raw_attrs()));
}

// ---- sigmoid ----

double sigmoid_element(const double* in, const Attrs&) { return 1 / (1 + std::exp(-in[0])); }
double sigmoid_grad_element(const double* in, const Attrs&) { return in[0] * in[1] * (1 - in[1]); }

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

double tanh_element(const double* in, const Attrs&) { return std::tanh(in[0]); }
double tanh_grad_element(const double* in, const Attrs&) { return in[0] * (1 - in[1] * in[1]); }

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

constexpr double inverse_sqrt_two_pi = std::numbers::inv_sqrtpi / std::numbers::sqrt2;

/// Φ, the standard normal distribution, and its density φ.
double normal_distribution(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
double normal_density(double x) { return inverse_sqrt_two_pi * std::exp(-0.5 * x * x); }

double gelu_element(const double* in, const Attrs&) { return in[0] * normal_distribution(in[0]); }
double gelu_grad_element(const double* in, const Attrs&) {
  return in[0] * (normal_distribution(in[1]) + in[1] * normal_density(in[1]));
}

void gradient_gelu(GradContext& ctx) {
  ctx.set(0, record_here(gelu_grad_op, {ctx.incoming(), ctx.input(0)}));
}
/// g·(Φ + x·φ): by x g·φ·(2 − x²).
void gradient_gelu_grad(GradContext& ctx) {
  const Tensor h = ctx.incoming(), g = ctx.input(0), x = ctx.input(1);
  if (ctx.needs(0)) ctx.set(0, record_here(gelu_grad_op, {h, x}));
  if (!ctx.needs(1)) return;
  const Tensor square = x * x;
  ctx.set(1, h * g * (inverse_sqrt_two_pi * exp(-0.5 * square) * (2 - square)));
}

}  // namespace

// ---- ops ----

constinit const OpDef relu_op{.name = "relu",
                              .infer = infer_like_first,
                              .gradient = gradient_relu,
                              .saves_outputs = bit(0),
                              .pointwise = relu_element};
constinit const OpDef relu_grad_op{.name = "relu_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_relu_grad,
                                   .saves_inputs = bit(1),
                                   .pointwise = relu_grad_element};
constinit const OpDef leaky_relu_op{.name = "leaky_relu",
                                    .infer = infer_like_first,
                                    .gradient = gradient_leaky_relu,
                                    .saves_inputs = bit(0),
                                    .pointwise = leaky_relu_element};
constinit const OpDef leaky_relu_grad_op{.name = "leaky_relu_grad",
                                         .infer = infer_like_first,
                                         .gradient = gradient_leaky_relu_grad,
                                         .saves_inputs = bit(1),
                                         .pointwise = leaky_relu_grad_element};
constinit const OpDef sigmoid_op{.name = "sigmoid",
                                 .infer = infer_like_first,
                                 .gradient = gradient_sigmoid,
                                 .saves_outputs = bit(0),
                                 .pointwise = sigmoid_element};
constinit const OpDef sigmoid_grad_op{.name = "sigmoid_grad",
                                      .infer = infer_like_first,
                                      .gradient = gradient_sigmoid_grad,
                                      .saves_inputs = bit(0) | bit(1),
                                      .pointwise = sigmoid_grad_element};
constinit const OpDef tanh_op{.name = "tanh",
                              .infer = infer_like_first,
                              .gradient = gradient_tanh,
                              .saves_outputs = bit(0),
                              .pointwise = tanh_element};
constinit const OpDef tanh_grad_op{.name = "tanh_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_tanh_grad,
                                   .saves_inputs = bit(0) | bit(1),
                                   .pointwise = tanh_grad_element};
constinit const OpDef gelu_op{.name = "gelu",
                              .infer = infer_like_first,
                              .gradient = gradient_gelu,
                              .saves_inputs = bit(0),
                              .pointwise = gelu_element};
constinit const OpDef gelu_grad_op{.name = "gelu_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_gelu_grad,
                                   .saves_inputs = bit(0) | bit(1),
                                   .pointwise = gelu_grad_element};

}  // namespace fusetape::ops

namespace fusetape {

Tensor relu(Operand x) { return ops::record_unary(ops::relu_op, x); }
Tensor leaky_relu(Operand x, double slope) {
  return ops::record_unary(ops::leaky_relu_op, x, core::Attrs::of(core::LeakyReluAttrs{slope}));
}
Tensor sigmoid(Operand x) { return ops::record_unary(ops::sigmoid_op, x); }
Tensor tanh(Operand x) { return ops::record_unary(ops::tanh_op, x); }
Tensor gelu(Operand x) { return ops::record_unary(ops::gelu_op, x); }

}  // namespace fusetape
