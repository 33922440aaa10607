#pragma once
#include "backends/cuda/kernels/cross_entropy.hpp"
#include "backends/cuda/kernels/grad_norm.hpp"
#include "backends/cuda/kernels/largest.hpp"
#include "backends/cuda/kernels/movement.hpp"
#include "backends/cuda/kernels/norm_backward.hpp"
#include "backends/cuda/kernels/norm_forward.hpp"
#include "backends/cuda/kernels/random.hpp"
#include "backends/cuda/kernels/sums.hpp"
#include "backends/cuda/kernels/updates.hpp"

namespace fusetape::backends::cuda {

template <class... Kernels>
struct KernelList {};

/// Every kernel that the backend launches: what a device's build compiles.
using AllKernels = KernelList<
    NormMoments<float, 1>, NormMoments<float, 8>, NormMoments<Bf16, 1>, NormMoments<Bf16, 8>,
    NormMoments<F16, 1>, NormMoments<F16, 8>, NormStatistics, NormCoefficients, NormApply<float>,
    NormApply<Bf16>, NormApply<F16>, NormGradSums<float, 1>, NormGradSums<float, 8>, NormGradSums<Bf16, 1>,
    NormGradSums<Bf16, 8>, NormGradSums<F16, 1>, NormGradSums<F16, 8>, NormGradTotals, NormGradCoefficients,
    NormGradApply<float>, NormGradApply<Bf16>, NormGradApply<F16>, Softmax<float>, Softmax<Bf16>,
    Softmax<F16>, SoftmaxGrad<float>, SoftmaxGrad<Bf16>, SoftmaxGrad<F16>, CrossEntropy<float>,
    CrossEntropy<Bf16>, CrossEntropy<F16>, CrossEntropyGrad<float>, CrossEntropyGrad<Bf16>,
    CrossEntropyGrad<F16>, RowSums<float>, RowSums<Bf16>, RowSums<F16>, ColumnSums<float, 1>,
    ColumnSums<float, 8>, ColumnSums<Bf16, 1>, ColumnSums<Bf16, 8>, ColumnSums<F16, 1>, ColumnSums<F16, 8>,
    SumTotals<float>, SumTotals<Bf16>, SumTotals<F16>, LineSums<float>, LineSums<Bf16>, LineSums<F16>,
    LineSums<std::int64_t>, LineSums<std::uint8_t>, Largest<float>, Largest<Bf16>, Largest<F16>,
    Largest<std::int64_t>, Largest<std::uint8_t>, SgdUpdate<float>, SgdUpdate<Bf16>, SgdUpdate<F16>,
    AdamUpdate<float>, AdamUpdate<Bf16>, AdamUpdate<F16>, SquareSums<float>, SquareSums<Bf16>,
    SquareSums<F16>, RootOfSum, RandomDraw<float>, RandomDraw<Bf16>, RandomDraw<F16>,
    StridedCopy<std::uint8_t>, StridedCopy<std::uint16_t>, StridedCopy<std::uint32_t>,
    StridedCopy<std::uint64_t>, Embed<std::uint8_t>, Embed<std::uint16_t>, Embed<std::uint32_t>,
    Embed<std::uint64_t>, TransposeTiles<std::uint8_t>, TransposeTiles<std::uint16_t>,
    TransposeTiles<std::uint32_t>, TransposeTiles<std::uint64_t>, StridedCopy<SixteenBytes>>;

}  // namespace fusetape::backends::cuda
