#pragma once
#include "backends/backend.hpp"

namespace fusetape::backends::cpu::conv {

/// In evaluation a batch norm is a scale and a shift per channel, which the convolution before it can do:
/// ŵ = a·w, b̂ = a·(b − mean) + β with a = γ/√(var + eps). Made in double from what the cells hold, and
/// rounded once.
class FoldedWeights {
 public:
  FoldedWeights(const plan::Graph& graph, const plan::Convolution& roles);

  /// Floats of ŵ, as w is stored, and of b̂.
  std::int64_t weights() const { return channels_ * filter_; }
  std::int64_t channels() const { return channels_; }
  void make(const KernelArgs& args, float* weights, float* bias) const;

 private:
  plan::Convolution roles_;
  DType weights_type_, bias_type_;
  double eps_;
  std::int64_t channels_, filter_;
};

/// Whether the batch norm's parameters are what FoldedWeights reads.
Support supports_folding(const plan::Graph& graph, const plan::NormRoles& norm);

}  // namespace fusetape::backends::cpu::conv
