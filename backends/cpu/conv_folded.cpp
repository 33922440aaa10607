#include <cmath>

#include "backends/cpu/conv_prepared.hpp"
#include "core/half.hpp"
#include "core/op_attrs.hpp"

/// In evaluation a batch norm is a scale and a shift per channel, which the convolution before it can do:
/// ŵ = a·w, b̂ = a·(b − mean) + β with a = γ/√(var + eps). Made in double from what the cells hold, and
/// rounded once.
namespace fusetape::backends::cpu {
namespace {

using dnnl::memory;
using plan::Graph;
using plan::Group;

double element(const KernelArgs& args, int value, DType dtype, std::int64_t i) {
  return dtype == DType::bf16 ? core::from_bf16(args.in<std::uint16_t>(value)[i]) : args.in<float>(value)[i];
}

class FoldedConvolution final : public PreparedConvolution {
 public:
  FoldedConvolution(const Graph& graph, const plan::Convolution& roles, const Convolution& conv)
      : PreparedConvolution(conv),
        roles_(roles),
        weights_type_(graph.value(roles.w).dtype),
        bias_type_(roles.bias >= 0 ? graph.value(roles.bias).dtype : DType::f32),
        eps_(graph.node(roles.norm_node).attrs.as<core::BatchNormAttrs>().eps),
        channels_(graph.value(roles.w).shape[0]),
        filter_(graph.value(roles.w).elements() / channels_) {
    tensor_passes = roles.z >= 0 ? 3 : 2;  // beside the weights
  }

 private:
  void prepare(const KernelArgs& args, float* weights, float* bias) const override {
    const float *gamma = args.in<float>(roles_.gamma), *beta = args.in<float>(roles_.beta);
    const float *mean = args.in<float>(roles_.running_mean), *var = args.in<float>(roles_.running_var);
#pragma omp parallel for schedule(static)
    for (std::int64_t o = 0; o < channels_; ++o) {
      const double a = gamma[o] / std::sqrt(var[o] + eps_);
      const double b = roles_.bias >= 0 ? element(args, roles_.bias, bias_type_, o) : 0;
      bias[o] = static_cast<float>(a * (b - mean[o]) + beta[o]);
      for (std::int64_t i = o * filter_; i < (o + 1) * filter_; ++i) {
        weights[i] = static_cast<float>(a * element(args, roles_.w, weights_type_, i));
      }
    }
  }

  plan::Convolution roles_;
  DType weights_type_, bias_type_;
  double eps_;
  std::int64_t channels_, filter_;
};

/// The convolution with folded weights and bias, as if the graph had them.
Convolution describe(const Graph& graph, const plan::Convolution& roles) {
  Convolution conv = describe_convolution(
      graph,
      {.node = roles.conv_node, .x = roles.x, .w = roles.w, .z = roles.z, .y = roles.y, .relu = roles.relu});
  const memory::desc w = conv.w.stored;
  conv.w.stored = {w.get_dims(), memory::data_type::f32, w.get_strides()};
  conv.bias = {roles.beta,
               {{graph.value(roles.beta).shape[0]}, memory::data_type::f32, memory::format_tag::x}};
  conv.short_sums = true;
  return choose_arithmetic(conv);
}

}  // namespace

Support supports_folded_convolution(const Graph& graph, const Group& group) {
  const plan::Convolution& r = group.conv;
  if (group.pattern != plan::Pattern::convolution || r.norm_node < 0) return not_mine;
  const Support fits =
      fits_onednn(graph, {r.x, r.w, r.bias, r.z, r.y, r.gamma, r.beta, r.running_mean, r.running_var});
  if (!fits.ok) return fits;
  for (int id : {r.gamma, r.beta, r.running_mean, r.running_var}) {
    if (graph.value(id).dtype != DType::f32)
      return {.ok = false, .reason = "a batch norm whose parameters are not f32"};
  }
  return supported_by_onednn([&] { implementation_of(describe(graph, r)); });
}

std::unique_ptr<Kernel> make_folded_convolution(const Graph& graph, const Group& group) {
  return std::make_unique<FoldedConvolution>(graph, group.conv, describe(graph, group.conv));
}

}  // namespace fusetape::backends::cpu
