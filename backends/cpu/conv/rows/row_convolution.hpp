#pragma once
#include "backends/backend.hpp"
#include "core/op/op_attrs.hpp"

/// Convolutions, and their gradients, that make what they read and finish what they write a few rows of
/// pixels at a time: parts of batch norms, activations and their gradients ride along at the price of a
/// cache's bandwidth. Each thread has some rows, from kernel to kernel about the same.
namespace fusetape::backends::cpu::conv {

/// The name of these kernels for the tuner.
inline constexpr const char* by_rows = "rows";
/// Whether these kernels compute the convolution (or the gradient of one).
bool rows_compute(const plan::Graph& graph, const plan::GraphNode& conv);
/// Whether they are to have parts of norms ride along.
bool rows_carry(const plan::Graph& graph, const plan::GraphNode& conv);
/// Whether they are to compute it where nothing rides along: where they are the fastest by what was timed,
/// or else, if they need no patches, where there is work for all threads.
Support rows_serve(const plan::Graph& graph, const plan::GraphNode& conv);

namespace rows {

/// 1×1 with stride 1 and depthwise ones have kernels of their own; all others but Winograd's are products of
/// the image's patches.
enum class Form : std::uint8_t { none, pointwise, depthwise, patches };
/// Which of them computes the node.
Form form_of(const plan::Graph& graph, const plan::GraphNode& conv);

/// Threads that so many pixels are cut for.
int parts_of_pixels(std::int64_t pixels);

std::unique_ptr<Kernel> make_pointwise(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_depthwise(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_patches(const plan::Graph& graph, const plan::Group& group);

}  // namespace rows
}  // namespace fusetape::backends::cpu::conv
