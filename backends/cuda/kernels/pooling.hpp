#pragma once
#include "backends/cuda/kernels/elements.hpp"
#include "backends/cuda/phases.hpp"
#include "core/numerics/pool_geometry.hpp"

/// Max and average pooling, NHWC. A thread has Width channels of a pixel that is written: 8 where all pixels
/// start on a boundary of 16 bytes, else 1. Gradients are gathered from the windows over a pixel, in their
/// order.
namespace fusetape::backends::cuda {

/// Some channels of a pixel.
struct PoolPlace {
  std::int64_t image, row, column, channel;
};

/// The pixels of images, each in stretches of channels: at most 2^31 of them, so that 32-bit divisions do.
struct PoolGrid {
  std::uint32_t rows, columns, stretches;
  std::int64_t count;

  FUSETAPE_HD PoolPlace at(std::int64_t i, int width) const {
    auto rest = static_cast<std::uint32_t>(i);
    const std::uint32_t stretch = rest % stretches;
    rest /= stretches;
    const std::uint32_t column = rest % columns;
    rest /= columns;
    return {.image = rest / rows,
            .row = rest % rows,
            .column = column,
            .channel = static_cast<std::int64_t>(stretch) * width};
  }
};

/// What all pooling kernels are: K::make(args, place) for every place of args.grid.
template <class K, class T, int Width>
struct PoolKernel {
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() {
    return std::string(K::kind) + "<" + type_name<T> + ", " + std::to_string(Width) + ">";
  }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 1;

  template <class Args>
  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    for_share<threads>(thread, args.grid.count,
                       [&](std::int64_t i) { K::make(args, args.grid.at(i, Width)); });
  }
};

/// Places in windows, as max pooling keeps them: moved at once where there are eight.
template <class Index, int Width>
struct alignas(Width * sizeof(Index)) PoolIndices {
  Index at[Width];
};

/// y and the place in the window of its first largest element; a NaN wins.
template <class T, class Index, int Width>
struct MaxPool : PoolKernel<MaxPool<T, Index, Width>, T, Width> {
  static constexpr const char* kind = sizeof(Index) == 1 ? "max_pool" : "max_pool_wide";
  struct Args {
    const T* x;
    T* y;
    Index* index;
    core::PoolGeometry pool;
    PoolGrid grid;
  };

  FUSETAPE_HD static void make(const Args& args, const PoolPlace& p) {
    const core::PoolGeometry& pool = args.pool;
    const core::Interval rows = pool.h.pixels(p.row), columns = pool.w.pixels(p.column);
    Eight best{};
    PoolIndices<Index, Width> index{};
    bool first = true;
    for (std::int64_t ih = rows.begin; ih < rows.end; ++ih) {
      for (std::int64_t iw = columns.begin; iw < columns.end; ++iw, first = false) {
        const Eight x = load_eight(args.x + pool.x_offset(p.image, ih, iw) + p.channel, Width);
        const auto place = static_cast<Index>(pool.place(ih, iw, p.row, p.column));
        for (int i = 0; i < Width; ++i) {
          if (!first && !core::becomes_largest(x.at[i], best.at[i])) continue;
          best.at[i] = x.at[i];
          index.at[i] = place;
        }
      }
    }
    const std::int64_t at = pool.y_offset(p.image, p.row, p.column) + p.channel;
    store_eight(args.y + at, best, Width);
    *reinterpret_cast<PoolIndices<Index, Width>*>(args.index + at) = index;
  }
};

/// dx = Σ g of the windows whose largest element the pixel was; with y, 0 where y ≤ 0.
template <class T, class Index, int Width>
struct MaxPoolGrad : PoolKernel<MaxPoolGrad<T, Index, Width>, T, Width> {
  static constexpr const char* kind = sizeof(Index) == 1 ? "max_pool_grad" : "max_pool_grad_wide";
  struct Args {
    const T* g;
    const Index* index;
    const T* y;  ///< of dx's shape, may be dx; or null
    T* dx;
    core::PoolGeometry pool;
    PoolGrid grid;
  };

