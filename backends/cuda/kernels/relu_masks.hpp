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
    const std::int64_t chunks = (args.count + 7) / 8;
    for (std::int64_t i = static_cast<std::int64_t>(thread.block_x) * threads + thread.index; i < chunks;
         i += static_cast<std::int64_t>(thread.blocks_x) * threads) {
      const std::int64_t left = args.count - i * 8;
      const int count = left < 8 ? static_cast<int>(left) : 8;
      const Eight y = load_eight(args.y + i * 8, count);
      unsigned bits = 0;
      for (int k = 0; k < 8; ++k) bits |= (k < count && !(y.at[k] <= 0) ? 1u : 0u) << k;
      args.mask[i] = static_cast<std::uint8_t>(bits);
    }
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
    const std::int64_t chunks = (args.count + 7) / 8;
    for (std::int64_t i = static_cast<std::int64_t>(thread.block_x) * threads + thread.index; i < chunks;
         i += static_cast<std::int64_t>(thread.blocks_x) * threads) {
      const std::int64_t at = i * 8, left = args.count - at;
      const int count = left < 8 ? static_cast<int>(left) : 8;
      store_eight(args.masked + at, masked_gradient(args.gradient, {}, at, 0, 0, count), count);
    }
  }
};

}  // namespace fusetape::backends::cuda
