// Batch normalisation over all axes but the last (Ioffe, Szegedy 2015): in training with this batch's
// statistics, in evaluation with given ones.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "core/numerics/number_text.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "fusetape/ops.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

using core::BatchNormAttrs;
using core::bit;
using core::GradContext;
using core::InferContext;
using core::RefContext;
using core::RefTensor;

namespace {

// ---- checks and shapes
// ------------------------------------------------------------------------------------------------

void check_x(const InferContext& ctx, const Shape& x, DType dtype) {
  ctx.require(is_floating(dtype), "x of a floating dtype", dtype);
  ctx.require(x.rank() >= 2, "x {…, C} of rank 2 or more", x);
}

void check_channels(const InferContext& ctx, int i, const char* name, const Shape& x) {
  const Shape& shape = ctx.shape(i);
  if (shape.rank() != 1 || shape[0] != x.back()) {
    const bool nchw = x.rank() == 4 && shape.rank() == 1 && shape[0] == x[1];
    ctx.fail(std::string(name) + " {" + std::to_string(x.back()) + "} for x " + to_string(x),
             to_string(shape) + (nchw ? "; x looks like NCHW; use from_nchw" : ""));
  }
}

void check_statistic(const InferContext& ctx, int i, const char* name, const Shape& x, DType x_dtype) {
  check_channels(ctx, i, name, x);
  const DType wanted = statistics_dtype(x_dtype);
  if (ctx.dtype(i) != wanted) {
    ctx.fail(std::string(name) + " of dtype " + std::string(name_of(wanted)) + " with x of " +
                 std::string(name_of(x_dtype)),
             std::string(name_of(ctx.dtype(i))));
  }
}

void check_options(const InferContext& ctx, const BatchNormAttrs& a) {
  if (!(a.eps >= 0 && std::isfinite(a.eps)))
    ctx.fail("eps of at least 0 and finite", core::number_text(a.eps));
}

constexpr std::array<const char*, 5> names{"x", "gamma", "beta", "running_mean", "running_var"};

void check_inputs(const InferContext& ctx) {
  const Shape& x = ctx.shape(0);
  check_x(ctx, x, ctx.dtype(0));
  check_options(ctx, ctx.attrs.as<BatchNormAttrs>());
  for (std::size_t i = 1; i < ctx.inputs.size(); ++i) {
    check_statistic(ctx, static_cast<int>(i), names[i], x, ctx.dtype(0));
  }
}

/// The rows and channels of {…, C} seen as a matrix.
struct Rows {
  std::int64_t count = 0, channels = 0;
  explicit Rows(const Shape& x) : channels(x.back()) {
    count = 1;
    for (int axis = 0; axis + 1 < x.rank(); ++axis) count *= x[axis];
  }
};

/// One value is its own mean: y would be β whatever x is, and the running variance would decay to 0.
void check_values(const InferContext& ctx) {
  const Shape& x = ctx.shape(0);
  if (Rows(x).count != 1) return;
  ctx.fail("more than one value a channel in training, over all axes of x but the last",
           to_string(x) +
               "; if it is the last batch of a data set, leave it out with the loader's drop_last; in "
               "evaluation mode running statistics normalise one value, too");
}

void infer_batch_norm(InferContext& ctx) {
  check_inputs(ctx);
  check_values(ctx);
  const Shape channels{ctx.shape(0).back()};
  const DType statistics = statistics_dtype(ctx.dtype(0));
  ctx.output(ctx.shape(0), ctx.dtype(0));
  for (std::size_t i = 0; i < (ctx.inputs.size() == 5 ? 4u : 2u); ++i) ctx.output(channels, statistics);
}

void infer_inference(InferContext& ctx) {
  check_inputs(ctx);
  ctx.output(ctx.shape(0), ctx.dtype(0));
}

void infer_grad(InferContext& ctx) {  // g, x, gamma, mean, inv_std
  const Shape& x = ctx.shape(1);
  check_x(ctx, x, ctx.dtype(1));
  if (!(ctx.shape(0) == x) || ctx.dtype(0) != ctx.dtype(1))
    ctx.fail("g like x " + to_string(x), to_string(ctx.shape(0)));
  check_statistic(ctx, 2, "gamma", x, ctx.dtype(1));
  check_statistic(ctx, 3, "mean", x, ctx.dtype(1));
  check_statistic(ctx, 4, "inv_std", x, ctx.dtype(1));
  ctx.output(x, ctx.dtype(1));
  ctx.output(ctx.shape(2), ctx.dtype(2));
  ctx.output(ctx.shape(2), ctx.dtype(2));
}

// ---- gradients
// --------------------------------------------------------------------------------------------------------

std::vector<int> all_but_last(int rank) {
  std::vector<int> axes;
  for (int axis = 0; axis + 1 < rank; ++axis) axes.push_back(axis);
  return axes;
}

Tensor cast_if(const Tensor& x, DType dtype) { return x.dtype() == dtype ? x : cast(x, dtype); }

/// β's gradient is a plain sum.
core::Saves saves_of_batch_norm(std::uint32_t wanted) {
  if (wanted == bit(2)) return {};
  return {.inputs = bit(0) | bit(1), .outputs = bit(1) | bit(2)};
}

void gradient_batch_norm(GradContext& ctx) {
  if (!ctx.needs(0) && !ctx.needs(1)) {
    const Tensor g = cast_if(ctx.incoming(), statistics_dtype(ctx.input_dtype(0)));
    if (ctx.needs(2)) ctx.set(2, sum(g, all_but_last(g.rank())));
    return;
  }
  const core::Outputs grads = core::record(
      batch_norm_grad_op, {ctx.incoming(0), ctx.input(0), ctx.input(1), ctx.output(1), ctx.output(2)},
      ctx.raw_attrs(), Location::current());
  for (int i = 0; i < 3; ++i) {
    if (ctx.needs(i)) ctx.set(i, grads[static_cast<std::size_t>(i)]);
  }
}

/// batch_norm_grad in plain ops, with the statistics as the functions of x that they are: the derivative by x
/// is then whole, and nothing flows into mean and inv_std. (Ioffe, Szegedy 2015, section 3, gathered as in
/// the reference below.)
std::vector<Tensor> grad_meaning(const std::vector<Tensor>& in, double eps) {
  const DType x_dtype = in[1].dtype(), statistics = statistics_dtype(x_dtype);
  const Tensor g = cast_if(in[0], statistics), x = cast_if(in[1], statistics), &gamma = in[2];
  const std::vector<int> axes = all_but_last(x.rank());
  const double rows = static_cast<double>(std::max<std::int64_t>(Rows(x.shape()).count, 1));
  const auto average = [&](const Tensor& of) { return sum(of, axes) / rows; };  // of no rows: 0
  const Tensor centred = x - average(x);
  const Tensor inv_std = 1.0 / sqrt(average(centred * centred) + eps);
  const Tensor normal = centred * inv_std;
  const Tensor dbeta = sum(g, axes), dgamma = sum(g * normal, axes);
  const Tensor dx = (gamma * inv_std) * (g - (average(g) + normal * average(g * normal)));
  return {cast_if(dx, x_dtype), dgamma, dbeta};
}

void gradient_grad(GradContext& ctx) {
  const double eps = ctx.attrs<BatchNormAttrs>().eps;
  ctx.through([eps](const std::vector<Tensor>& in) { return grad_meaning(in, eps); });
}

/// x is read by the gradients of γ and of the variance only.
core::Saves saves_of_inference(std::uint32_t wanted) {
  const std::uint32_t statistics = bit(1) | bit(3) | bit(4);
  return {.inputs = statistics | ((wanted & (bit(1) | bit(4))) != 0 ? bit(0) : 0)};
}

/// y = γ·x̂ + β with x̂ = (x−μ)·r, r = (σ²+ε)^−½: every input's partial derivative.
void gradient_inference(GradContext& ctx) {
  const DType x_dtype = ctx.input_dtype(0), statistics = statistics_dtype(x_dtype);
  const Tensor gamma = ctx.input(1), running_mean = ctx.input(3), running_var = ctx.input(4);
  const Tensor g = cast_if(ctx.incoming(), statistics);
  const std::vector<int> axes = all_but_last(g.rank());
  const Tensor inv_std = 1.0 / sqrt(running_var + ctx.attrs<BatchNormAttrs>().eps);
  const Tensor scale = gamma * inv_std;
  if (ctx.needs(0)) ctx.set(0, cast_if(g * scale, x_dtype));
  if (ctx.needs(1) || ctx.needs(4)) {
    const Tensor normal = (cast_if(ctx.input(0), statistics) - running_mean) * inv_std;
    const Tensor dgamma = sum(g * normal, axes);
    if (ctx.needs(1)) ctx.set(1, dgamma);
    if (ctx.needs(4)) ctx.set(4, -0.5 * (gamma * inv_std * inv_std * dgamma));
  }
  if (ctx.needs(2) || ctx.needs(3)) {
    const Tensor dbeta = sum(g, axes);
    if (ctx.needs(2)) ctx.set(2, dbeta);
    if (ctx.needs(3)) ctx.set(3, -(scale * dbeta));
  }
}

// ---- reference
// --------------------------------------------------------------------------------------------------------

/// Two passes, so that no large mean cancels the variance. No rows have mean and variance 0.
void statistics_of(const double* x, const Rows& rows, std::int64_t c, double& mean, double& variance) {
  const auto n = static_cast<double>(std::max<std::int64_t>(rows.count, 1));
  double sum = 0, squares = 0;
  for (std::int64_t r = 0; r < rows.count; ++r) sum += x[r * rows.channels + c];
  mean = sum / n;
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const double d = x[r * rows.channels + c] - mean;
    squares += d * d;
  }
  variance = squares / n;
}

