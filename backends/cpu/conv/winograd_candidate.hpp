#pragma once
#include <optional>

#include "backends/backend.hpp"
#include "backends/cpu/conv/winograd/weight_gradient.hpp"
#include "core/op/op_attrs.hpp"

/// Winograd convolutions as kernels of the CPU: which groups they take, and what rides in their transforms.
namespace fusetape::backends::cpu::conv {

/// The forward convolution that the node is, or is a gradient of; nullopt: not 3×3 with stride 1 and the
/// like.
std::optional<winograd::Problem> winograd_problem(const plan::Graph& graph, const plan::GraphNode& conv);

/// Channels of what is transformed (of a weight gradient: the fewer of x's and dy's): it is read in chunks of
/// 16, padding included.
std::int64_t transformed_channels(const plan::GraphNode& conv, const winograd::Problem& problem);
/// Of fewer, the padding is more than Winograd can make up for.
constexpr std::int64_t least_winograd_channels = 8;

/// Whether Winograd can compute the node, however slowly.
Support winograd_computes(const plan::Graph& graph, const plan::GraphNode& conv);
/// Whether its error, as the shape lets one expect, is within what is stated (`winograd_error`).
Support winograd_is_accurate(const plan::Graph& graph, const plan::GraphNode& conv);
/// Whether it is to compute it: where it is accurate, and where it is the fastest by what was timed, or else
/// by shape.
Support winograd_serves(const plan::Graph& graph, const plan::GraphNode& conv);
/// Whether another kernel was timed to be faster on its own, but the shape is Winograd's: norms that ride
/// along may make up for it, which only a race of the whole group tells.
bool winograd_is_in_question(const plan::Graph& graph, const plan::GraphNode& conv);
/// And whether one kernel computes both gradients of a group: up to 64×64 channels, where it was measured to
/// be faster; each thread needs the weights and sums of all channels.
Support winograd_serves_both(const plan::Graph& graph, const plan::Convolution& conv);
/// And whether its transforms have a place for parts of a norm with this activation (null: none).
bool winograd_carries(const plan::Graph& graph, const plan::GraphNode& conv, const core::OpDef* activation);

/// Blockings worth timing, the built-in one first, and how a TunedKernel holds one.
std::vector<winograd::Blocking> winograd_blockings(const winograd::Problem& problem, int threads);
std::vector<winograd::GradientBlocking> winograd_gradient_blockings(const winograd::Problem& problem,
                                                                    int threads);
std::vector<std::int64_t> words_of(const winograd::Blocking& blocking);
std::vector<std::int64_t> words_of(const winograd::GradientBlocking& blocking);

/// The offered blocking that the node was tuned to; else the first.
template <class Blocking>
Blocking tuned_blocking(const plan::GraphNode& conv, const std::vector<Blocking>& offered) {
  for (const Blocking& blocking : offered) {
    if (conv.tuned != nullptr && conv.tuned->blocking == words_of(blocking)) return blocking;
  }
  return offered[0];
}

std::unique_ptr<Kernel> make_winograd_convolution(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_winograd_grad_weight(const plan::Graph& graph, const plan::Group& group);

}  // namespace fusetape::backends::cpu::conv
