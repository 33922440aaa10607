#include "ops/optimizer.hpp"

#include <cmath>
#include <string>

#include "core/op_attrs.hpp"
#include "core/op_list.hpp"

namespace fusetape::ops {

using core::AdamAttrs;
using core::InferContext;
using core::RefContext;
using core::SgdAttrs;

namespace {

/// The gradient and the state are like the parameter, input 0.
void check_like_parameter(const InferContext& ctx, int i, const char* name) {
  if (ctx.shape(i) == ctx.shape(0) && ctx.dtype(i) == ctx.dtype(0)) return;
  ctx.fail(std::string(name) + " like the parameter: " + to_string(ctx.shape(0)) + " " +
               std::string(name_of(ctx.dtype(0))),
           to_string(ctx.shape(i)) + " " + std::string(name_of(ctx.dtype(i))));
}

void check_scalar(const InferContext& ctx, int i) {
  if (ctx.shape(i).rank() == 0 && ctx.dtype(i) == DType::f64) return;
  ctx.fail("a scalar of dtype f64 as input " + std::to_string(i),
           to_string(ctx.shape(i)) + " " + std::string(name_of(ctx.dtype(i))));
}

void check_parameter(const InferContext& ctx) {
  ctx.require(is_floating(ctx.dtype(0)), "a parameter of a floating dtype", ctx.dtype(0));
  check_like_parameter(ctx, 1, "a gradient");
}

void output_like_parameter(InferContext& ctx) { ctx.output(ctx.shape(0), ctx.dtype(0)); }

void infer_sgd(InferContext& ctx) {  // p, g, lr, weight_decay [, velocity, momentum]
  check_parameter(ctx);
  check_scalar(ctx, 2);
  check_scalar(ctx, 3);
  output_like_parameter(ctx);
  if (ctx.attrs.as<SgdAttrs>().has_momentum == 0) return;
  check_like_parameter(ctx, 4, "a velocity");
  check_scalar(ctx, 5);
  output_like_parameter(ctx);
}

void infer_adam(
    InferContext& ctx) {  // p, g, m, v, lr, beta1, beta2, eps, weight_decay, correction1, correction2
  check_parameter(ctx);
  check_like_parameter(ctx, 2, "a first moment");
  check_like_parameter(ctx, 3, "a second moment");
  for (int i = 4; i < 11; ++i) check_scalar(ctx, i);
  for (int i = 0; i < 3; ++i) output_like_parameter(ctx);
}

/// Any number of gradients, whatever their shapes; 16-bit ones and f32 may mix.
void infer_grad_norm(InferContext& ctx) {
  if (ctx.inputs.empty()) ctx.fail("at least one gradient", "none");
  const bool f64 = ctx.dtype(0) == DType::f64;
  for (std::size_t i = 0; i < ctx.inputs.size(); ++i) {
    const DType dtype = ctx.inputs[i].dtype;
    if (!is_floating(dtype)) {
      ctx.fail("gradients of a floating dtype",
               std::string(name_of(dtype)) + " as gradient " + std::to_string(i));
    }
    if ((dtype == DType::f64) != f64) ctx.fail("gradients that are all f64 or none", "a mixture");
  }
  ctx.output({}, f64 ? DType::f64 : DType::f32);
}

void reference_grad_norm(RefContext& ctx) {
  double sum = 0;
  for (const core::RefTensor& g : ctx.in) {
    for (std::int64_t i = 0; i < g.size(); ++i) sum += g.data[i] * g.data[i];
  }
  ctx.out[0].data[0] = std::sqrt(sum);
}

void reference_sgd(RefContext& ctx) {
  const auto a = ctx.attrs.as<SgdAttrs>();
  const double lr = ctx.in[2].data[0], weight_decay = ctx.in[3].data[0];
  for (std::int64_t i = 0; i < ctx.in[0].size(); ++i) {
    const double p = ctx.in[0].data[i];
    const double d = ctx.in[1].data[i] + weight_decay * p;
    double step = d;
    if (a.has_momentum != 0) {
      const double momentum = ctx.in[5].data[0];
      const double velocity = momentum * ctx.in[4].data[i] + d;
      ctx.out[1].data[i] = velocity;
      step = a.nesterov != 0 ? d + momentum * velocity : velocity;
    }
    ctx.out[0].data[i] = p - lr * step;
  }
}

void reference_adam(RefContext& ctx) {
  const bool decoupled = ctx.attrs.as<AdamAttrs>().decoupled != 0;
  const auto scalar = [&](std::size_t i) { return ctx.in[i].data[0]; };
  const double lr = scalar(4), beta1 = scalar(5), beta2 = scalar(6), eps = scalar(7),
               weight_decay = scalar(8);
  const double correction1 = scalar(9), correction2 = scalar(10);
  for (std::int64_t i = 0; i < ctx.in[0].size(); ++i) {
    double p = ctx.in[0].data[i], g = ctx.in[1].data[i];
    if (decoupled) {
      p *= 1 - lr * weight_decay;
    } else {
      g += weight_decay * p;
    }
    const double m = beta1 * ctx.in[2].data[i] + (1 - beta1) * g;
    const double v = beta2 * ctx.in[3].data[i] + (1 - beta2) * g * g;
    ctx.out[0].data[i] = p - lr * (m / correction1) / (std::sqrt(v / correction2) + eps);
    ctx.out[1].data[i] = m;
    ctx.out[2].data[i] = v;
  }
}

}  // namespace

const core::OpDef grad_norm_op{
    .name = "grad_norm",
    .infer = infer_grad_norm,
    .reference = reference_grad_norm,
    .differentiable_outputs = 0,
};

const core::OpDef sgd_update_op{
    .name = "sgd_update",
    .infer = infer_sgd,
    .reference = reference_sgd,
    .differentiable_outputs = 0,
};

const core::OpDef adam_update_op{
    .name = "adam_update",
    .infer = infer_adam,
    .reference = reference_adam,
    .differentiable_outputs = 0,
};

Tensor grad_norm(const std::vector<Tensor>& gradients, Location at) {
  return core::record(grad_norm_op, gradients, core::Attrs::of(core::NoAttrs{}), at)[0];
}

SgdStep sgd_update(const Tensor& parameter, const Tensor& gradient, const Tensor& velocity,
                   const SgdScalars& scalars, bool nesterov, Location at) {
  const SgdAttrs attrs{.has_momentum = velocity.defined(), .nesterov = nesterov};
  if (!velocity.defined()) {
    return {core::record_one(sgd_update_op, {parameter, gradient, scalars.lr, scalars.weight_decay},
                             core::Attrs::of(attrs), at),
            Tensor()};
  }
  core::Outputs out = core::record(
      sgd_update_op, {parameter, gradient, scalars.lr, scalars.weight_decay, velocity, scalars.momentum},
      core::Attrs::of(attrs), at);
  return {std::move(out[0]), std::move(out[1])};
}

AdamStep adam_update(const Tensor& parameter, const Tensor& gradient, const Tensor& m, const Tensor& v,
                     const AdamScalars& scalars, bool decoupled, Location at) {
  core::Outputs out =
      core::record(adam_update_op,
                   {parameter, gradient, m, v, scalars.lr, scalars.beta1, scalars.beta2, scalars.eps,
                    scalars.weight_decay, scalars.correction1, scalars.correction2},
                   core::Attrs::of(AdamAttrs{.decoupled = decoupled}), at);
  return {std::move(out[0]), std::move(out[1]), std::move(out[2])};
}

}  // namespace fusetape::ops
