#pragma once
#include <functional>
#include <span>
#include <vector>

#include "fusetape/tensor.hpp"

namespace fusetape {

/// While it lives, ops on this thread record no history: nothing is kept for backward.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool before_;
};

/// Runs `body` without recording history and returns what it returns.
template <class Body>
auto no_grad(Body&& body) {
  NoGrad guard;
  return std::forward<Body>(body)();
}

bool grad_enabled();

/// The gradients of `outputs` (scalars, or with `grad_outputs` of their shapes) with respect to `inputs`, in
/// their order. Binds no Parameter's grad(). An input that no output depends on gets zeros.
std::vector<Tensor> grad(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs,
                         const std::vector<Tensor>& grad_outputs = {}, BackwardOptions options = {},
                         Location at = Location::current());

/// A value equal to x that history starts at: `grad` can be asked for it, nothing flows beyond it.
Tensor variable(const Tensor& x, Location at = Location::current());

/// fn(inputs), of which backward keeps nothing but what enters it: whatever else the gradients inside it read
/// is computed again from that when backward gets there, once in each backward(). fn itself is called once:
/// running statistics move once, dropout drops the same elements again, and parameters are read as they were.
/// Gradients, also those of gradients, are those without the checkpoint, to the bit where kernels are; they
/// reach tensors made inside, and hooks on them are called, as without it. Checkpoints may be nested. Throws
/// for an empty fn, and for an input or a result that is undefined.
std::vector<Tensor> checkpoint(const std::function<std::vector<Tensor>(const std::vector<Tensor>&)>& fn,
                               const std::vector<Tensor>& inputs, Location at = Location::current());
/// The same for one tensor in and one out: `checkpoint([&](const Tensor& x) { return block(x); }, x)`.
Tensor checkpoint(const std::function<Tensor(const Tensor&)>& fn, const Tensor& input,
                  Location at = Location::current());

struct GradcheckOptions {
  double step = 1e-6;       ///< of the central difference
  double tolerance = 1e-6;  ///< |analytic − numeric| ≤ tolerance · max(1, |numeric|)
};

/// Compares the gradient of `fn` with central differences, element by element, in f64 on the reference
/// backend. Throws an Error naming the input, the element and both numbers at the first that differs.
/// `inputs` and what fn returns must be f64.
void gradcheck(const std::function<Tensor(const std::vector<Tensor>&)>& fn, const std::vector<Tensor>& inputs,
               GradcheckOptions options = {}, Location at = Location::current());

}  // namespace fusetape
