#include "backends/cpu/conv/folded_weights.hpp"
#include "backends/cpu/conv/prepared.hpp"

/// oneDNN's convolution with a batch norm folded into its weights.
namespace fusetape::backends::cpu::conv {
namespace {

using dnnl::memory;
using plan::Graph;
using plan::Group;

class FoldedConvolution final : public PreparedConvolution {
 public:
  FoldedConvolution(const Graph& graph, const plan::Convolution& roles, const ConvDescription& conv)
      : PreparedConvolution(conv), folded_(graph, roles) {
    tensor_passes = roles.z >= 0 ? 3 : 2;  // beside the weights
  }

 private:
  void prepare(const KernelArgs& args, float* weights, float* bias) const override {
    folded_.make(args, weights, bias);
  }

  FoldedWeights folded_;
};

/// The convolution with folded weights and bias, as if the graph had them.
ConvDescription describe(const Graph& graph, const plan::Convolution& roles) {
  ConvDescription conv = describe_convolution(graph, roles);
  const memory::desc w = conv.w.stored;
  conv.w.stored = {w.get_dims(), memory::data_type::f32, w.get_strides()};
  const int beta = roles.folded.beta;
  conv.bias = {beta, {{graph.value(beta).shape[0]}, memory::data_type::f32, memory::format_tag::x}};
  conv.short_sums = true;
  return choose_arithmetic(conv);
}

}  // namespace

Support supports_folded_convolution(const Graph& graph, const Group& group) {
  const auto* r = group.as<plan::Convolution>();
  if (r == nullptr || !r->folded.present()) return not_mine;
  const plan::NormRoles& norm = r->folded;
  Support fits = fits_onednn(
      graph, {r->x, r->w, r->bias, r->z, r->y, norm.gamma, norm.beta, norm.running_mean, norm.running_var});
  if (!fits.ok) return fits;
  if (Support folds = supports_folding(graph, norm); !folds.ok) return folds;
  return supported_by_onednn([&] { implementation_of(describe(graph, *r)); });
}

std::unique_ptr<Kernel> make_folded_convolution(const Graph& graph, const Group& group) {
  const auto& roles = *group.as<plan::Convolution>();
  return std::make_unique<FoldedConvolution>(graph, roles, describe(graph, roles));
}

}  // namespace fusetape::backends::cpu::conv
