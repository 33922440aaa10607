#pragma once
#include <type_traits>
#include <utility>

#include "fusetape/number.hpp"
#include "fusetape/tensor.hpp"

namespace fusetape {

/// A tensor, parameter or number handed to an op, with the caller's source line. A number takes the other
/// operand's dtype, which must hold it (an integer beside i64 stays exact), and is a run-time input: changing
/// it makes no new plan.
class Operand {
 public:
  Operand(const Tensor& tensor, Location at = Location::current()) : tensor_(tensor), at_(at) {}
  /// A temporary is used up by the op: inside one expression, `relu(conv2d(x, w))`, no handle keeps the inner
  /// value alive.
  Operand(Tensor&& tensor, Location at = Location::current())
      : tensor_(std::move(tensor)), temporary_(true), at_(at) {}
  Operand(const Parameter& parameter, Location at = Location::current())
      : tensor_(parameter.value(at)), at_(at) {}
  template <class T>
    requires std::is_arithmetic_v<T>
  Operand(T number, Location at = Location::current()) : number_(number), is_number_(true), at_(at) {}

  bool is_number() const { return is_number_; }
  Number number() const { return number_; }
  const Tensor& tensor() const { return tensor_; }
  /// The tensor, for its one use by an op: a temporary's handle goes with it.
  Tensor take() const { return temporary_ ? std::move(tensor_) : tensor_; }
  Location at() const { return at_; }

 private:
  mutable Tensor tensor_;
  bool temporary_ = false;
  Number number_ = 0;
  bool is_number_ = false;
  Location at_;
};

}  // namespace fusetape
