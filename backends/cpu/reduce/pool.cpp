#include <omp.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "backends/cpu/norm/batch_norm_kernels.hpp"
#include "backends/cpu/norm/batch_norm_simd.hpp"
#include "core/numerics/pool_geometry.hpp"
#include "core/op/op_list.hpp"

/// Max and average pooling, forward and backward, in f32 and 16 bits, and max pooling of a batch norm's ReLU:
/// plain loops over NHWC that vectorise over channels. Work is cut into rows of the written image, each made
/// by one thread in a fixed order: the same bits for any number of threads. oneDNN is not used because the
/// index of the largest element is ours.
namespace fusetape::backends::cpu::reduce {
namespace {

using core::PoolGeometry;
using plan::Graph;
using plan::Group;

/// Channels that are handled together, so that the best, or the sum, of each stays in registers or L1.
constexpr std::int64_t block = 64;

struct Elements {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
};

/// Calls body(first channel, count) for each block of channels.
template <class Body>
void for_channels(const PoolGeometry& pool, Body body) {
  for (std::int64_t channel = 0; channel < pool.channels; channel += block) {
    body(channel, std::min(block, pool.channels - channel));
  }
}

/// Calls body(n, oh) for every row of y; each belongs to one thread.
template <class Body>
void for_rows(const PoolGeometry& pool, Body body) {
  const std::int64_t rows = pool.images * pool.h.windows;
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) body(row / pool.h.windows, row % pool.h.windows);
}

/// Calls body(ow, channel, count) for every block of a row of y.
template <class Body>
void for_windows(const PoolGeometry& pool, Body body) {
  for (std::int64_t ow = 0; ow < pool.w.windows; ++ow) {
    for_channels(pool, [&](std::int64_t channel, std::int64_t count) { body(ow, channel, count); });
  }
}

// ---- max --------------------------------------------------------------------------------------------------

struct Best {
  alignas(64) float value[block];
  alignas(64) std::int32_t place[block];
};

/// The first largest of a window, per channel; NaN wins over numbers. row_of(ih): where that row of x begins.
template <class RowOf>
void find_best(const PoolGeometry& pool, DType dtype, RowOf row_of, std::int64_t oh, std::int64_t ow,
               std::int64_t channel, std::int64_t count, Best& best) {
  alignas(64) float buffer[block];
  const core::Interval rows = pool.h.pixels(oh), columns = pool.w.pixels(ow);
  for (std::int64_t ih = rows.begin; ih < rows.end; ++ih) {
    const std::byte* const row = row_of(ih);
    for (std::int64_t iw = columns.begin; iw < columns.end; ++iw) {
      const float* pixel = read_floats(dtype, row, iw * pool.channels + channel, count, buffer);
      const auto place = static_cast<std::int32_t>(pool.place(ih, iw, oh, ow));
      if (ih == rows.begin && iw == columns.begin) {
        std::copy_n(pixel, count, best.value);
        std::fill_n(best.place, count, place);
        continue;
      }
#pragma omp simd
      for (std::int64_t c = 0; c < count; ++c) {
        const float old = best.value[c], now = pixel[c];
        const bool better = core::becomes_largest(now, old);
        best.value[c] = better ? now : old;
        best.place[c] = better ? place : best.place[c];
      }
    }
  }
}

/// One row of y and its index.
template <class Index, class RowOf>
void max_pool_row(const PoolGeometry& pool, RowOf row_of, const Elements& y, Index* index, std::int64_t n,
                  std::int64_t oh) {
  for_windows(pool, [&](std::int64_t ow, std::int64_t channel, std::int64_t count) {
    Best best;
    find_best(pool, y.dtype, row_of, oh, ow, channel, count, best);
    const std::int64_t at = pool.y_offset(n, oh, ow) + channel;
    store_block(y.dtype, best.value, y.data + at * static_cast<std::int64_t>(size_of(y.dtype)),
                static_cast<std::size_t>(count));
    for (std::int64_t c = 0; c < count; ++c) index[at + c] = static_cast<Index>(best.place[c]);
  });
}

template <class Index>
void max_pool(const PoolGeometry& pool, const Elements& x, const Elements& y, Index* index) {
  const auto size = static_cast<std::int64_t>(size_of(x.dtype));
  for_rows(pool, [&](std::int64_t n, std::int64_t oh) {
    const auto row_of = [&](std::int64_t ih) { return x.data + pool.x_offset(n, ih, 0) * size; };
    max_pool_row(pool, row_of, y, index, n, oh);
  });
}

// ---- backward: each pixel gathers from the windows over it ------------------------------------------------

/// Makes dx block by block: add(sums, n, oh, ow, ih, iw, channel, count) adds the share of one window. With y
/// (of dx's shape and dtype; may be dx), the sums are masked: 0 where y ≤ 0.
template <class Add>
void gather(const PoolGeometry& pool, const Elements& dx, const std::byte* y, Add add) {
  const std::int64_t rows = pool.images * pool.h.size;
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    alignas(64) float sums[block], buffer[block];
    const std::int64_t n = row / pool.h.size, ih = row % pool.h.size;
    const core::Interval over = pool.h.windows_over(ih);
    for (std::int64_t iw = 0; iw < pool.w.size; ++iw) {
      const core::Interval across = pool.w.windows_over(iw);
      for_channels(pool, [&](std::int64_t channel, std::int64_t count) {
        std::fill_n(sums, count, 0.0f);
        for (std::int64_t oh = over.begin; oh < over.end; ++oh) {
          for (std::int64_t ow = across.begin; ow < across.end; ++ow)
            add(sums, n, oh, ow, ih, iw, channel, count);
        }
        const std::int64_t at = pool.x_offset(n, ih, iw) + channel;
        if (y != nullptr) {
          const float* mask = read_floats(dx.dtype, y, at, count, buffer);
#pragma omp simd
          for (std::int64_t c = 0; c < count; ++c) sums[c] = mask[c] <= 0 ? 0.0f : sums[c];
        }
        store_block(dx.dtype, sums, dx.data + at * static_cast<std::int64_t>(size_of(dx.dtype)),
                    static_cast<std::size_t>(count));
      });
    }
  }
}

