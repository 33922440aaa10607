#pragma once
#include <array>

#include "backends/cpu/conv/onednn.hpp"

namespace fusetape::backends::cpu::conv {

/// A forward convolution whose weights, and perhaps bias, are made from the graph's in each run, in f32 in
/// scratch: the base of what makes them.
class PreparedConvolution : public Kernel {
 public:
  void run(const KernelArgs& args) final;
  std::size_t scratch_bytes() const final { return prepared_bytes_ + convolution_->scratch_bytes(); }
  std::vector<std::pair<int, int>> in_place() const final;

 protected:
  /// `conv` as for a graph that held the weights (f32) and the bias (f32, where one is described) ready made.
  explicit PreparedConvolution(ConvDescription conv);

  /// Fills the weights, as conv.w is stored, and the bias. Runs before the convolution.
  virtual void prepare(const KernelArgs& args, float* weights, float* bias) const = 0;

 private:
  /// The values of the convolution inside.
  enum Place : std::uint8_t { image, weights, bias, added, result, places };

  std::array<int, places> value_of_{-1, -1, -1, -1, -1};  ///< of the plan
  std::size_t bias_offset_ = 0, prepared_bytes_ = 0;
  std::unique_ptr<Kernel> convolution_;
};

}  // namespace fusetape::backends::cpu::conv
