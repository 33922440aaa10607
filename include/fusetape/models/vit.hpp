#pragma once
#include <cstdint>

#include "fusetape/nn.hpp"

/// Dosovitskiy et al., "An Image is Worth 16x16 Words" (2020), for small images.
namespace fusetape::nn {

/// Two residual branches over tokens {N, L, width}, each behind a layer norm: attention of several heads, and
/// two linear layers with gelu between them. Children: norm1, qkv, out, norm2, up, down, dropout.
class TransformerBlock : public Module {
 public:
  struct Options {
    std::int64_t width = 0;
    std::int64_t heads = 1;  ///< a divisor of width
    std::int64_t hidden = 0;
    double dropout = 0;  ///< in [0, 1); of both branches' results
  };
  explicit TransformerBlock(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Tensor attention(const Tensor& x, Location at);

  std::int64_t heads_;
  LayerNorm norm1_;
  Linear qkv_, out_;
  LayerNorm norm2_;
  Linear up_, down_;
  Dropout dropout_;
};

/// Images {N, size, size, channels}: patches {patch, patch} to width, a class token before them, learned
/// positions added, blocks, layer norm, and a linear layer on the class token. Children: patches, blocks.B,
/// norm, fc; parameters class_token {1, 1, width}, positions {1, 1 + (size/patch)², width}.
class ViT : public Module {
 public:
  struct Options {
    std::int64_t size = 32;  ///< a multiple of patch
    std::int64_t patch = 4;
    std::int64_t width = 192;
    std::int64_t depth = 6;
    std::int64_t heads = 3;
    std::int64_t hidden = 768;
    std::int64_t classes = 10;
    std::int64_t channels = 3;
    double dropout = 0;
  };
  explicit ViT(Options options, Location at = Location::current());

 protected:
  /// Throws where the images have another size.
  Tensor forward(const Tensor& x) override;

 private:
  std::int64_t size_;
  Parameter class_token_, positions_;
  Conv2d patches_;
  Sequential blocks_;
  LayerNorm norm_;
  Linear fc_;
};

}  // namespace fusetape::nn