void reference_batch_norm(RefContext& ctx) {
  const auto a = ctx.attrs.as<BatchNormAttrs>();
  const RefTensor& x = ctx.in[0];
  const Rows rows(x.shape);
  const auto n = static_cast<double>(rows.count);
  for (std::int64_t c = 0; c < rows.channels; ++c) {
    double mean = 0, variance = 0;
    statistics_of(x.data, rows, c, mean, variance);
    const double inv_std = 1 / std::sqrt(variance + a.eps);
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const std::int64_t i = r * rows.channels + c;
      ctx.out[0].data[i] = ctx.in[1].data[c] * ((x.data[i] - mean) * inv_std) + ctx.in[2].data[c];
    }
    ctx.out[1].data[c] = mean;
    ctx.out[2].data[c] = inv_std;
    if (ctx.in.size() < 6) continue;
    // An empty batch tells nothing.
    const double momentum = rows.count > 0 ? ctx.in[5].data[0] : 0;
    const double unbiased = variance * n / (n - 1);
    ctx.out[3].data[c] = (1 - momentum) * ctx.in[3].data[c] + momentum * mean;
    ctx.out[4].data[c] = (1 - momentum) * ctx.in[4].data[c] + momentum * unbiased;
  }
}

/// dβ = Σg, dγ = Σg·x̂, dx = γ/√(σ²+ε) · (g − (dβ + x̂·dγ)/n), from the stored statistics.
void reference_grad(RefContext& ctx) {
  const RefTensor &g = ctx.in[0], &x = ctx.in[1];
  const Rows rows(x.shape);
  const auto n = static_cast<double>(rows.count);
  for (std::int64_t c = 0; c < rows.channels; ++c) {
    const double gamma = ctx.in[2].data[c], mean = ctx.in[3].data[c], inv_std = ctx.in[4].data[c];
    double dbeta = 0, dgamma = 0;
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const std::int64_t i = r * rows.channels + c;
      dbeta += g.data[i];
      dgamma += g.data[i] * ((x.data[i] - mean) * inv_std);
    }
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const std::int64_t i = r * rows.channels + c;
      const double normal = (x.data[i] - mean) * inv_std;
      ctx.out[0].data[i] = gamma * inv_std * (g.data[i] - (dbeta + normal * dgamma) / n);
    }
    ctx.out[1].data[c] = dgamma;
    ctx.out[2].data[c] = dbeta;
  }
}

