// What a plan keeps or computes again for backward instead of a large value: a ReLU's mask as bits, and a
// normalisation from the statistics that were stored. Only plans contain these ops; they carry no gradient.
#include <cstdint>
#include <string>

#include "ops/helpers.hpp"
#include "ops/ops.hpp"
#include "ops/reference.hpp"

namespace fusetape::ops {

using core::InferContext;
using core::RefContext;

namespace {

std::int64_t mask_bytes(const Shape& shape) { return (shape.elements() + 7) / 8; }

// ---- batch_norm_apply ----

void infer_apply(InferContext& ctx) {  // x, gamma, beta, mean, inv_std
  const Shape& x = ctx.shape(0);
  ctx.require(is_floating(ctx.dtype(0)), "x of a floating dtype", ctx.dtype(0));
  ctx.require(x.rank() >= 2, "x {…, C} of rank 2 or more", x);
  const DType statistics = ctx.dtype(0) == DType::f64 ? DType::f64 : DType::f32;
  for (int i = 1; i < 5; ++i) {
    ctx.require(ctx.shape(i) == Shape{x.back()}, "one value a channel", ctx.shape(i));
    ctx.require(ctx.dtype(i) == statistics, "f32 beside x (f64 beside f64)", ctx.dtype(i));
  }
  ctx.output(x, ctx.dtype(0));
}

void reference_apply(RefContext& ctx) {
  const double *gamma = ctx.in[1].data, *beta = ctx.in[2].data, *mean = ctx.in[3].data,
               *inv_std = ctx.in[4].data;
  const std::int64_t channels = ctx.in[1].size();
  for (std::int64_t i = 0; i < ctx.in[0].size(); ++i) {
    const std::int64_t c = i % channels;
    ctx.out[0].data[i] = gamma[c] * ((ctx.in[0].data[i] - mean[c]) * inv_std[c]) + beta[c];
  }
}

// ---- relu_mask, relu_grad_mask ----

void infer_mask(InferContext& ctx) {  // y
  ctx.require(is_floating(ctx.dtype(0)), "y of a floating dtype", ctx.dtype(0));
  ctx.output({mask_bytes(ctx.shape(0))}, DType::u8);
}

/// Bit i % 8 of byte i / 8 is !(yᵢ ≤ 0), as relu_grad has it.
void reference_mask(RefContext& ctx) {
  const core::RefTensor& y = ctx.in[0];
  fill_zero(ctx.out[0]);
  for (std::int64_t i = 0; i < y.size(); ++i) {
    if (!(y.data[i] <= 0)) ctx.out[0].data[i / 8] += 1 << (i % 8);
  }
}

void infer_grad_mask(InferContext& ctx) {  // g, mask
  ctx.require(is_floating(ctx.dtype(0)), "g of a floating dtype", ctx.dtype(0));
  ctx.require(ctx.dtype(1) == DType::u8, "a mask of u8", ctx.dtype(1));
  ctx.require(ctx.shape(1) == Shape{mask_bytes(ctx.shape(0))}, "a mask of one bit for each element of g",
              ctx.shape(1));
  ctx.output(ctx.shape(0), ctx.dtype(0));
}

void reference_grad_mask(RefContext& ctx) {
  const core::RefTensor& g = ctx.in[0];
  for (std::int64_t i = 0; i < g.size(); ++i) {
    const auto byte = static_cast<unsigned>(ctx.in[1].data[i / 8]);
    ctx.out[0].data[i] = (byte >> (i % 8) & 1) != 0 ? g.data[i] : 0;
  }
}

}  // namespace

constinit const OpDef batch_norm_apply_op{
    .name = "batch_norm_apply", .infer = infer_apply, .reference = reference_apply};
constinit const OpDef relu_mask_op{.name = "relu_mask", .infer = infer_mask, .reference = reference_mask};
constinit const OpDef relu_grad_mask_op{
    .name = "relu_grad_mask", .infer = infer_grad_mask, .reference = reference_grad_mask};

}  // namespace fusetape::ops
