// Batch norm in parts, as plans take it apart so that each part can ride in a neighbour's kernel: the
// statistics where x is made, the normalisation where y is read, and the same two of its gradient. Also what
// computes y again for backward. Only plans contain these ops; they carry no gradient.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

using core::BatchNormAttrs;
using core::InferContext;
using core::RefContext;
using core::RefTensor;

namespace {

// ---- shapes ----

/// Tensors of x's shape and dtype first, then one value a channel each.
void check(const InferContext& ctx, int tensors) {
  const Shape& x = ctx.shape(0);
  ctx.require(is_floating(ctx.dtype(0)), "x of a floating dtype", ctx.dtype(0));
  ctx.require(x.rank() >= 2, "x {…, C} of rank 2 or more", x);
  for (int i = 1; i < static_cast<int>(ctx.inputs.size()); ++i) {
    const bool whole = i < tensors;
    ctx.require(ctx.shape(i) == (whole ? x : Shape{x.back()}), whole ? "x's shape" : "one value a channel",
                ctx.shape(i));
    ctx.require(ctx.dtype(i) == (whole ? ctx.dtype(0) : statistics_dtype(ctx.dtype(0))),
                whole ? "x's dtype" : "f32 beside x (f64 beside f64)", ctx.dtype(i));
  }
}

void infer_statistics(InferContext& ctx) {
  check(ctx, 1);
  const std::size_t outputs = ctx.inputs.size() == 3 ? 4 : 2;
  for (std::size_t i = 0; i < outputs; ++i) ctx.output({ctx.shape(0).back()}, statistics_dtype(ctx.dtype(0)));
}

void infer_apply(InferContext& ctx) {
  check(ctx, 1);
  ctx.output(ctx.shape(0), ctx.dtype(0));
}

void infer_grad_sums(InferContext& ctx) {
  check(ctx, 2);
  for (int i = 0; i < 2; ++i) ctx.output({ctx.shape(0).back()}, statistics_dtype(ctx.dtype(0)));
}

void infer_grad_apply(InferContext& ctx) {
  check(ctx, 2);
  ctx.output(ctx.shape(0), ctx.dtype(0));
}

// ---- reference ----

std::int64_t channels_of(const RefTensor& x) { return x.shape.back(); }
double rows_of(const RefTensor& x) {
  return static_cast<double>(x.size()) / static_cast<double>(channels_of(x));
}

/// Two passes, so that no large mean cancels the variance. As in batch_norm, no rows move nothing.
void reference_statistics(RefContext& ctx) {
  const auto a = ctx.attrs.as<BatchNormAttrs>();
  const RefTensor& x = ctx.in[0];
  const std::int64_t channels = channels_of(x);
  const double n = rows_of(x);
  const double momentum = x.size() > 0 ? ctx.in.back().data[0] : 0;  // an empty batch tells nothing
  for (std::int64_t c = 0; c < channels; ++c) {
    double mean = 0, variance = 0;
    for (std::int64_t i = c; i < x.size(); i += channels) mean += x.data[i];
    mean /= std::max(n, 1.0);
    for (std::int64_t i = c; i < x.size(); i += channels) variance += (x.data[i] - mean) * (x.data[i] - mean);
    variance /= std::max(n, 1.0);
    ctx.out[0].data[c] = mean;
    ctx.out[1].data[c] = 1 / std::sqrt(variance + a.eps);
    if (ctx.in.size() < 4) continue;
    const double unbiased = variance * n / (n - 1);
    ctx.out[2].data[c] = (1 - momentum) * ctx.in[1].data[c] + momentum * mean;
    ctx.out[3].data[c] = (1 - momentum) * ctx.in[2].data[c] + momentum * unbiased;
  }
}

void reference_apply(RefContext& ctx) {
  const double *gamma = ctx.in[1].data, *beta = ctx.in[2].data, *mean = ctx.in[3].data,
               *inv_std = ctx.in[4].data;
  const std::int64_t channels = channels_of(ctx.in[0]);
  for (std::int64_t i = 0; i < ctx.in[0].size(); ++i) {
    const std::int64_t c = i % channels;
    ctx.out[0].data[i] = gamma[c] * ((ctx.in[0].data[i] - mean[c]) * inv_std[c]) + beta[c];
  }
}

/// dγ = Σg·x̂, dβ = Σg.
void reference_grad_sums(RefContext& ctx) {
  const RefTensor &g = ctx.in[0], &x = ctx.in[1];
  const std::int64_t channels = channels_of(x);
  for (std::int64_t c = 0; c < channels; ++c) {
    const double mean = ctx.in[2].data[c], inv_std = ctx.in[3].data[c];
    double dbeta = 0, dgamma = 0;
    for (std::int64_t i = c; i < x.size(); i += channels) {
      dbeta += g.data[i];
      dgamma += g.data[i] * ((x.data[i] - mean) * inv_std);
    }
    ctx.out[0].data[c] = dgamma;
    ctx.out[1].data[c] = dbeta;
  }
}

/// dx = γ/√(σ²+ε) · (g − (dβ + x̂·dγ)/n), from the stored statistics.
void reference_grad_apply(RefContext& ctx) {
  const RefTensor &g = ctx.in[0], &x = ctx.in[1];
  const double *gamma = ctx.in[2].data, *mean = ctx.in[3].data, *inv_std = ctx.in[4].data,
               *dgamma = ctx.in[5].data, *dbeta = ctx.in[6].data;
  const std::int64_t channels = channels_of(x);
  const double n = rows_of(x);
  for (std::int64_t i = 0; i < x.size(); ++i) {
    const std::int64_t c = i % channels;
    const double normal = (x.data[i] - mean[c]) * inv_std[c];
    ctx.out[0].data[i] = gamma[c] * inv_std[c] * (g.data[i] - (dbeta[c] + normal * dgamma[c]) / n);
  }
}

using enum core::NormRole;
constexpr core::NormSignature batch_norm_statistics_roles{{x, running_mean, running_var},
                                                          {mean, inv_std, new_running_mean, new_running_var}};
constexpr core::NormSignature batch_norm_apply_roles{{x, gamma, beta, mean, inv_std}, {}};
constexpr core::NormSignature batch_norm_grad_sums_roles{{none, x, mean, inv_std}, {dgamma, dbeta}};
constexpr core::NormSignature batch_norm_grad_apply_roles{{none, x, gamma, mean, inv_std, dgamma, dbeta},
                                                          {dx}};

}  // namespace

constinit const OpDef batch_norm_statistics_op{.name = "batch_norm_statistics",
                                               .infer = infer_statistics,
                                               .numbers = 1,
                                               .reference = reference_statistics,
                                               .norm = &batch_norm_statistics_roles};
constinit const OpDef batch_norm_apply_op{.name = "batch_norm_apply",
                                          .infer = infer_apply,
                                          .reference = reference_apply,
                                          .norm = &batch_norm_apply_roles};
constinit const OpDef batch_norm_grad_sums_op{.name = "batch_norm_grad_sums",
                                              .infer = infer_grad_sums,
                                              .reference = reference_grad_sums,
                                              .norm = &batch_norm_grad_sums_roles};
constinit const OpDef batch_norm_grad_apply_op{.name = "batch_norm_grad_apply",
                                               .infer = infer_grad_apply,
                                               .reference = reference_grad_apply,
                                               .norm = &batch_norm_grad_apply_roles};

}  // namespace fusetape::ops
