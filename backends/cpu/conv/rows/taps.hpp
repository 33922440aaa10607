#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>

#include "backends/backend.hpp"
#include "core/op/op_attrs.hpp"

/// Where a filter meets the rows and columns of an image.
namespace fusetape::backends::cpu::conv::rows {

/// One axis of the pass: places written, extents read, and how the filter lies between them. Forward,
/// written place r meets read place r·stride − pad + i·dilation by the filter's i; of the input's gradient r
/// and read place change places.
struct Axis {
  std::int64_t written = 0, read = 0, kernel = 0, stride = 1, pad = 0, dilation = 1;
  bool is_grad_input = false;

  /// Written places with equal remainders meet the filter alike.
  std::int64_t period() const { return is_grad_input ? stride : 1; }
  /// From a written place to the next one of its remainder, in read places.
  std::int64_t step() const { return is_grad_input ? 1 : stride; }
  /// Whether filter place i meets the written place anywhere, be it outside of what is read; where.
  bool meets(std::int64_t place, std::int64_t i, std::int64_t& at) const {
    const std::int64_t shifted =
        is_grad_input ? place + pad - i * dilation : place * stride - pad + i * dilation;
    if (!is_grad_input) {
      at = shifted;
      return true;
    }
    at = shifted >= 0 ? shifted / stride : -((-shifted) / stride);
    return shifted % stride == 0;
  }
  /// No written place from this one on meets anything before it. (A later one may meet less than this one
  /// does, where dilation and stride have no common measure.)
  std::int64_t earliest(std::int64_t place) const {
    const std::int64_t first =
        is_grad_input ? (place + pad - (kernel - 1) * dilation) / stride : place * stride - pad;
    return std::max<std::int64_t>(first, 0);
  }
  /// Over all written places and filter places: how far before and behind what is read they reach.
  std::int64_t before() const { return reach(true); }
  std::int64_t behind() const { return reach(false); }

 private:
  std::int64_t reach(bool backwards) const {
    std::int64_t most = 0;
    for (std::int64_t place = 0; place < written; ++place) {
      for (std::int64_t i = 0; i < kernel; ++i) {
        std::int64_t at = 0;
        if (meets(place, i, at)) most = std::max(most, backwards ? -at : at - read + 1);
      }
    }
    return most;
  }
};

/// Of a convolution's forward pass and weights' gradient, or of its input's gradient.
struct Axes {
  Axis rows, columns;

  Axes(const plan::Graph& graph, const plan::Convolution& conv) {
    const auto a = graph.node(conv.node).attrs.as<core::ConvAttrs>();
    const Shape &x = graph.value(conv.x).shape, &y = graph.value(conv.y).shape;
    rows = {y[1], x[1], a.kernel_h, a.stride_h, a.pad_h, a.dilation_h, false};
    columns = {y[2], x[2], a.kernel_w, a.stride_w, a.pad_w, a.dilation_w, false};
    if (conv.pass != plan::ConvPass::grad_input) return;
    for (Axis* axis : {&rows, &columns}) {
      std::swap(axis->written, axis->read);
      axis->is_grad_input = true;
    }
  }
};

}  // namespace fusetape::backends::cpu::conv::rows
