#pragma once
#include "backends/cuda/kernels/chain_totals.hpp"
#include "backends/cuda/kernels/norm_backward.hpp"
#include "backends/cuda/kernels/norm_forward.hpp"

namespace fusetape::backends::cuda {

template <class... Kernels>
struct KernelList {};

/// Every kernel that the backend launches: what a device's build compiles.
using AllKernels =
    KernelList<NormMoments<float, 1>, NormMoments<float, 8>, NormMoments<Bf16, 1>, NormMoments<Bf16, 8>,
               NormMoments<F16, 1>, NormMoments<F16, 8>, NormStatistics, NormCoefficients, NormApply<float>,
               NormApply<Bf16>, NormApply<F16>, NormGradSums<float, 1>, NormGradSums<float, 8>,
               NormGradSums<Bf16, 1>, NormGradSums<Bf16, 8>, NormGradSums<F16, 1>, NormGradSums<F16, 8>,
               NormGradTotals, NormGradCoefficients, NormGradApply<float>, NormGradApply<Bf16>,
               NormGradApply<F16>, ChainTotals<float>, ChainTotals<Bf16>, ChainTotals<F16>>;

}  // namespace fusetape::backends::cuda
