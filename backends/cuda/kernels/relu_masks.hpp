#pragma once
#include "backends/cuda/kernels/norm_backward.hpp"

/// A ReLU's mask as bits, and its gradient: bit i % 8 of byte i / 8 is !(yᵢ ≤ 0). Eight elements a thread.
namespace fusetape::backends::cuda {

template <class T>
struct ReluMask {
  struct Args {
    const T* y;
    std::uint8_t* mask;
    std::int64_t count;
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return std::string("relu_mask<") + type_name<T> + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    for_eights<threads>(thread, args.count, [&](std::int64_t at, int count) {
      const Eight y = load_eight(args.y + at, count);
      unsigned bits = 0;
      for (int k = 0; k < 8; ++k) bits |= (k < count && !(y.at[k] <= 0) ? 1u : 0u) << k;
      args.mask[at / 8] = static_cast<std::uint8_t>(bits);
    });
  }
};

/// g' = g·[mask]
template <class T>
struct ReluGradMask {
  struct Args {
    MaskedGradient<T> gradient;
    T* masked;
    std::int64_t count;
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return std::string("relu_grad_mask<") + type_name<T> + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    for_eights<threads>(thread, args.count, [&](std::int64_t at, int count) {
      store_eight(args.masked + at, masked_gradient(args.gradient, {}, at, 0, 0, count), count);
    });
  }
};

}  // namespace fusetape::backends::cuda