  FUSETAPE_HD static void make(const Args& args, const PoolPlace& p) {
    const core::PoolGeometry& pool = args.pool;
    const core::Interval over = pool.h.windows_over(p.row), across = pool.w.windows_over(p.column);
    Eight sum{};
    for (std::int64_t oh = over.begin; oh < over.end; ++oh) {
      for (std::int64_t ow = across.begin; ow < across.end; ++ow) {
        const std::int64_t at = pool.y_offset(p.image, oh, ow) + p.channel;
        const Eight g = load_eight(args.g + at, Width);
        const auto index = *reinterpret_cast<const PoolIndices<Index, Width>*>(args.index + at);
        const auto place = static_cast<Index>(pool.place(p.row, p.column, oh, ow));
        for (int i = 0; i < Width; ++i) {
          if (index.at[i] == place) sum.at[i] += g.at[i];
        }
      }
    }
    const std::int64_t at = pool.x_offset(p.image, p.row, p.column) + p.channel;
    if (args.y != nullptr) {
      const Eight y = load_eight(args.y + at, Width);
      for (int i = 0; i < Width; ++i) {
        if (y.at[i] <= 0) sum.at[i] = 0;
      }
    }
    store_eight(args.dx + at, sum, Width);
  }
};

/// y = x at the places of an index.
template <class T, class Index, int Width>
struct MaxPoolGather : PoolKernel<MaxPoolGather<T, Index, Width>, T, Width> {
  static constexpr const char* kind = sizeof(Index) == 1 ? "max_pool_gather" : "max_pool_gather_wide";
  struct Args {
    const T* x;
    const Index* index;
    T* y;
    core::PoolGeometry pool;
    PoolGrid grid;
  };

  FUSETAPE_HD static void make(const Args& args, const PoolPlace& p) {
    const core::PoolGeometry& pool = args.pool;
    const std::int64_t at = pool.y_offset(p.image, p.row, p.column) + p.channel;
    const auto index = *reinterpret_cast<const PoolIndices<Index, Width>*>(args.index + at);
    Eight y{};
    for (int i = 0; i < Width; ++i) {
      const auto place = static_cast<std::int64_t>(index.at[i]);
      const std::int64_t ih = pool.h.pixel(place / pool.w.window, p.row);
      const std::int64_t iw = pool.w.pixel(place % pool.w.window, p.column);
      y.at[i] = to_float(args.x[pool.x_offset(p.image, ih, iw) + p.channel + i]);
    }
    store_eight(args.y + at, y, Width);
  }
};

template <class T, int Width>
struct AvgPool : PoolKernel<AvgPool<T, Width>, T, Width> {
  static constexpr const char* kind = "avg_pool";
  struct Args {
    const T* x;
    T* y;
    core::PoolGeometry pool;
    PoolGrid grid;
  };

  FUSETAPE_HD static void make(const Args& args, const PoolPlace& p) {
    const core::PoolGeometry& pool = args.pool;
    const core::Interval rows = pool.h.pixels(p.row), columns = pool.w.pixels(p.column);
    Eight sum{};
    for (std::int64_t ih = rows.begin; ih < rows.end; ++ih) {
      for (std::int64_t iw = columns.begin; iw < columns.end; ++iw) {
        const Eight x = load_eight(args.x + pool.x_offset(p.image, ih, iw) + p.channel, Width);
        for (int i = 0; i < Width; ++i) sum.at[i] += x.at[i];
      }
    }
    const float share = pool.share(p.row, p.column);
    for (int i = 0; i < Width; ++i) sum.at[i] *= share;
    store_eight(args.y + pool.y_offset(p.image, p.row, p.column) + p.channel, sum, Width);
  }
};

template <class T, int Width>
struct AvgPoolGrad : PoolKernel<AvgPoolGrad<T, Width>, T, Width> {
  static constexpr const char* kind = "avg_pool_grad";
  struct Args {
    const T* g;
    T* dx;
    core::PoolGeometry pool;
    PoolGrid grid;
  };

  FUSETAPE_HD static void make(const Args& args, const PoolPlace& p) {
    const core::PoolGeometry& pool = args.pool;
    const core::Interval over = pool.h.windows_over(p.row), across = pool.w.windows_over(p.column);
    Eight sum{};
    for (std::int64_t oh = over.begin; oh < over.end; ++oh) {
      for (std::int64_t ow = across.begin; ow < across.end; ++ow) {
        const Eight g = load_eight(args.g + pool.y_offset(p.image, oh, ow) + p.channel, Width);
        const float share = pool.share(oh, ow);
        for (int i = 0; i < Width; ++i) sum.at[i] += g.at[i] * share;
      }
    }
    store_eight(args.dx + pool.x_offset(p.image, p.row, p.column) + p.channel, sum, Width);
  }
};

}  // namespace fusetape::backends::cuda
