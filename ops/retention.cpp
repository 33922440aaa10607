// What a plan keeps for backward instead of a large value: a ReLU's mask as bits. Only plans contain these
// ops; they carry no gradient.
#include <cstdint>
#include <string>

#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"
#include "ops/reference.hpp"

namespace fusetape::ops {

using core::InferContext;
using core::RefContext;

namespace {

std::int64_t mask_bytes(const Shape& shape) { return (shape.elements() + 7) / 8; }

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

constinit const OpDef relu_mask_op{.name = "relu_mask", .infer = infer_mask, .reference = reference_mask};
constinit const OpDef relu_grad_mask_op{
    .name = "relu_grad_mask", .infer = infer_grad_mask, .reference = reference_grad_mask};

}  // namespace fusetape::ops