template <class Index>
void max_pool_grad(const PoolGeometry& pool, const Elements& g, const Index* index, const std::byte* y,
                   const Elements& dx) {
  gather(pool, dx, y,
         [=, &pool](float* sums, std::int64_t n, std::int64_t oh, std::int64_t ow, std::int64_t ih,
                    std::int64_t iw, std::int64_t channel, std::int64_t count) {
           alignas(64) float buffer[block];
           const std::int64_t at = pool.y_offset(n, oh, ow) + channel;
           const auto place = static_cast<Index>(pool.place(ih, iw, oh, ow));
           const float* gradient = read_floats(g.dtype, g.data, at, count, buffer);
           const Index* winner = index + at;
#pragma omp simd
           for (std::int64_t c = 0; c < count; ++c) sums[c] += winner[c] == place ? gradient[c] : 0.0f;
         });
}

// ---- average ----------------------------------------------------------------------------------------------

void avg_pool(const PoolGeometry& pool, const Elements& x, const Elements& y) {
  for_rows(pool, [&](std::int64_t n, std::int64_t oh) {
    for_windows(pool, [&](std::int64_t ow, std::int64_t channel, std::int64_t count) {
      alignas(64) float sums[block] = {}, buffer[block];
      const core::Interval down = pool.h.pixels(oh), across = pool.w.pixels(ow);
      for (std::int64_t ih = down.begin; ih < down.end; ++ih) {
        for (std::int64_t iw = across.begin; iw < across.end; ++iw) {
          const float* pixel =
              read_floats(x.dtype, x.data, pool.x_offset(n, ih, iw) + channel, count, buffer);
#pragma omp simd
          for (std::int64_t c = 0; c < count; ++c) sums[c] += pixel[c];
        }
      }
      const float share = pool.share(oh, ow);
#pragma omp simd
      for (std::int64_t c = 0; c < count; ++c) sums[c] *= share;
      const std::int64_t at = pool.y_offset(n, oh, ow) + channel;
      store_block(y.dtype, sums, y.data + at * static_cast<std::int64_t>(size_of(y.dtype)),
                  static_cast<std::size_t>(count));
    });
  });
}

