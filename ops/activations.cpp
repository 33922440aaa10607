// Activations, and their gradients as ops of their own: from the stored output where it suffices.
#include <cmath>

#include "core/numerics/formulas.hpp"
#include "core/numerics/number_text.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

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

// ---- gelu_tanh ----

void gradient_gelu_tanh(GradContext& ctx) {
  ctx.set(0, record_here(gelu_tanh_grad_op, {ctx.incoming(), ctx.input(0)}));
}
void gradient_gelu_tanh_grad(GradContext& ctx) {
  ctx.through([](const std::vector<Tensor>& in) {
    constexpr double a = 1.5957691216057308, b = 0.0713548162726009;
    const Tensor square = minimum(in[1] * in[1], 1e4), s = sigmoid(in[1] * (a + b * square));
    return std::vector<Tensor>{in[0] * (s + in[1] * s * (1 - s) * (a + 3 * b * square))};
  });
}

// ---- relu6 ----

void gradient_relu6(GradContext& ctx) {
  ctx.set(0, record_here(relu6_grad_op, {ctx.incoming(), ctx.output(0)}));
}
void gradient_relu6_grad(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_here(relu6_grad_op, {ctx.incoming(), ctx.input(1)}));
}

// ---- elu ----

void gradient_elu(GradContext& ctx) {
  ctx.set(0, record_here(elu_grad_op, {ctx.incoming(), ctx.input(0), ctx.input(1)}));
}
/// By x: h·g·α·eˣ where x ≤ 0.
void gradient_elu_grad(GradContext& ctx) {
  const Tensor h = ctx.incoming(), g = ctx.input(0), x = ctx.input(1);
  if (ctx.needs(0)) ctx.set(0, record_here(elu_grad_op, {h, x, ctx.input(2)}));
  if (ctx.needs(1)) ctx.set(1, where(less_equal(x, 0), h * g * ctx.number(2) * exp(minimum(x, 0)), 0));
}

// ---- silu, softplus, mish ----

void gradient_silu(GradContext& ctx) {
  ctx.set(0, record_here(silu_grad_op, {ctx.incoming(), ctx.input(0)}));
}
/// g·(s + x·s·(1 − s)), s = σ(x)
void gradient_silu_grad(GradContext& ctx) {
  ctx.through([](const std::vector<Tensor>& in) {
    const Tensor s = sigmoid(in[1]);
    return std::vector<Tensor>{in[0] * (s + in[1] * s * (1 - s))};
  });
}

void gradient_softplus(GradContext& ctx) { ctx.set(0, ctx.incoming() * sigmoid(ctx.input(0))); }

void gradient_mish(GradContext& ctx) {
  ctx.set(0, record_here(mish_grad_op, {ctx.incoming(), ctx.input(0)}));
}
/// g·(t + x·σ(x)·(1 − t²)), t = tanh(softplus(x))
void gradient_mish_grad(GradContext& ctx) {
  ctx.through([](const std::vector<Tensor>& in) {
    const Tensor t = tanh(softplus(in[1]));
    return std::vector<Tensor>{in[0] * (t + in[1] * sigmoid(in[1]) * (1 - t * t))};
  });
}

// ---- hardsigmoid, hardswish ----

void gradient_hardsigmoid(GradContext& ctx) {
  ctx.set(0, record_here(hardsigmoid_grad_op, {ctx.incoming(), ctx.input(0)}));
}
void gradient_hardsigmoid_grad(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_here(hardsigmoid_grad_op, {ctx.incoming(), ctx.input(1)}));
}

void gradient_hardswish(GradContext& ctx) {
  ctx.set(0, record_here(hardswish_grad_op, {ctx.incoming(), ctx.input(0)}));
}
/// By x: g/3 between the kinks.
void gradient_hardswish_grad(GradContext& ctx) {
  const Tensor h = ctx.incoming(), g = ctx.input(0), x = ctx.input(1);
  if (ctx.needs(0)) ctx.set(0, record_here(hardswish_grad_op, {h, x}));
  if (ctx.needs(1)) ctx.set(1, record_here(hardsigmoid_grad_op, {2 * h * g, x}));
}

}  // namespace

// ---- ops ----

