#pragma once
#include "fusetape/fusetape.hpp"

namespace fusetape::tests {

/// A convolution, batch norm, dropout and a linear layer: that of data/checkpoint_1.cpp.
struct SmallNet : nn::Module {
  nn::Conv2d conv{{.in = 3, .out = 4, .kernel = 3, .stride = 2, .padding = 1, .bias = false}};
  nn::BatchNorm2d bn{4};
  nn::Dropout dropout{0.25};
  nn::Linear fc{4, 10};
  SmallNet() {
    register_child("conv", conv);
    register_child("bn", bn);
    register_child("dropout", dropout);
    register_child("fc", fc);
  }
  Tensor forward(const Tensor& x) override { return fc(global_avg_pool(dropout(relu(bn(conv(x)))))); }
};

}  // namespace fusetape::tests
