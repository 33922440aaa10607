#include "backends/cpu/pool_geometry.hpp"

#include <memory>
#include <optional>
#include <string>

#include "backends/cpu/candidates.hpp"

/// Max and average pooling, forward and backward, in f32: plain loops over NHWC that vectorise over channels.
/// oneDNN is not used because the index of the largest element is ours.
namespace fusetape::backends::cpu {
namespace {

using plan::Graph;
using plan::Group;

/// Channels that are handled together, so that the best of each stays in registers or L1.
constexpr std::int64_t block = 64;

// ---- max --------------------------------------------------------------------------------------------------

struct Best {
  alignas(64) float value[block];
  alignas(64) std::int32_t place[block];
};

/// The first largest of a window, per channel; NaN wins over numbers.
void find_best(const PoolGeometry& pool, const float* x, std::int64_t n, std::int64_t oh, std::int64_t ow,
               std::int64_t channel, std::int64_t count, Best& best) {
  const Range rows = pool.h.pixels(oh), columns = pool.w.pixels(ow);
  for (std::int64_t ih = rows.begin; ih < rows.end; ++ih) {
    for (std::int64_t iw = columns.begin; iw < columns.end; ++iw) {
      const float* pixel = x + pool.x_offset(n, ih, iw) + channel;
      const auto place =
          static_cast<std::int32_t>(pool.h.place(ih, oh) * pool.w.window + pool.w.place(iw, ow));
      if (ih == rows.begin && iw == columns.begin) {
        std::copy_n(pixel, count, best.value);
        std::fill_n(best.place, count, place);
        continue;
      }
#pragma omp simd
      for (std::int64_t c = 0; c < count; ++c) {
        const float old = best.value[c], now = pixel[c];
        const bool better = (now > old) | ((now != now) & (old == old));
        best.value[c] = better ? now : old;
        best.place[c] = better ? place : best.place[c];
      }
    }
  }
}

template <class Index>
void max_pool(const PoolGeometry& pool, const float* x, float* y, Index* index) {
  const std::int64_t rows = pool.images * pool.h.windows;
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t n = row / pool.h.windows, oh = row % pool.h.windows;
    Best best;
    for (std::int64_t ow = 0; ow < pool.w.windows; ++ow) {
      for (std::int64_t channel = 0; channel < pool.channels; channel += block) {
        const std::int64_t count = std::min(block, pool.channels - channel);
        find_best(pool, x, n, oh, ow, channel, count, best);
        const std::int64_t at = pool.y_offset(n, oh, ow) + channel;
        std::copy_n(best.value, count, y + at);
        for (std::int64_t c = 0; c < count; ++c) index[at + c] = static_cast<Index>(best.place[c]);
      }
    }
  }
}

// ---- backward: each pixel gathers from the windows over it ------------------------------------------------

/// Makes dx row by row: body(dx's pixel, n, oh, ow, ih, iw) adds the share of one window.
template <class Body>
void gather_rows(const PoolGeometry& pool, float* dx, Body body) {
  const std::int64_t rows = pool.images * pool.h.size;
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t n = row / pool.h.size, ih = row % pool.h.size;
    const Range over = pool.h.windows_over(ih);
    for (std::int64_t iw = 0; iw < pool.w.size; ++iw) {
      const Range across = pool.w.windows_over(iw);
      float* pixel = dx + pool.x_offset(n, ih, iw);
      std::fill_n(pixel, pool.channels, 0.0f);
      for (std::int64_t oh = over.begin; oh < over.end; ++oh) {
        for (std::int64_t ow = across.begin; ow < across.end; ++ow) body(pixel, n, oh, ow, ih, iw);
      }
    }
  }
}

template <class Index>
void max_pool_grad(const PoolGeometry& pool, const float* g, const Index* index, float* dx) {
  gather_rows(pool, dx,
              [=, &pool](float* pixel, std::int64_t n, std::int64_t oh, std::int64_t ow, std::int64_t ih,
                         std::int64_t iw) {
                const std::int64_t at = pool.y_offset(n, oh, ow);
                const auto place =
                    static_cast<Index>(pool.h.place(ih, oh) * pool.w.window + pool.w.place(iw, ow));
                const float* gradient = g + at;
                const Index* winner = index + at;
#pragma omp simd
                for (std::int64_t c = 0; c < pool.channels; ++c) {
                  pixel[c] += winner[c] == place ? gradient[c] : 0.0f;
                }
              });
}

// ---- average ----------------------------------------------------------------------------------------------

