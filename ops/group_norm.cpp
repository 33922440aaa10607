// Normalisation over groups of channels of each sample (Wu, He 2018), and over the last axis (Ba, Kiros,
// Hinton 2016), which is one group of each row.
#include <cmath>

#include "core/numerics/number_text.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

using core::Attrs;
using core::bit;
using core::GradContext;
using core::GroupNormAttrs;
using core::GroupView;
using core::InferContext;
using core::RefContext;

namespace {

void check(const InferContext& ctx, int x, int first_parameter, const char* const* names, int parameters) {
  const Shape& shape = ctx.shape(x);
  ctx.require(is_floating(ctx.dtype(x)), "x of a floating dtype", ctx.dtype(x));
  const DType wanted = statistics_dtype(ctx.dtype(x));
  for (int i = 0; i < parameters; ++i) {
    const int at = first_parameter + i;
    if (!(ctx.shape(at) == Shape{shape.back()}))
      ctx.fail(std::string(names[i]) + " {" + std::to_string(shape.back()) + "} for x " + to_string(shape),
               to_string(ctx.shape(at)));
    if (ctx.dtype(at) != wanted)
      ctx.fail(std::string(names[i]) + " of dtype " + std::string(name_of(wanted)),
               std::string(name_of(ctx.dtype(at))));
  }
}

constexpr const char* parameters[] = {"gamma", "beta"};

void infer_group_norm(InferContext& ctx) {  // x, gamma, beta
  check(ctx, 0, 1, parameters, 2);
  const GroupView view(ctx.shape(0), ctx.attrs.as<GroupNormAttrs>());
  ctx.output(ctx.shape(0), ctx.dtype(0));
  for (int i = 0; i < 2; ++i) ctx.output({view.outer, view.groups}, statistics_dtype(ctx.dtype(0)));
}

void infer_group_norm_grad(InferContext& ctx) {  // g, x, gamma, mean, inv_std
  check(ctx, 1, 2, parameters, 1);
  if (!(ctx.shape(0) == ctx.shape(1)) || ctx.dtype(0) != ctx.dtype(1))
    ctx.fail("g like x " + to_string(ctx.shape(1)), to_string(ctx.shape(0)));
  ctx.output(ctx.shape(1), ctx.dtype(1));
  for (int i = 0; i < 2; ++i) ctx.output(ctx.shape(2), ctx.dtype(2));
}

void gradient_group_norm(GradContext& ctx) {
  const core::Outputs all = core::record(
      group_norm_grad_op, {ctx.incoming(), ctx.input(0), ctx.input(1), ctx.output(1), ctx.output(2)},
      ctx.raw_attrs(), Location::current());
  for (int i = 0; i < 3; ++i) {
    if (ctx.needs(i)) ctx.set(i, all[static_cast<std::size_t>(i)]);
  }
}

/// The statistics are functions of x here, so that the gradient by x is whole.
void gradient_group_norm_grad(GradContext& ctx) {
  const auto attrs = ctx.attrs<GroupNormAttrs>();
  ctx.through([&attrs](const std::vector<Tensor>& in) {
    const GroupView view(in[1].shape(), attrs);
    const DType dtype = in[2].dtype();
    const auto grouped = [&](const Tensor& t) {
      return reshape(cast(t, dtype), {view.outer, view.pixels, view.groups, view.width});
    };
    const auto averaged = [](const Tensor& t) { return mean(t, {1, 3}, {.keep_dims = true}); };
    const Tensor g = grouped(in[0]), x = grouped(in[1]),
                 gamma = reshape(in[2], {1, 1, view.groups, view.width});
    const Tensor apart = x - averaged(x);
    const Tensor inv_std = 1 / sqrt(averaged(apart * apart) + attrs.eps);
    const Tensor normal = apart * inv_std, scaled = g * gamma;
    const Tensor dx = inv_std * (scaled - averaged(scaled) - normal * averaged(scaled * normal));
    const Shape channels{view.groups * view.width};
    return std::vector<Tensor>{cast(reshape(dx, in[1].shape()), in[1].dtype()),
                               reshape(sum(g * normal, {0, 1}), channels), reshape(sum(g, {0, 1}), channels)};
  });
}

/// Calls f(i, c) with the place and the channel of every element of a group.
template <class F>
void for_each_in(const GroupView& view, std::int64_t outer, std::int64_t group, F f) {
  for (std::int64_t p = 0; p < view.pixels; ++p) {
    for (std::int64_t k = 0; k < view.width; ++k) {
      const std::int64_t c = group * view.width + k;
      f((outer * view.pixels + p) * view.groups * view.width + c, c);
    }
  }
}

void reference_group_norm(RefContext& ctx) {
  const auto attrs = ctx.attrs.as<GroupNormAttrs>();
  const GroupView view(ctx.in[0].shape, attrs);
  const double *x = ctx.in[0].data, *gamma = ctx.in[1].data, *beta = ctx.in[2].data;
  const auto count = static_cast<double>(view.pixels * view.width);
  for (std::int64_t o = 0; o < view.outer; ++o) {
    for (std::int64_t group = 0; group < view.groups; ++group) {
      double mean = 0, variance = 0;
      for_each_in(view, o, group, [&](std::int64_t i, std::int64_t) { mean += x[i] / count; });
      for_each_in(view, o, group,
                  [&](std::int64_t i, std::int64_t) { variance += (x[i] - mean) * (x[i] - mean) / count; });
      const double inv_std = 1 / std::sqrt(variance + attrs.eps);
      for_each_in(view, o, group, [&](std::int64_t i, std::int64_t c) {
        ctx.out[0].data[i] = (x[i] - mean) * inv_std * gamma[c] + beta[c];
      });
      ctx.out[1].data[o * view.groups + group] = mean;
      ctx.out[2].data[o * view.groups + group] = inv_std;
    }
  }
}

/// dx = (g·γ − mean(g·γ) − x̂·mean(g·γ·x̂))/√(σ² + ε), dγ = Σg·x̂, dβ = Σg.
void reference_group_norm_grad(RefContext& ctx) {
  const GroupView view(ctx.in[1].shape, ctx.attrs.as<GroupNormAttrs>());
  const double *g = ctx.in[0].data, *x = ctx.in[1].data, *gamma = ctx.in[2].data;
  double *dx = ctx.out[0].data, *dgamma = ctx.out[1].data, *dbeta = ctx.out[2].data;
  std::fill_n(dgamma, ctx.out[1].size(), 0.0);
  std::fill_n(dbeta, ctx.out[2].size(), 0.0);
  const auto count = static_cast<double>(view.pixels * view.width);
  for (std::int64_t o = 0; o < view.outer; ++o) {
    for (std::int64_t group = 0; group < view.groups; ++group) {
      const double mean = ctx.in[3].data[o * view.groups + group];
      const double inv_std = ctx.in[4].data[o * view.groups + group];
      double sum = 0, with_normal = 0;
      for_each_in(view, o, group, [&](std::int64_t i, std::int64_t c) {
        const double normal = (x[i] - mean) * inv_std;
        sum += g[i] * gamma[c];
        with_normal += g[i] * gamma[c] * normal;
        dgamma[c] += g[i] * normal;
        dbeta[c] += g[i];
      });
      for_each_in(view, o, group, [&](std::int64_t i, std::int64_t c) {
        const double normal = (x[i] - mean) * inv_std;
        dx[i] = inv_std * (g[i] * gamma[c] - (sum + normal * with_normal) / count);
      });
    }
  }
}

Tensor normalised(const char* name, Tensor x, const Operand& gamma, const Operand& beta, double eps,
                  GroupNormAttrs attrs, Location at) {
  if (!is_floating(x.dtype())) fail(name, "x of a floating dtype", std::string(name_of(x.dtype())), at);
  if (x.shape().back() < 1) fail(name, "at least one channel", to_string(x.shape()), at);
  if (!(eps > 0 && std::isfinite(eps))) fail(name, "eps > 0 and finite", core::number_text(eps), at);
  Tensor scale = require_tensor(name, gamma), shift = require_tensor(name, beta);
  for (const Tensor& parameter : {scale, shift}) {
    const DType wanted = statistics_dtype(x.dtype());
    if (parameter.shape() == Shape{x.shape().back()} && parameter.dtype() == wanted) continue;
    fail(name,
         "gamma and beta {" + std::to_string(x.shape().back()) + "} of dtype " +
             std::string(name_of(wanted)) + " for x " + to_string(x.shape()),
         to_string(parameter.shape()) + " " + std::string(name_of(parameter.dtype())), at);
  }
  attrs.eps = eps;
  core::Outputs all =
      core::record(group_norm_op, {std::move(x), std::move(scale), std::move(shift)}, Attrs::of(attrs), at);
  return std::move(all[0]);
}

using enum core::NormRole;
constexpr core::NormSignature group_norm_roles{{x, gamma, beta}, {none, mean, inv_std}};
constexpr core::NormSignature group_norm_grad_roles{{none, x, gamma, mean, inv_std}, {dx, dgamma, dbeta}};

}  // namespace

