#include "backends/cuda/conv/convolutions.hpp"

#include <algorithm>

#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

/// Convolutions with what stands behind them, and their gradients, through the library (cuDNN).
namespace fusetape::backends::cuda::conv {
namespace {

using plan::Convolution;
using plan::ConvPass;
using plan::Graph;
using plan::GraphNode;
using plan::Group;

ConvolutionSpec spec_of(const Graph& graph, const Convolution& conv, const OperationRoles& roles) {
  const Shape &x = graph.value(conv.x).shape, &w = graph.value(conv.w).shape, &y = graph.value(conv.y).shape;
  const auto attrs = graph.node(conv.node).attrs.as<core::ConvAttrs>();
  return {.pass = conv.pass,
          .dtype = graph.value(roles.a).dtype,
          .result = graph.value(roles.out).dtype,
          .n = x[0],
          .h = x[1],
          .w = x[2],
          .c = x[3],
          .k = w[0],
          .r = w[1],
          .s = w[2],
          .oh = y[1],
          .ow = y[2],
          .stride_h = attrs.stride_h,
          .stride_w = attrs.stride_w,
          .pad_h = attrs.pad_h,
          .pad_w = attrs.pad_w,
          .dilation_h = attrs.dilation_h,
          .dilation_w = attrs.dilation_w,
          .groups = attrs.groups,
          .bias = roles.bias >= 0,
          .add = roles.z >= 0,
          .relu = conv.activation != nullptr,
          .tf32 = graph.tf32,
          .timed = graph.timing};
}

OperationRoles roles_of(const Convolution& conv) {
  OperationRoles roles{.bias = conv.bias, .z = conv.z, .out = conv.result()};
  roles.a = conv.pass == ConvPass::grad_input ? conv.y : conv.x;
  roles.b = conv.pass == ConvPass::grad_weight ? conv.y : conv.w;
  return roles;
}

}  // namespace

LibraryConvolution library_convolution(const Graph& graph, const Convolution& conv) {
  const OperationRoles roles = roles_of(conv);
  LibraryConvolution result{.spec = spec_of(graph, conv, roles), .roles = roles};
  result.spec.statistics = conv.statistics.present();
  return result;
}

namespace {

/// Without an image there is nothing to multiply.
bool is_empty(const ConvolutionSpec& spec) { return spec.n == 0; }

/// With statistics behind it and nothing else of a norm.
bool is_with_statistics(const Convolution& conv) { return conv.statistics.present(); }

/// Why the library is not even asked; empty: it is.
std::string not_for_a_library(const Group& group, const Convolution& conv) {
  if (conv.before_activation >= 0) return "what the ReLU reads is wanted, too: one result is written";
  if (conv.activation != nullptr && conv.activation != &ops::relu_op) return "no activation but relu";
  if (!conv.carries()) return {};
  const bool only_statistics = conv.statistics.present() && !conv.before_x.present() && conv.bias < 0;
  if (!only_statistics) return "no transform that parts of a batch norm could ride in";
  return group.writes(conv.y) ? "" : "nobody reads the convolution's result, only its sums";
}

Support supports(const Graph& graph, const Group& group, Device& device) {
  if (group.as<plan::ConvSiblings>() != nullptr)
    return {.ok = false, .reason = "convolutions of one image run one after the other"};
  const auto* conv = group.as<Convolution>();
  if (conv == nullptr) return {.ok = false, .reason = ""};
  if (std::string reason = not_for_a_library(group, *conv); !reason.empty()) {
    return {.ok = false, .reason = std::move(reason)};
  }
  const ConvolutionSpec spec = library_convolution(graph, *conv).spec;
  if (Support fits = supports_dtype(spec.dtype); !fits.ok) return fits;
  if (is_empty(spec)) return {.ok = !is_with_statistics(*conv), .reason = "no images"};
  if (conv->folded.present()) return supports_folded_convolution(graph, *conv, device);
  const LibraryCache::Built built = device.libraries.find(spec);
  return {.ok = built.operation != nullptr, .reason = built.refusal};
}

/// Why the statistics of a batch norm that reads the result are not made with it; empty: none reads it.
std::string without_statistics(const Graph& graph, const Group& group, Device& device) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (!group.single() || !node.is(ops::conv2d_op)) return {};
  const std::vector<int>& readers = graph.value(node.outputs[0]).consumers;
  const bool normed = std::any_of(readers.begin(), readers.end(), [&](int reader) {
    return graph.node(reader).is(ops::batch_norm_op) || graph.node(reader).is(ops::batch_norm_statistics_op);
  });
  if (!normed) return {};
  const Support support = carries_statistics(graph, node, device);
  return support.ok ? "" : "without its batch norm's statistics: cudnn: " + support.reason;
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  const auto& roles = *group.as<Convolution>();
  const LibraryConvolution conv = library_convolution(graph, roles);
  if (is_empty(conv.spec)) return make_empty_sum(graph, device, conv.roles.out);
  if (roles.folded.present()) return make_folded_convolution(graph, roles, device);
  if (is_with_statistics(roles)) return make_convolution_statistics(graph, roles, device);
  auto kernel = make_library_kernel(graph, device, device.libraries.find(conv.spec).operation, conv.roles);
  kernel->why = without_statistics(graph, group, device);
  return kernel;
}

constexpr Candidate candidates[] = {{"cudnn", supports, make}};

}  // namespace

std::span<const Candidate> convolutions() { return candidates; }

}  // namespace fusetape::backends::cuda::conv
