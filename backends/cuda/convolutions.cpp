#include "backends/cuda/convolutions.hpp"

#include <algorithm>

#include "core/op_attrs.hpp"
#include "core/op_list.hpp"

/// Convolutions with what stands behind them, and their gradients, through the library (cuDNN).
namespace fusetape::backends::cuda {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;
using plan::Pattern;
using Pass = ConvolutionSpec::Pass;

/// The images and the filter of a convolution; in one of its gradients one of them is a gradient, too.
struct Tensors {
  int x, w, y;
};

ConvolutionSpec spec_of(const Graph& graph, const GraphNode& node, Pass pass, const Tensors& tensors,
                        const OperationRoles& roles) {
  const Shape &x = graph.value(tensors.x).shape, &w = graph.value(tensors.w).shape,
              &y = graph.value(tensors.y).shape;
  const auto attrs = node.attrs.as<core::ConvAttrs>();
  return {.pass = pass,
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
          .tf32 = graph.tf32,
          .timed = graph.timing};
}

LibraryConvolution forward(const Graph& graph, const GraphNode& node, const OperationRoles& roles,
                           bool relu) {
  LibraryConvolution conv{
      .spec = spec_of(graph, node, Pass::forward, {.x = roles.a, .w = roles.b, .y = roles.out}, roles),
      .roles = roles};
  conv.spec.relu = relu;
  return conv;
}

LibraryConvolution grad_input(const Graph& graph, const GraphNode& node, const OperationRoles& roles) {
  return {.spec = spec_of(graph, node, Pass::grad_input, {.x = roles.out, .w = roles.b, .y = roles.a}, roles),
          .roles = roles};
}

LibraryConvolution grad_weight(const Graph& graph, const GraphNode& node, const OperationRoles& roles) {
  return {
      .spec = spec_of(graph, node, Pass::grad_weight, {.x = roles.a, .w = roles.out, .y = roles.b}, roles),
      .roles = roles};
}

/// A convolution, or a gradient of one, by itself.
OperationRoles roles_of(const GraphNode& node) {
  return {.a = node.inputs[0], .b = node.inputs[1], .out = node.outputs[0]};
}

std::optional<LibraryConvolution> single(const Graph& graph, const GraphNode& node) {
  if (node.is(ops::conv2d_op)) return forward_convolution(graph, node);
  if (node.is(ops::conv2d_grad_input_op)) return grad_input(graph, node, roles_of(node));
  if (node.is(ops::conv2d_grad_weight_op)) return grad_weight(graph, node, roles_of(node));
  return std::nullopt;
}

}  // namespace

LibraryConvolution forward_convolution(const Graph& graph, const GraphNode& conv) {
  return forward(graph, conv, roles_of(conv), false);
}

std::optional<LibraryConvolution> convolution_of(const Graph& graph, const Group& group) {
  switch (group.pattern) {
    case Pattern::single:
      return single(graph, graph.node(group.nodes[0]));
    case Pattern::convolution: {
      const plan::Convolution& c = group.conv;
      return forward(graph, graph.node(c.conv_node),
                     {.a = c.x, .b = c.w, .bias = c.bias, .z = c.z, .out = c.y}, c.relu);
    }
    case Pattern::carried: {
      if (!is_with_statistics(group)) return std::nullopt;
      LibraryConvolution conv = forward_convolution(graph, graph.node(group.carried.conv_node));
      conv.spec.statistics = true;
      return conv;
    }
    case Pattern::conv_grad_input_add: {
      const plan::ConvGradInputAdd& c = group.conv_grad_add;
      return grad_input(graph, graph.node(c.conv_node), {.a = c.g, .b = c.w, .z = c.other, .out = c.dx});
    }
    case Pattern::conv_grad_weight_cast: {
      const plan::ConvGradWeightCast& c = group.conv_grad_cast;
      return grad_weight(graph, graph.node(c.conv_node), {.a = c.x, .b = c.g, .out = c.dw});
    }
    default:
      return std::nullopt;
  }
}

namespace {

/// Without an image there is nothing to multiply.
bool is_empty(const ConvolutionSpec& spec) { return spec.n == 0; }

/// Why the library is not even asked; empty: it is.
std::string not_for_a_library(const Group& group) {
  switch (group.pattern) {
    case Pattern::convolution:
      if (group.conv.before_relu >= 0) return "what the ReLU reads is wanted, too: one result is written";
      return {};
    case Pattern::carried:
      if (!is_with_statistics(group)) return "no transform that parts of a batch norm could ride in";
      if (std::find(group.outputs.begin(), group.outputs.end(), group.carried.y) == group.outputs.end())
        return "nobody reads the convolution's result, only its sums";
      return {};
    case Pattern::conv_siblings:
    case Pattern::conv_grad_weight_siblings:
    case Pattern::conv_grad_input_siblings:
      return "convolutions of one image run one after the other";
    default:
      return {};
  }
}

bool is_folded(const Group& group) {
  return group.pattern == Pattern::convolution && group.conv.norm_node >= 0;
}

Support supports(const Graph& graph, const Group& group, Device& device) {
  if (std::string reason = not_for_a_library(group); !reason.empty()) {
    return {.ok = false, .reason = std::move(reason)};
  }
  const std::optional<LibraryConvolution> conv = convolution_of(graph, group);
  if (!conv) return {.ok = false, .reason = ""};
  if (Support fits = supports_dtype(conv->spec.dtype); !fits.ok) return fits;
  if (is_empty(conv->spec)) return {.ok = !is_with_statistics(group), .reason = "no images"};
  if (is_folded(group)) return supports_folded_convolution(graph, group, device);
  const LibraryCache::Built built = device.libraries.find(conv->spec);
  return {.ok = built.operation != nullptr, .reason = built.refusal};
}

/// Why the statistics of a batch norm that reads the result are not made with it; empty: none reads it.
std::string without_statistics(const Graph& graph, const Group& group, Device& device) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (group.pattern != Pattern::single || !node.is(ops::conv2d_op)) return {};
  const std::vector<int>& readers = graph.value(node.outputs[0]).consumers;
  const bool normed = std::any_of(readers.begin(), readers.end(), [&](int reader) {
    return graph.node(reader).is(ops::batch_norm_op) || graph.node(reader).is(ops::batch_norm_statistics_op);
  });
  if (!normed) return {};
  const Support support = carries_statistics(graph, node, device);
  return support.ok ? "" : "without its batch norm's statistics: cudnn: " + support.reason;
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  const LibraryConvolution conv = *convolution_of(graph, group);
  if (is_empty(conv.spec)) return make_empty_sum(graph, device, conv.roles.out);
  if (is_folded(group)) return make_folded_convolution(graph, group, device);
  if (is_with_statistics(group)) return make_convolution_statistics(graph, group, device);
  auto kernel = make_library_kernel(graph, device, device.libraries.find(conv.spec).operation, conv.roles);
  kernel->why = without_statistics(graph, group, device);
  return kernel;
}

constexpr Candidate candidates[] = {{"cudnn", supports, make}};

}  // namespace

std::span<const Candidate> convolutions() { return candidates; }

}  // namespace fusetape::backends::cuda