constinit const OpDef group_norm_op{.name = "group_norm",
                                    .infer = infer_group_norm,
                                    .gradient = gradient_group_norm,
                                    .saves_inputs = bit(0) | bit(1),
                                    .saves_outputs = bit(1) | bit(2),
                                    .reference = reference_group_norm,
                                    .norm = &group_norm_roles};
constinit const OpDef group_norm_grad_op{.name = "group_norm_grad",
                                         .infer = infer_group_norm_grad,
                                         .gradient = gradient_group_norm_grad,
                                         .saves_inputs = bit(0) | bit(1) | bit(2) | bit(3) | bit(4),
                                         .reference = reference_group_norm_grad,
                                         .differentiable_outputs = bit(0) | bit(1) | bit(2),
                                         .norm = &group_norm_grad_roles};

}  // namespace fusetape::ops

namespace fusetape {

Tensor group_norm(Operand x, std::int64_t groups, Operand gamma, Operand beta, double eps) {
  Tensor of = ops::require_tensor("group_norm", x);
  if (of.rank() < 2) ops::fail("group_norm", "x {N, …, C} of rank 2 or more", to_string(of.shape()), x.at());
  if (groups < 1 || of.shape().back() % groups != 0) {
    ops::fail("group_norm",
              "a number of groups that divides " + std::to_string(of.shape().back()) + " channels",
              std::to_string(groups), x.at());
  }
  return ops::normalised("group_norm", std::move(of), gamma, beta, eps, {.outer_axes = 1, .groups = groups},
                         x.at());
}

Tensor layer_norm(Operand x, Operand gamma, Operand beta, double eps) {
  Tensor of = ops::require_tensor("layer_norm", x);
  if (of.rank() < 1) ops::fail("layer_norm", "x {…, C}", to_string(of.shape()), x.at());
  const std::int64_t rows = of.rank() - 1;
  return ops::normalised("layer_norm", std::move(of), gamma, beta, eps, {.outer_axes = rows, .groups = 1},
                         x.at());
}

}  // namespace fusetape