constinit const OpDef relu_op{.name = "relu",
                              .infer = infer_like_first,
                              .gradient = gradient_relu,
                              .saves_outputs = bit(0),
                              .pointwise = element_of<formulas::relu<double>>,
                              .chooses = true,
                              .activation = true};
constinit const OpDef relu_grad_op{.name = "relu_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_relu_grad,
                                   .saves_inputs = bit(1),
                                   .pointwise = element_of<formulas::relu_grad<double>>,
                                   .chooses = true,
                                   .gradient_of = &relu_op};
constinit const OpDef leaky_relu_op{.name = "leaky_relu",
                                    .infer = infer_like_first,
                                    .numbers = 1,
                                    .gradient = gradient_leaky_relu,
                                    .saves_inputs = bit(0) | bit(1),
                                    .pointwise = element_of<formulas::leaky_relu<double>>,
                                    .activation = true};
constinit const OpDef leaky_relu_grad_op{.name = "leaky_relu_grad",
                                         .infer = infer_like_first,
                                         .numbers = 1,
                                         .gradient = gradient_leaky_relu_grad,
                                         .saves_inputs = bit(1) | bit(2),
                                         .pointwise = element_of<formulas::leaky_relu_grad<double>>,
                                         .gradient_of = &leaky_relu_op};
constinit const OpDef sigmoid_op{.name = "sigmoid",
                                 .infer = infer_like_first,
                                 .gradient = gradient_sigmoid,
                                 .saves_outputs = bit(0),
                                 .pointwise = element_of<formulas::sigmoid<double>>,
                                 .activation = true};
constinit const OpDef sigmoid_grad_op{.name = "sigmoid_grad",
                                      .infer = infer_like_first,
                                      .gradient = gradient_sigmoid_grad,
                                      .saves_inputs = bit(0) | bit(1),
                                      .pointwise = element_of<formulas::sigmoid_grad<double>>,
                                      .gradient_of = &sigmoid_op};
constinit const OpDef tanh_op{.name = "tanh",
                              .infer = infer_like_first,
                              .gradient = gradient_tanh,
                              .saves_outputs = bit(0),
                              .pointwise = element_of<formulas::tanh<double>>,
                              .activation = true};
constinit const OpDef tanh_grad_op{.name = "tanh_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_tanh_grad,
                                   .saves_inputs = bit(0) | bit(1),
                                   .pointwise = element_of<formulas::tanh_grad<double>>,
                                   .gradient_of = &tanh_op};
constinit const OpDef gelu_op{.name = "gelu",
                              .infer = infer_like_first,
                              .gradient = gradient_gelu,
                              .saves_inputs = bit(0),
                              .pointwise = element_of<formulas::gelu<double>>,
                              .activation = true};
constinit const OpDef gelu_grad_op{.name = "gelu_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_gelu_grad,
                                   .saves_inputs = bit(0) | bit(1),
                                   .pointwise = element_of<formulas::gelu_grad<double>>,
                                   .gradient_of = &gelu_op};

constinit const OpDef gelu_tanh_op{.name = "gelu_tanh",
                                   .infer = infer_like_first,
                                   .gradient = gradient_gelu_tanh,
                                   .saves_inputs = bit(0),
                                   .pointwise = element_of<formulas::gelu_tanh<double>>,
                                   .activation = true};
constinit const OpDef gelu_tanh_grad_op{.name = "gelu_tanh_grad",
                                        .infer = infer_like_first,
                                        .gradient = gradient_gelu_tanh_grad,
                                        .saves_inputs = bit(0) | bit(1),
                                        .pointwise = element_of<formulas::gelu_tanh_grad<double>>,
                                        .gradient_of = &gelu_tanh_op};

constinit const OpDef relu6_op{.name = "relu6",
                               .infer = infer_like_first,
                               .gradient = gradient_relu6,
                               .saves_outputs = bit(0),
                               .pointwise = element_of<formulas::relu6<double>>,
                               .chooses = true,
                               .activation = true};
constinit const OpDef relu6_grad_op{.name = "relu6_grad",
                                    .infer = infer_like_first,
                                    .gradient = gradient_relu6_grad,
                                    .saves_inputs = bit(1),
                                    .pointwise = element_of<formulas::relu6_grad<double>>,
                                    .chooses = true,
                                    .gradient_of = &relu6_op};