void avg_pool(const PoolGeometry& pool, const float* x, float* y) {
  const std::int64_t rows = pool.images * pool.h.windows;
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t n = row / pool.h.windows, oh = row % pool.h.windows;
    const Range down = pool.h.pixels(oh);
    for (std::int64_t ow = 0; ow < pool.w.windows; ++ow) {
      const Range across = pool.w.pixels(ow);
      const float share = pool.share(oh, ow);
      float* out = y + pool.y_offset(n, oh, ow);
      std::fill_n(out, pool.channels, 0.0f);
      for (std::int64_t ih = down.begin; ih < down.end; ++ih) {
        for (std::int64_t iw = across.begin; iw < across.end; ++iw) {
          const float* pixel = x + pool.x_offset(n, ih, iw);
#pragma omp simd
          for (std::int64_t c = 0; c < pool.channels; ++c) out[c] += pixel[c];
        }
      }
#pragma omp simd
      for (std::int64_t c = 0; c < pool.channels; ++c) out[c] *= share;
    }
  }
}

void avg_pool_grad(const PoolGeometry& pool, const float* g, float* dx) {
  gather_rows(
      pool, dx,
      [=, &pool](float* pixel, std::int64_t n, std::int64_t oh, std::int64_t ow, std::int64_t, std::int64_t) {
        const float* gradient = g + pool.y_offset(n, oh, ow);
        const float share = pool.share(oh, ow);
#pragma omp simd
        for (std::int64_t c = 0; c < pool.channels; ++c) pixel[c] += gradient[c] * share;
      });
}

// ---- kernels ----------------------------------------------------------------------------------------------

const plan::GraphNode& only_node(const Graph& graph, const Group& group) {
  return graph.node(group.nodes[0]);
}

/// Which of the four, and its values: the large image, the small one, the index.
struct Pooling {
  bool max = false, backward = false;
  int x = -1, y = -1, index = -1;
};

std::optional<Pooling> pooling_of(const Graph& graph, const Group& group) {
  if (group.pattern != plan::Pattern::single) return std::nullopt;
  const plan::GraphNode& node = only_node(graph, group);
  if (node.op->is("max_pool2d")) {
    return Pooling{.max = true, .x = node.inputs[0], .y = node.outputs[0], .index = node.outputs[1]};
  }
  if (node.op->is("max_pool2d_grad")) {
    return Pooling{
        .max = true, .backward = true, .x = node.outputs[0], .y = node.inputs[0], .index = node.inputs[1]};
  }
  if (node.op->is("avg_pool2d")) return Pooling{.x = node.inputs[0], .y = node.outputs[0]};
  if (node.op->is("avg_pool2d_grad")) {
    return Pooling{.backward = true, .x = node.outputs[0], .y = node.inputs[0]};
  }
  return std::nullopt;
}

class PoolingKernel final : public Kernel {
 public:
  PoolingKernel(const Graph& graph, const Group& group, const Pooling& roles)
      : roles_(roles),
        pool_(graph.value(roles.x).shape, graph.value(roles.y).shape,
              only_node(graph, group).attrs.as<core::Pool2dAttrs>()),
        byte_index_(roles.max && graph.value(roles.index).dtype == DType::u8) {
    name = "loops:" + std::string(only_node(graph, group).op->name);
    tensor_passes = roles.max ? 3 : 2;
  }

  void run(const KernelArgs& args) override {
    if (!roles_.max) {
      run_average(args);
    } else if (byte_index_) {
      run_max<std::uint8_t>(args);
    } else {
      run_max<std::int64_t>(args);
    }
  }

 private:
  template <class Index>
  void run_max(const KernelArgs& args) const {
    if (roles_.backward) {
      max_pool_grad(pool_, args.in<float>(roles_.y), args.in<Index>(roles_.index), args.out<float>(roles_.x));
    } else {
      max_pool(pool_, args.in<float>(roles_.x), args.out<float>(roles_.y), args.out<Index>(roles_.index));
    }
  }
  void run_average(const KernelArgs& args) const {
    if (roles_.backward) {
      avg_pool_grad(pool_, args.in<float>(roles_.y), args.out<float>(roles_.x));
    } else {
      avg_pool(pool_, args.in<float>(roles_.x), args.out<float>(roles_.y));
    }
  }

  Pooling roles_;
  PoolGeometry pool_;
  bool byte_index_;
};

Support supports(const Graph& graph, const Group& group) {
  const std::optional<Pooling> pooling = pooling_of(graph, group);
  if (!pooling) return {.ok = false, .reason = ""};
  const plan::GraphValue& x = graph.value(pooling->x);
  if (x.dtype != DType::f32) return {.ok = false, .reason = "f32 only, not " + std::string(name_of(x.dtype))};
  if (x.elements() == 0) return {.ok = false, .reason = "an empty tensor"};
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  return std::make_unique<PoolingKernel>(graph, group, *pooling_of(graph, group));
}

constexpr Candidate candidates[] = {{"loops:pooling", supports, make}};

}  // namespace

std::span<const Candidate> onednn_pooling() { return candidates; }

}  // namespace fusetape::backends::cpu
