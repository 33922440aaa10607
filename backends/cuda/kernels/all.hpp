#pragma once
#include "backends/cuda/kernels/bias_relu_grad.hpp"
#include "backends/cuda/kernels/fold_weights.hpp"
#include "backends/cuda/kernels/norm_backward.hpp"
#include "backends/cuda/kernels/norm_forward.hpp"
#include "backends/cuda/kernels/pooling.hpp"
#include "backends/cuda/kernels/relu_masks.hpp"

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

/// Every kernel that the backend launches: what a device's build compiles.
using AllKernels =
    Joined<KernelsOf<float>, KernelsOf<Bf16>, KernelsOf<F16>,
           KernelList<NormStatistics, NormCoefficients, NormGradTotals, NormGradCoefficients>>::type;

}  // namespace fusetape::backends::cuda
