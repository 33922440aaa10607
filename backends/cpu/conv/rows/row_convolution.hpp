#pragma once
#include "backends/backend.hpp"
#include "core/op/op_attrs.hpp"

/// 1×1 and depthwise convolutions, and their gradients, that make what they read and finish what they write a
/// few rows of pixels at a time: parts of batch norms, activations and their gradients ride along at the
/// price of a cache's bandwidth. Each thread has some rows, from kernel to kernel about the same.
namespace fusetape::backends::cpu::conv {

/// The name of these kernels for the tuner.
inline constexpr const char* by_rows = "rows";
/// Whether these kernels compute the convolution (or the gradient of one), and have a place for parts of
/// norms.
bool rows_compute(const plan::Graph& graph, const plan::GraphNode& conv);
/// Whether they are to compute it where nothing rides along: where they are the fastest by what was timed,
/// or else where there is work for all threads.
Support rows_serve(const plan::Graph& graph, const plan::GraphNode& conv);

namespace rows {

enum class Form : std::uint8_t { none, pointwise, depthwise };
/// Which of them computes the node.
Form form_of(const plan::Graph& graph, const plan::GraphNode& conv);

/// Threads that so many pixels are cut for.
int parts_of_pixels(std::int64_t pixels);

std::unique_ptr<Kernel> make_pointwise(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_depthwise(const plan::Graph& graph, const plan::Group& group);

}  // namespace rows
}  // namespace fusetape::backends::cpu::conv
