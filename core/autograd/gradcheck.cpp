#include <cmath>

#include "core/backends.hpp"
#include "core/numerics/number_text.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/autograd.hpp"
#include "fusetape/ops.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape {
namespace {

/// The reference backend for a scope: gradient checks want f64.
class OnReference {
 public:
  OnReference() : before_(backend_name()) { set_backend("reference"); }
  ~OnReference() {
    try {
      set_backend(before_);
    } catch (const Error&) {  // what is pending cannot run; the error of the check itself is on its way
      core::Tape::current().settings.backend = core::backend_named(before_);
    }
  }
  OnReference(const OnReference&) = delete;
  OnReference& operator=(const OnReference&) = delete;

 private:
  std::string before_;
};

/// A fixed, irregular weighting, so that every element of an output matters differently.
Tensor weighted_sum(const Tensor& output, Location at) {
  if (!output.defined()) throw Error("gradcheck", "fn returned an undefined tensor", at);
  if (output.dtype() != DType::f64) {
    throw Error("gradcheck", "expected fn to return f64, got " + std::string(name_of(output.dtype())), at);
  }
  std::vector<double> weights(static_cast<std::size_t>(output.elements()));
  for (std::size_t i = 0; i < weights.size(); ++i)
    weights[i] = 0.5 + std::fmod(0.754877666 * static_cast<double>(i + 1), 1.0);
  return sum(mul(output, from_doubles(weights, output.shape(), DType::f64)));
}

[[noreturn]] void differs(std::size_t input, std::size_t element, double analytic, double numeric,
                          Location at) {
  const auto text = [](double number) { return core::number_text(number, std::chars_format::general, 12); };
  throw Error("gradcheck",
              "input " + std::to_string(input) + ", element " + std::to_string(element) +
                  ": the gradient is " + text(analytic) + ", central differences give " + text(numeric),
              at);
}

}  // namespace

void gradcheck(const std::function<Tensor(const std::vector<Tensor>&)>& fn, const std::vector<Tensor>& inputs,
               GradcheckOptions options, Location at) {
  if (!fn) throw Error("gradcheck", "fn is empty", at);
  if (!(options.step > 0 && std::isfinite(options.step))) {
    throw Error("gradcheck", "expected a finite step > 0, got " + core::number_text(options.step), at);
  }
  const OnReference reference;
  std::vector<std::vector<double>> data;
  std::vector<Tensor> variables;
  for (const Tensor& input : inputs) {
    if (!input.defined() || input.dtype() != DType::f64) throw Error("gradcheck", "expected f64 inputs", at);
    data.push_back(input.to_vector<double>());
    variables.push_back(variable(input, at));
  }
  const std::vector<Tensor> gradients = grad({weighted_sum(fn(variables), at)}, variables, {}, {}, at);

  const auto evaluate = [&](std::size_t input, std::size_t element, double x) {
    std::vector<Tensor> shifted = variables;  // variables still: fn may itself ask for gradients
    std::vector<double> moved = data[input];
    moved[element] = x;
    shifted[input] = variable(from_doubles(moved, inputs[input].shape(), DType::f64, at), at);
    return weighted_sum(fn(shifted), at).item(at);
  };
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::vector<double> analytic = gradients[i].to_vector<double>(at);
    for (std::size_t e = 0; e < analytic.size(); ++e) {
      const double x = data[i][e];
      const double numeric =
          (evaluate(i, e, x + options.step) - evaluate(i, e, x - options.step)) / (2 * options.step);
      const bool close =
          std::abs(analytic[e] - numeric) <= options.tolerance * std::max(1.0, std::abs(numeric));
      if (!close) differs(i, e, analytic[e], numeric, at);  // a NaN is never close
    }
  }
}

}  // namespace fusetape