void reference_inference(RefContext& ctx) {
  const double eps = ctx.attrs.as<BatchNormAttrs>().eps;
  const RefTensor& x = ctx.in[0];
  const Rows rows(x.shape);
  for (std::int64_t c = 0; c < rows.channels; ++c) {
    const double scale = ctx.in[1].data[c] / std::sqrt(ctx.in[4].data[c] + eps);
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const std::int64_t i = r * rows.channels + c;
      ctx.out[0].data[i] = scale * (x.data[i] - ctx.in[3].data[c]) + ctx.in[2].data[c];
    }
  }
}

using enum core::NormRole;
constexpr core::NormSignature batch_norm_roles{{x, gamma, beta, running_mean, running_var},
                                               {none, mean, inv_std, new_running_mean, new_running_var}};
constexpr core::NormSignature batch_norm_grad_roles{{none, x, gamma, mean, inv_std}, {dx, dgamma, dbeta}};
constexpr core::NormSignature batch_norm_inference_roles{{x, gamma, beta, running_mean, running_var}, {}};

}  // namespace

const core::OpDef batch_norm_op{.name = "batch_norm",
                                .infer = infer_batch_norm,
                                .numbers = 1,
                                .gradient = gradient_batch_norm,
                                .saves_inputs = bit(0) | bit(1),
                                .saves_outputs = bit(1) | bit(2),
                                .saves_for = saves_of_batch_norm,
                                .reference = reference_batch_norm,
                                .extra_passes = 1,
                                .norm = &batch_norm_roles};

