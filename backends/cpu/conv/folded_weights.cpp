#include "backends/cpu/conv/folded_weights.hpp"

#include <cmath>
#include <limits>

#include "core/numerics/half.hpp"
#include "core/numerics/norm_formulas.hpp"
#include "core/op/op_attrs.hpp"

namespace fusetape::backends::cpu::conv {
namespace {

double element(const KernelArgs& args, int value, DType dtype, std::int64_t i) {
  return dtype == DType::bf16 ? core::from_bf16(args.in<std::uint16_t>(value)[i]) : args.in<float>(value)[i];
}

/// As f32. Every NaN becomes the plain one: what rounds to bf16 later knows no other.
float narrowed(double v) {
  return std::isnan(v) ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(v);
}

}  // namespace

FoldedWeights::FoldedWeights(const plan::Graph& graph, const plan::Convolution& roles)
    : roles_(roles),
      weights_type_(graph.value(roles.w).dtype),
      bias_type_(roles.bias >= 0 ? graph.value(roles.bias).dtype : DType::f32),
      eps_(graph.node(roles.folded.node).attrs.as<core::BatchNormAttrs>().eps),
      channels_(graph.value(roles.w).shape[0]),
      filter_(graph.value(roles.w).elements() / channels_) {}

void FoldedWeights::make(const KernelArgs& args, float* weights, float* bias) const {
  const plan::NormRoles& norm = roles_.folded;
  const float *gamma = args.in<float>(norm.gamma), *beta = args.in<float>(norm.beta);
  const float *mean = args.in<float>(norm.running_mean), *var = args.in<float>(norm.running_var);
#pragma omp parallel for schedule(static)
  for (std::int64_t o = 0; o < channels_; ++o) {
    const double a = core::folded_scale(gamma[o], var[o], eps_);
    const double b = roles_.bias >= 0 ? element(args, roles_.bias, bias_type_, o) : 0;
    bias[o] = narrowed(core::folded_shift(a, b, mean[o], beta[o]));
    for (std::int64_t i = o * filter_; i < (o + 1) * filter_; ++i) {
      weights[i] = narrowed(a * element(args, roles_.w, weights_type_, i));
    }
  }
}

Support supports_folding(const plan::Graph& graph, const plan::NormRoles& norm) {
  for (int id : {norm.gamma, norm.beta, norm.running_mean, norm.running_var}) {
    if (graph.value(id).dtype != DType::f32)
      return {.ok = false, .reason = "a batch norm whose parameters are not f32"};
  }
  return {};
}

}  // namespace fusetape::backends::cpu::conv
