#include "fusetape/models/vit.hpp"

#include "nn/models/common.hpp"

namespace fusetape::nn {
namespace {

constexpr double eps = 1e-6;

TransformerBlock::Options checked(TransformerBlock::Options options, Location at) {
  const auto require = requirement("TransformerBlock", at);
  require(options.width >= 1 && options.width <= most_channels, "width ≥ 1 and ≤ 2^24", options.width);
  require(options.heads >= 1 && options.width % options.heads == 0, "heads that divide the width",
          options.heads);
  require(options.hidden >= 1 && options.hidden <= most_channels, "hidden ≥ 1 and ≤ 2^24", options.hidden);
  return options;
}

ViT::Options checked(ViT::Options options, Location at) {
  const auto require = requirement("ViT", at);
  require(options.patch >= 1 && options.patch <= 1024, "patch ≥ 1 and ≤ 1024", options.patch);
  require(options.size >= 1 && options.size % options.patch == 0 && options.size <= 1024 * options.patch,
          "a size that is a multiple of the patch, at most 1024 of it", options.size);
  require(options.depth >= 0 && options.depth <= most_blocks, "a depth of 0 to 10000", options.depth);
  check_sizes(require, options);
  return options;
}

std::int64_t tokens(const ViT::Options& options) {
  const std::int64_t along = options.size / options.patch;
  return along * along + 1;
}

}  // namespace

TransformerBlock::TransformerBlock(Options options, Location at)
    : heads_(checked(options, at).heads),
      norm1_(options.width, eps, at),
      qkv_(options.width, 3 * options.width, at),
      out_(options.width, options.width, at),
      norm2_(options.width, eps, at),
      up_(options.width, options.hidden, at),
      down_(options.hidden, options.width, at),
      dropout_(options.dropout, at) {
  register_child("norm1", norm1_);
  register_child("qkv", qkv_);
  register_child("out", out_);
  register_child("norm2", norm2_);
  register_child("up", up_);
  register_child("down", down_);
  register_child("dropout", dropout_);
}

/// {N, L, width} → the same. One product makes q, k and v of all heads.
Tensor TransformerBlock::attention(const Tensor& x, Location at) {
  const std::int64_t count = x.size(0, at), length = x.size(1, at), width = x.size(2, at);
  const Shape by_head{count, length, 3, heads_, width / heads_};
  const Tensor qkv = transpose({reshape({qkv_(x, at), at}, by_head), at}, {2, 0, 3, 1, 4});
  const auto part = [&](std::int64_t i) { return squeeze({slice({qkv, at}, 0, i, i + 1), at}, 0); };
  const Tensor mixed =
      scaled_dot_product_attention({part(0), at}, {part(1), at}, {part(2), at});  // {N, heads, L, E}
  return out_(reshape({transpose({mixed, at}, {0, 2, 1, 3}), at}, x.shape()), at);
}

Tensor TransformerBlock::forward(const Tensor& x) {
  const Location at = here();
  const Tensor y = add({x, at}, {dropout_(attention(norm1_(x, at), at), at), at});
  const Tensor hidden = gelu({up_(norm2_(y, at), at), at});
  return add({y, at}, {dropout_(down_(hidden, at), at), at});
}

ViT::ViT(Options options, Location at)
    : size_(checked(options, at).size),
      class_token_(register_parameter("class_token", zeros({1, 1, options.width}, DType::f32, at), at)),
      positions_(
          register_parameter("positions", normal({1, tokens(options), options.width}, 0, 0.02, at), at)),
      patches_(
          {.in = options.channels, .out = options.width, .kernel = options.patch, .stride = options.patch},
          at),
      norm_(options.width, eps, at),
      fc_(options.width, options.classes, at) {
  for (std::int64_t b = 0; b < options.depth; ++b) {
    blocks_.emplace<TransformerBlock>({.width = options.width,
                                       .heads = options.heads,
                                       .hidden = options.hidden,
                                       .dropout = options.dropout},
                                      at);
  }
  register_child("patches", patches_);
  register_child("blocks", blocks_);
  register_child("norm", norm_);
  register_child("fc", fc_);
}

Tensor ViT::forward(const Tensor& x) {
  const Location at = here();
  if (x.shape().rank() == 4 && (x.size(1) != size_ || x.size(2) != size_)) {
    const std::string side = std::to_string(size_);
    throw Error("ViT", "expected images of " + side + "x" + side + ", got " + to_string(x.shape()), at);
  }
  const Tensor patches = patches_(x, at);
  const std::int64_t count = x.size(0), width = patches.size(3);
  const Tensor token = broadcast_to({class_token_.value(), at}, {count, 1, width});
  const Tensor tokens = concat({token, reshape({patches, at}, {count, -1, width})}, 1, at);
  const Tensor y = norm_(blocks_(add({tokens, at}, {positions_.value(), at}), at), at);
  return fc_(squeeze({slice({y, at}, 1, 0, 1), at}, 1), at);
}

}  // namespace fusetape::nn
