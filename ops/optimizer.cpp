#include "ops/optimizer.hpp"

#include <cmath>
#include <string>

#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::ops {

using core::InferContext;
using core::OpDef;
using core::RefContext;
using core::UpdateAttrs;

namespace {

std::string described(const InferContext& ctx, int i) {
  return to_string(ctx.shape(i)) + " " + std::string(name_of(ctx.dtype(i)));
}

/// p, g, state, scalars: the first ones are alike.
template <class U>
void infer_update(InferContext& ctx) {
  ctx.require(is_floating(ctx.dtype(0)), "a parameter of a floating dtype", ctx.dtype(0));
  const int states = U::states(static_cast<int>(ctx.attrs.as<UpdateAttrs>().variant));
  const int tensors = 2 + states;
  for (int i = 1; i < tensors; ++i) {
    if (ctx.shape(i) == ctx.shape(0) && ctx.dtype(i) == ctx.dtype(0)) continue;
    ctx.fail(std::string(i == 1 ? "a gradient" : "a state") + " like the parameter: " + described(ctx, 0),
             described(ctx, i));
  }
  for (int i = tensors; i < tensors + core::updates::scalars_of<U>; ++i) {
    if (ctx.shape(i).rank() == 0 && ctx.dtype(i) == DType::f64) continue;
    ctx.fail("a scalar of dtype f64 as input " + std::to_string(i), described(ctx, i));
  }
  for (int i = 0; i <= states; ++i) ctx.output(ctx.shape(0), ctx.dtype(0));
}

template <class U>
void reference_update(RefContext& ctx) {
  const auto run = [&](auto variant) {
    constexpr std::size_t states = U::states(variant);
    const auto scalars = core::updates::read_scalars<U>(
        [&](int i) { return ctx.in[2 + states + static_cast<std::size_t>(i)].data[0]; });
    const auto factors = U::template factors<double>(scalars);
    for (std::int64_t i = 0; i < ctx.in[0].size(); ++i) {
      double p = ctx.in[0].data[i], state[states + 1] = {};
      for (std::size_t s = 0; s < states; ++s) state[s] = ctx.in[2 + s].data[i];
      U::template update<variant>(factors, p, ctx.in[1].data[i], state);
      ctx.out[0].data[i] = p;
      for (std::size_t s = 0; s < states; ++s) ctx.out[1 + s].data[i] = state[s];
    }
  };
  core::updates::with_variant<U>(static_cast<int>(ctx.attrs.as<UpdateAttrs>().variant), run);
}

template <class U>
constexpr OpDef update_op(std::string_view name) {
  return {.name = name,
          .infer = infer_update<U>,
          .reference = reference_update<U>,
          .differentiable_outputs = 0,
          .update = true};
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

}  // namespace

const OpDef grad_norm_op{
    .name = "grad_norm",
    .infer = infer_grad_norm,
    .reference = reference_grad_norm,
    .differentiable_outputs = 0,
};

#define FUSETAPE_DEFINE_UPDATE(name) constinit const OpDef name##_op = update_op<core::updates::name>(#name);
FUSETAPE_UPDATE_OPS(FUSETAPE_DEFINE_UPDATE)
#undef FUSETAPE_DEFINE_UPDATE

Tensor grad_norm(const std::vector<Tensor>& gradients, Location at) {
  return core::record(grad_norm_op, gradients, core::Attrs::of(core::NoAttrs{}), at)[0];
}

core::Outputs update(const OpDef& op, int variant, const Tensor& parameter, const Tensor& gradient,
                     std::span<const Tensor> state, std::span<const Tensor> scalars, Location at) {
  core::InlineVector<Tensor, 20> inputs;
  inputs.push_back(parameter);
  inputs.push_back(gradient);
  for (const Tensor& tensor : state) inputs.push_back(tensor);
  for (const Tensor& tensor : scalars) inputs.push_back(tensor);
  return core::record(op, {inputs.begin(), inputs.size()}, core::Attrs::of(UpdateAttrs{variant}), at);
}

}  // namespace fusetape::ops
