#pragma once
#include "backends/cuda/kernels/bias_relu_grad.hpp"
#include "backends/cuda/kernels/chain_totals.hpp"
#include "backends/cuda/kernels/commit.hpp"
#include "backends/cuda/kernels/cross_entropy.hpp"
#include "backends/cuda/kernels/fold_weights.hpp"
#include "backends/cuda/kernels/grad_norm.hpp"
#include "backends/cuda/kernels/largest.hpp"
#include "backends/cuda/kernels/movement.hpp"
#include "backends/cuda/kernels/norm_backward.hpp"
#include "backends/cuda/kernels/norm_forward.hpp"
#include "backends/cuda/kernels/pooling.hpp"
#include "backends/cuda/kernels/random.hpp"
#include "backends/cuda/kernels/relu_masks.hpp"
#include "backends/cuda/kernels/sums.hpp"
#include "backends/cuda/kernels/updates.hpp"

namespace fusetape::backends::cuda {

template <class... Kernels>
struct KernelList {};

/// The kernels of several lists.
template <class... Lists>
struct Joined;
template <class... K>
struct Joined<KernelList<K...>> {
  using type = KernelList<K...>;
};
template <class... A, class... B, class... Rest>
struct Joined<KernelList<A...>, KernelList<B...>, Rest...> : Joined<KernelList<A..., B...>, Rest...> {};

/// Max pooling with places in windows of one type.
template <class T, class Index, int Width>
using MaxPoolsOf =
    KernelList<MaxPool<T, Index, Width>, MaxPoolGrad<T, Index, Width>, MaxPoolGather<T, Index, Width>>;

/// On elements T, 1 or 8 channels a thread.
template <class T, int Width>
using WidthKernelsOf =
    typename Joined<MaxPoolsOf<T, std::uint8_t, Width>,
                    KernelList<NormMoments<T, Width>, NormGradSums<T, Width>, BiasReluGrad<T, Width>,
                               AvgPool<T, Width>, AvgPoolGrad<T, Width>>>::type;

/// On elements T.
template <class T>
using KernelsOf = typename Joined<WidthKernelsOf<T, 1>, WidthKernelsOf<T, 8>, MaxPoolsOf<T, std::int64_t, 1>,
                                  KernelList<NormApply<T>, NormGradApply<T>, FoldWeights<T>, ChannelSums<T>,
                                             ReluMask<T>, ReluGradMask<T>>>::type;

#define FUSETAPE_UPDATE_KERNEL(name) ParameterUpdate<T, core::updates::name>,

/// Sums, losses and updates of elements T.
template <class T>
using LossAndSumKernelsOf =
    KernelList<Softmax<T>, SoftmaxGrad<T>, CrossEntropy<T>, CrossEntropyGrad<T>, RowSums<T>, ColumnSums<T, 1>,
               ColumnSums<T, 8>, SumTotals<T>, LineSums<T>, Largest<T>, SquareSums<T>, RandomDraw<T>,
               FUSETAPE_UPDATE_OPS(FUSETAPE_UPDATE_KERNEL) ChainTotals<T>>;

#undef FUSETAPE_UPDATE_KERNEL

/// Movement, by the size of an element.
template <class Word>
using MovementOf = KernelList<StridedCopy<Word>, Embed<Word>, TransposeTiles<Word>>;

/// All of elements T.
template <class T>
using ElementKernels = typename Joined<KernelsOf<T>, LossAndSumKernelsOf<T>>::type;

/// Those that know no element, or none of these.
using OtherKernels = Joined<
    MovementOf<std::uint8_t>, MovementOf<std::uint16_t>, MovementOf<std::uint32_t>, MovementOf<std::uint64_t>,
    KernelList<NormStatistics, NormStatisticsOfSums, NormScale, NormGradTotals, NormGradCoefficients,
               LineSums<std::int64_t>, LineSums<std::uint8_t>, Largest<std::int64_t>, Largest<std::uint8_t>,
               RootOfSum, StridedCopy<SixteenBytes>, Commit<std::uint32_t>, Commit<std::uint8_t>>>::type;

/// Every kernel that the backend launches: what a device's build compiles, a file for each of these lists.
using AllKernels =
    Joined<ElementKernels<float>, ElementKernels<Bf16>, ElementKernels<F16>, OtherKernels>::type;

}  // namespace fusetape::backends::cuda
