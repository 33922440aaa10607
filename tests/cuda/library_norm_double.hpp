#pragma once
#include <memory>

#include "library_double.hpp"

namespace fusetape::tests {

/// What a library's batch norm may do otherwise than ours.
struct NormManners {
  double seconds = 1;                  ///< of a run; a kernel of ours takes a microsecond
  bool unbiased_variance = false;      ///< normalises by Σ(x − mean)²/(n − 1)
  bool shifts = false;                 ///< y = a·x + (β − a·mean), rounded as f32 is
  bool relu_drops_nans = false;        ///< max(0, NaN) = 0
  bool mask_multiplies = false;        ///< 0·NaN = NaN
  bool leaves_dgamma_out = false;      ///< does not write it
  bool needs_clean_workspace = false;  ///< adds to y what is left of the run before
};

/// What cuDNN would compute, in plain loops with sums of doubles, rounded once.
class NormDouble : public backends::cuda::LibraryOperation, public Living {
 public:
  NormDouble(const backends::cuda::NormSpec& spec, const NormManners& manners);
  std::size_t workspace_bytes() const override { return 1023; }
  double seconds_of_run() const { return manners_.seconds; }
  void run(const backends::cuda::NormArgs& args) const;

 private:
  void forward(const backends::cuda::NormArgs& args) const;
  void backward(const backends::cuda::NormArgs& args) const;

  backends::cuda::NormSpec s_;
  NormManners manners_;
  mutable int runs_ = 0;
};

}  // namespace fusetape::tests
