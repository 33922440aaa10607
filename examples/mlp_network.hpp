#pragma once
#include <cstdint>
#include <fusetape/fusetape.hpp>

/// Which arm of three spirals is a point on?
namespace examples {

struct Mlp : fusetape::nn::Module {
  static constexpr std::int64_t arms = 3;
  fusetape::nn::Linear in{2, 64}, hidden{64, 64}, out{64, arms};

  Mlp() {
    register_child("in", in);
    register_child("hidden", hidden);
    register_child("out", out);
  }
  fusetape::Tensor forward(const fusetape::Tensor& x) override {
    return out(fusetape::relu(hidden(fusetape::relu(in(x)))));
  }
};

}  // namespace examples