const core::OpDef batch_norm_grad_op{.name = "batch_norm_grad",
                                     .infer = infer_grad,
                                     .gradient = gradient_grad,
                                     .saves_inputs = core::all_inputs,
                                     .reference = reference_grad,
                                     .differentiable_outputs = bit(0) | bit(1) | bit(2),
                                     .extra_passes = 2,
                                     .norm = &batch_norm_grad_roles};

const core::OpDef batch_norm_inference_op{.name = "batch_norm_inference",
                                          .infer = infer_inference,
                                          .gradient = gradient_inference,
                                          .saves_inputs = bit(0) | bit(1) | bit(3) | bit(4),
                                          .saves_for = saves_of_inference,
                                          .reference = reference_inference,
                                          .norm = &batch_norm_inference_roles};

}  // namespace fusetape::ops

namespace fusetape {

BatchNormResult batch_norm(Operand x, Operand gamma, Operand beta, const Tensor& running_mean,
                           const Tensor& running_var, BatchNormOptions options) {
  if (running_mean.defined() != running_var.defined()) {
    ops::fail("batch_norm", "both running statistics or none", "one", x.at());
  }
  const Tensor input = ops::require_tensor("batch_norm", x), scale = ops::require_tensor("batch_norm", gamma),
               shift = ops::require_tensor("batch_norm", beta);
  if (!(options.momentum >= 0 && options.momentum <= 1)) {
    ops::fail("batch_norm", "momentum in [0, 1]", core::number_text(options.momentum), x.at());
  }
  const Tensor momentum = ops::number(options.momentum, x.at());
  const core::Attrs attrs = core::Attrs::of(core::BatchNormAttrs{.eps = options.eps});
  if (!running_mean.defined()) {
    const core::Outputs out =
        core::record(ops::batch_norm_op, {input, scale, shift, momentum}, attrs, x.at());
    return {out[0], {}, {}};
  }
  const core::Outputs out = core::record(
      ops::batch_norm_op, {input, scale, shift, running_mean, running_var, momentum}, attrs, x.at());
  return {out[0], out[3], out[4]};
}

Tensor batch_norm(Operand x, Operand gamma, Operand beta, BatchNormOptions options) {
  return batch_norm(std::move(x), std::move(gamma), std::move(beta), Tensor(), Tensor(), options).y;
}

Tensor batch_norm_inference(Operand x, Operand gamma, Operand beta, Operand running_mean, Operand running_var,
                            BatchNormOptions options) {
  const char* op = "batch_norm_inference";
  const core::BatchNormAttrs attrs{.eps = options.eps};
  return core::record_one(
      ops::batch_norm_inference_op,
      {ops::require_tensor(op, x), ops::require_tensor(op, gamma), ops::require_tensor(op, beta),
       ops::require_tensor(op, running_mean), ops::require_tensor(op, running_var)},
      core::Attrs::of(attrs), x.at());
}

}  // namespace fusetape
