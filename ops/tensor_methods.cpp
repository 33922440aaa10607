// The methods of Tensor that are functions, too.
#include "fusetape/ops.hpp"

namespace fusetape {

Tensor Tensor::sum(Axes axes, ReduceOptions options, Location at) const {
  return fusetape::sum({*this, at}, std::move(axes), options);
}
Tensor Tensor::mean(Axes axes, ReduceOptions options, Location at) const {
  return fusetape::mean({*this, at}, std::move(axes), options);
}
Tensor Tensor::max(Axes axes, ReduceOptions options, Location at) const {
  return fusetape::max({*this, at}, std::move(axes), options);
}
Tensor Tensor::argmax(int axis, ReduceOptions options, Location at) const {
  return fusetape::argmax({*this, at}, axis, options);
}
Tensor Tensor::softmax(int axis, Location at) const { return fusetape::softmax({*this, at}, axis); }
Tensor Tensor::flatten(int from_axis, Location at) const { return fusetape::flatten({*this, at}, from_axis); }
Tensor Tensor::transpose(Location at) const { return fusetape::transpose({*this, at}); }
Tensor Tensor::transpose(std::vector<int> permutation, Location at) const {
  return fusetape::transpose({*this, at}, std::move(permutation));
}
Tensor Tensor::cast(DType dtype, Location at) const { return fusetape::cast({*this, at}, dtype); }
Tensor Tensor::relu(Location at) const { return fusetape::relu({*this, at}); }
Tensor Tensor::sigmoid(Location at) const { return fusetape::sigmoid({*this, at}); }
Tensor Tensor::tanh(Location at) const { return fusetape::tanh({*this, at}); }
Tensor Tensor::exp(Location at) const { return fusetape::exp({*this, at}); }
Tensor Tensor::log(Location at) const { return fusetape::log({*this, at}); }
Tensor Tensor::sqrt(Location at) const { return fusetape::sqrt({*this, at}); }
Tensor Tensor::abs(Location at) const { return fusetape::abs({*this, at}); }

Tensor& Tensor::operator+=(const Operand& other) { return *this = add({*this, other.at()}, other); }
Tensor& Tensor::operator-=(const Operand& other) { return *this = sub({*this, other.at()}, other); }
Tensor& Tensor::operator*=(const Operand& other) { return *this = mul({*this, other.at()}, other); }
Tensor& Tensor::operator/=(const Operand& other) { return *this = div({*this, other.at()}, other); }

}  // namespace fusetape