void avg_pool_grad(const PoolGeometry& pool, const Elements& g, const Elements& dx) {
  gather(pool, dx, nullptr,
         [=, &pool](float* sums, std::int64_t n, std::int64_t oh, std::int64_t ow, std::int64_t, std::int64_t,
                    std::int64_t channel, std::int64_t count) {
           alignas(64) float buffer[block];
           const std::int64_t at = pool.y_offset(n, oh, ow) + channel;
           const float* gradient = read_floats(g.dtype, g.data, at, count, buffer);
           const float share = pool.share(oh, ow);
#pragma omp simd
           for (std::int64_t c = 0; c < count; ++c) sums[c] += gradient[c] * share;
         });
}

// ---- kernels ----------------------------------------------------------------------------------------------

/// Which of the four, and its values: the large image, the small one, the index; behind max pooling's
/// gradient, what a ReLU made of the large image, for its mask.
struct Pooling {
  bool max = false, backward = false;
  int node = -1;
  int x = -1, y = -1, index = -1, mask = -1;
};

std::optional<Pooling> pooling_of(const Graph& graph, const Group& group) {
  if (const auto* grad = group.as<plan::MaxPoolGrad>()) {
    return Pooling{.max = true,
                   .backward = true,
                   .node = grad->node,
                   .x = grad->dx,
                   .y = grad->g,
                   .index = grad->index,
                   .mask = grad->y};
  }
  if (!group.single()) return std::nullopt;
  const int id = group.nodes[0];
  const plan::GraphNode& node = graph.node(id);
  if (node.is(ops::max_pool2d_op)) {
    return Pooling{
        .max = true, .node = id, .x = node.inputs[0], .y = node.outputs[0], .index = node.outputs[1]};
  }
  if (node.is(ops::avg_pool2d_op)) return Pooling{.node = id, .x = node.inputs[0], .y = node.outputs[0]};
  if (node.is(ops::avg_pool2d_grad_op)) {
    return Pooling{.backward = true, .node = id, .x = node.outputs[0], .y = node.inputs[0]};
  }
  return std::nullopt;
}

