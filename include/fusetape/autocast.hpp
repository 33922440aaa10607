#pragma once
#include "fusetape/dtype.hpp"
#include "fusetape/error.hpp"

namespace fusetape {

/// Mixed precision for a scope: while it lives, ops that this thread records choose the precision of their
/// f32 and bf16 (f16) inputs, each by its kind. Products (conv2d, conv_transpose2d, matmul,
/// linear) run in bf16 (f16); reductions, softmax and losses in f32; of two inputs that differ, arithmetic
/// takes f32; everything else goes on in what it is given. The casts are recorded and differentiable, so
/// parameters stay f32 and so do their gradients. backward() and optimizers record in the precision of the
/// values that they meet, whether they are called inside the scope or after it. Other dtypes are left alone.
/// f16 has few exponents: gradients vanish without an optim::LossScaler.
///
///     {
///       const ft::Autocast cast(ft::DType::bf16);
///       loss = ft::cross_entropy(model(images), labels);
///     }
///     loss.backward();
///
/// Scopes nest: Autocast(DType::f32) switches it off inside another.
class Autocast {
 public:
  /// bf16 or f16, or f32 for none. Throws for another dtype.
  explicit Autocast(DType dtype, Location at = Location::current());
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  DType before_;
};

/// Of the innermost Autocast on this thread; f32: none.
DType autocast_dtype();

}  // namespace fusetape