constinit const OpDef elu_op{.name = "elu",
                             .infer = infer_like_first,
                             .numbers = 1,
                             .gradient = gradient_elu,
                             .saves_inputs = bit(0) | bit(1),
                             .pointwise = element_of<formulas::elu<double>>,
                             .activation = true};
constinit const OpDef elu_grad_op{.name = "elu_grad",
                                  .infer = infer_like_first,
                                  .numbers = 1,
                                  .gradient = gradient_elu_grad,
                                  .saves_inputs = bit(0) | bit(1) | bit(2),
                                  .pointwise = element_of<formulas::elu_grad<double>>,
                                  .gradient_of = &elu_op};
constinit const OpDef silu_op{.name = "silu",
                              .infer = infer_like_first,
                              .gradient = gradient_silu,
                              .saves_inputs = bit(0),
                              .pointwise = element_of<formulas::silu<double>>,
                              .activation = true};
constinit const OpDef silu_grad_op{.name = "silu_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_silu_grad,
                                   .saves_inputs = bit(0) | bit(1),
                                   .pointwise = element_of<formulas::silu_grad<double>>,
                                   .gradient_of = &silu_op};
constinit const OpDef softplus_op{.name = "softplus",
                                  .infer = infer_like_first,
                                  .gradient = gradient_softplus,
                                  .saves_inputs = bit(0),
                                  .pointwise = element_of<formulas::softplus<double>>,
                                  .activation = true};
constinit const OpDef mish_op{.name = "mish",
                              .infer = infer_like_first,
                              .gradient = gradient_mish,
                              .saves_inputs = bit(0),
                              .pointwise = element_of<formulas::mish<double>>,
                              .activation = true};
constinit const OpDef mish_grad_op{.name = "mish_grad",
                                   .infer = infer_like_first,
                                   .gradient = gradient_mish_grad,
                                   .saves_inputs = bit(0) | bit(1),
                                   .pointwise = element_of<formulas::mish_grad<double>>,
                                   .gradient_of = &mish_op};
constinit const OpDef hardsigmoid_op{.name = "hardsigmoid",
                                     .infer = infer_like_first,
                                     .gradient = gradient_hardsigmoid,
                                     .saves_inputs = bit(0),
                                     .pointwise = element_of<formulas::hardsigmoid<double>>,
                                     .activation = true};
constinit const OpDef hardsigmoid_grad_op{.name = "hardsigmoid_grad",
                                          .infer = infer_like_first,
                                          .gradient = gradient_hardsigmoid_grad,
                                          .saves_inputs = bit(1),
                                          .pointwise = element_of<formulas::hardsigmoid_grad<double>>,
                                          .gradient_of = &hardsigmoid_op};
constinit const OpDef hardswish_op{.name = "hardswish",
                                   .infer = infer_like_first,
                                   .gradient = gradient_hardswish,
                                   .saves_inputs = bit(0),
                                   .pointwise = element_of<formulas::hardswish<double>>,
                                   .activation = true};
constinit const OpDef hardswish_grad_op{.name = "hardswish_grad",
                                        .infer = infer_like_first,
                                        .gradient = gradient_hardswish_grad,
                                        .saves_inputs = bit(0) | bit(1),
                                        .pointwise = element_of<formulas::hardswish_grad<double>>,
                                        .gradient_of = &hardswish_op};

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
Tensor gelu_tanh(Operand x) { return ops::record_unary(ops::gelu_tanh_op, x); }
Tensor relu6(Operand x) { return ops::record_unary(ops::relu6_op, x); }
Tensor elu(Operand x, double alpha) {
  if (!std::isfinite(alpha)) ops::fail("elu", "a finite alpha", core::number_text(alpha), x.at());
  return core::record_one(ops::elu_op, {ops::require_tensor("elu", x), ops::number(alpha, x.at())},
                          core::Attrs::of(core::NoAttrs{}), x.at());
}
Tensor silu(Operand x) { return ops::record_unary(ops::silu_op, x); }
Tensor softplus(Operand x) { return ops::record_unary(ops::softplus_op, x); }
Tensor mish(Operand x) { return ops::record_unary(ops::mish_op, x); }
Tensor hardsigmoid(Operand x) { return ops::record_unary(ops::hardsigmoid_op, x); }
Tensor hardswish(Operand x) { return ops::record_unary(ops::hardswish_op, x); }

}  // namespace fusetape