class PoolingKernel final : public Kernel {
 public:
  PoolingKernel(const Graph& graph, const Group& group, const Pooling& roles)
      : roles_(roles),
        pool_(graph.value(roles.x).shape, graph.value(roles.y).shape,
              graph.node(roles.node).attrs.as<core::Pool2dAttrs>()),
        dtype_(graph.value(roles.x).dtype),
        byte_index_(roles.max && graph.value(roles.index).dtype == DType::u8) {
    name = "loops:" + group.name;
    tensor_passes = (roles.max ? 3 : 2) + (roles.mask >= 0 ? 1 : 0);
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

  std::vector<std::pair<int, int>> in_place() const override {
    if (roles_.mask < 0) return {};
    return {{roles_.mask, roles_.x}};
  }

 private:
  Elements elements(const KernelArgs& args, int value) const { return {args.out<std::byte>(value), dtype_}; }

  template <class Index>
  void run_max(const KernelArgs& args) const {
    const Elements x = elements(args, roles_.x), y = elements(args, roles_.y);
    if (roles_.backward) {
      const std::byte* mask = roles_.mask >= 0 ? args.in<std::byte>(roles_.mask) : nullptr;
      max_pool_grad(pool_, y, args.in<Index>(roles_.index), mask, x);
    } else {
      max_pool(pool_, x, y, args.out<Index>(roles_.index));
    }
  }
  void run_average(const KernelArgs& args) const {
    const Elements x = elements(args, roles_.x), y = elements(args, roles_.y);
    if (roles_.backward) {
      avg_pool_grad(pool_, y, x);
    } else {
      avg_pool(pool_, x, y);
    }
  }

  Pooling roles_;
  PoolGeometry pool_;
  DType dtype_;
  bool byte_index_;
};

Support supports(const Graph& graph, const Group& group) {
  const std::optional<Pooling> pooling = pooling_of(graph, group);
  if (!pooling) return {.ok = false, .reason = ""};
  const plan::GraphValue& x = graph.value(pooling->x);
  if (!is_f32_or_half(x.dtype))
    return {.ok = false, .reason = "f32 and 16 bits only, not " + std::string(name_of(x.dtype))};
  if (x.elements() == 0) return {.ok = false, .reason = "an empty tensor"};
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  return std::make_unique<PoolingKernel>(graph, group, *pooling_of(graph, group));
}

// ---- max pooling of a batch norm's ReLU -------------------------------------------------------------------

/// What is pooled is made row by row, in a ring of as many rows as a window has, and not written; where
/// somebody reads it after all, it is made by the norm's own kernel first.
template <class T>
class NormMaxPoolKernel final : public Kernel {
 public:
  NormMaxPoolKernel(const Graph& graph, const Group& group)
      : roles_(*group.as<plan::NormMaxPool>()),
        pool_(graph.value(roles_.norm.norm[0].x).shape, graph.value(roles_.pooled).shape,
              graph.node(roles_.node).attrs.as<core::Pool2dAttrs>()),
        row_(pool_.w.size, pool_.channels, 1),
        parts_(
            static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), pool_.images * pool_.h.windows))),
        dtype_(graph.value(roles_.pooled).dtype),
        byte_index_(graph.value(roles_.index).dtype == DType::u8),
        eps_(graph.node(roles_.norm.norm[0].node).attrs.as<core::BatchNormAttrs>().eps) {
    Group first = group;
    first.roles = roles_.norm;
    norm_ = norm::make_norm_forward(graph, first);
    name = "loops:" + group.name;
    tensor_passes = roles_.passes(graph, group);
  }

  void run(const KernelArgs& args) override {
    norm_->run(args);  // the statistics, and y where it is wanted
    byte_index_ ? pool<std::uint8_t>(args) : pool<std::int64_t>(args);
  }
  std::size_t scratch_bytes() const override {
    return std::max(norm_->scratch_bytes(), carve(nullptr).bytes);  // one after the other
  }
  std::size_t room_bytes() const override {
    return std::max(norm_->room_bytes(), static_cast<std::size_t>(ring_elements()) * sizeof(T));
  }
  std::vector<std::pair<int, int>> in_place() const override { return norm_->in_place(); }

 private:
  struct Scratch {
    float *mean = nullptr, *a = nullptr, *beta = nullptr;  ///< for each element of a row of pixels
    std::size_t bytes = 0;
  };

  std::int64_t row_elements() const { return pool_.w.size * pool_.channels; }
  std::int64_t ring_elements() const { return pool_.h.window * row_elements(); }

  Scratch carve(std::byte* base) const {
    ScratchCarver carver(base);
    Scratch scratch;
    for (float** each : {&scratch.mean, &scratch.a, &scratch.beta})
      *each = carver.take<float>(row_.padded_width());
    scratch.bytes = carver.used();
    return scratch;
  }

  void fill_patterns(const KernelArgs& args, const Scratch& scratch) const {
    const plan::NormRoles& norm = roles_.norm.norm[0];
    const bool running = roles_.norm.statistics == plan::Statistics::running;
    const float* mean = args.in<float>(running ? norm.running_mean : norm.mean);
    const float* spread = args.in<float>(running ? norm.running_var : norm.inv_std);
    const float *gamma = args.in<float>(norm.gamma), *beta = args.in<float>(norm.beta);
    row_.fill(scratch.mean, [&](std::int64_t c) { return mean[c]; });
    row_.fill(scratch.a, [&](std::int64_t c) {
      return core::norm_scale(gamma[c], running ? core::inverse_deviation(spread[c], eps_) : spread[c]);
    });
    row_.fill(scratch.beta, [&](std::int64_t c) { return beta[c]; });
  }

  template <class Index>
  void pool(const KernelArgs& args) const {
    const Elements pooled{args.out<std::byte>(roles_.pooled), dtype_};
    auto* index = args.out<Index>(roles_.index);
    if (roles_.norm.y >= 0)
      return max_pool(pool_, {args.out<std::byte>(roles_.norm.y), dtype_}, pooled, index);
    const Scratch scratch = carve(args.scratch);
    fill_patterns(args, scratch);
    const T* x = args.in<T>(roles_.norm.norm[0].x);
    for_parts(parts_, [&](int part) {
      T* const ring = RoomCarver(args.rooms).take<T>(ring_elements())[part];
      const std::int64_t rows = pool_.images * pool_.h.windows, end = rows * (part + 1) / parts_;
      std::int64_t made = 0;  // the rows of this image before it that windows see, or saw
      for (std::int64_t row = rows * part / parts_; row < end; ++row) {
        const std::int64_t n = row / pool_.h.windows, oh = row % pool_.h.windows;
        const auto row_of = [&](std::int64_t ih) { return ring + ih % pool_.h.window * row_elements(); };
        const core::Interval seen = pool_.h.pixels(oh);
        if (oh == 0) made = 0;
        for (std::int64_t ih = std::max(made, seen.begin); ih < seen.end; ++ih)
          normalise(scratch, x + pool_.x_offset(n, ih, 0), row_of(ih));
        made = std::max(made, seen.end);
        max_pool_row(
            pool_, [&](std::int64_t ih) { return reinterpret_cast<const std::byte*>(row_of(ih)); }, pooled,
            index, n, oh);
      }
    });
  }

  void normalise(const Scratch& scratch, const T* x, T* y) const {
    norm::NormForward<T> row{.relu = true, .y = y};
    row.x[0] = x;
    row.mean[0] = scratch.mean;
    row.a[0] = scratch.a;
    row.beta[0] = scratch.beta;
    row_.for_blocks(0, false, [&](const RowBlock& block) { norm::apply_norm(block, row); });
  }

  plan::NormMaxPool roles_;
  PoolGeometry pool_;
  ChannelRows row_;  ///< a row of pixels
  int parts_;
  DType dtype_;
  bool byte_index_;
  double eps_;
  std::unique_ptr<Kernel> norm_;
};

Support supports_norm_max_pool(const Graph& graph, const Group& group) {
  const auto* roles = group.as<plan::NormMaxPool>();
  if (roles == nullptr) return {.ok = false, .reason = ""};
  return norm_operands(graph, roles->norm, {DType::f32, DType::bf16});
}

std::unique_ptr<Kernel> make_norm_max_pool(const Graph& graph, const Group& group) {
  if (graph.value(group.as<plan::NormMaxPool>()->pooled).dtype == DType::bf16)
    return std::make_unique<NormMaxPoolKernel<Bf16>>(graph, group);
  return std::make_unique<NormMaxPoolKernel<float>>(graph, group);
}

constexpr Candidate candidates[] = {{"loops:pooling", supports, make},
                                    {"loops:norm_max_pool", supports_norm_max_pool, make_norm_max_pool}};

}  // namespace

std::span<const Candidate> poolings() { return candidates; }

}  // namespace fusetape::backends::cpu::reduce
