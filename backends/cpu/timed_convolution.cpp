#include "backends/cpu/timed_convolution.hpp"

#include <omp.h>

#include <algorithm>
#include <bit>

#include "backends/cpu/conv_onednn.hpp"
#include "backends/cpu/conv_winograd.hpp"

namespace fusetape::backends::cpu {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::TunedKernel;

constexpr std::int64_t most_images = 32;
constexpr double least_flops = 1e6;  ///< 10 µs: no choice is worth the time to make it
constexpr double most_flops = 1e8;   ///< a thread, of one run: a millisecond of a direct convolution

std::vector<int> values_of(const GraphNode& conv) {
  return {conv.inputs[0], conv.inputs[1], conv.outputs[0]};
}

bool is_weights(const GraphNode& conv, std::size_t operand) {
  return operand == (conv.op->is("conv2d_grad_weight") ? 2u : 1u);
}

double flops_of_image(const Graph& graph, const GraphNode& conv) {
  const bool input_gradient = conv.op->is("conv2d_grad_input"), weights = conv.op->is("conv2d_grad_weight");
  const Shape& y = graph.value(input_gradient ? conv.inputs[0]
                               : weights      ? conv.inputs[1]
                                              : conv.outputs[0])
                       .shape;
  const Shape& w = graph.value(weights ? conv.outputs[0] : conv.inputs[1]).shape;
  return 2.0 * static_cast<double>(y[1] * y[2]) * static_cast<double>(w.elements());
}

std::string text(const Shape& shape) {
  std::string result;
  for (const std::int64_t extent : shape) result += (result.empty() ? "" : "x") + std::to_string(extent);
  return result;
}

std::string key_of(const Graph& graph) {
  const GraphNode& conv = graph.nodes[0];
  std::string key(conv.op->name);
  for (const plan::GraphValue& value : graph.values)
    key += " " + text(value.shape) + " " + std::string(name_of(value.dtype));
  const auto a = conv.attrs.as<core::ConvAttrs>();
  const auto pair = [](std::int64_t h, std::int64_t w) {
    return std::to_string(h) + "x" + std::to_string(w);
  };
  key += ", stride " + pair(a.stride_h, a.stride_w) + ", pad " + pair(a.pad_h, a.pad_w) + ", dilation " +
         pair(a.dilation_h, a.dilation_w) + ", groups " + std::to_string(a.groups);
  key += ", threads " + std::to_string(omp_get_max_threads());
  return graph.conv_algorithm == ConvAlgorithm::direct ? key + ", direct" : key;
}

ConvPass pass_of(const GraphNode& conv) {
  if (conv.op->is("conv2d_grad_input")) return ConvPass::grad_input;
  return conv.op->is("conv2d_grad_weight") ? ConvPass::grad_weight : ConvPass::forward;
}

std::vector<Contender> other_implementations(const Graph& graph) {
  const ConvPass pass = pass_of(graph.nodes[0]);
  ConvRoles roles{.pass = pass, .node = 0, .x = 0, .w = 1, .y = 2};
  if (pass == ConvPass::grad_input) roles = {.pass = pass, .node = 0, .x = 2, .w = 1, .y = 0};
  if (pass == ConvPass::grad_weight) roles = {.pass = pass, .node = 0, .x = 0, .w = 2, .y = 1};
  std::vector<std::string> names = implementations_of(choose_arithmetic(describe_convolution(graph, roles)));
  std::vector<Contender> others;
  for (std::size_t i = 1; i < names.size(); ++i) others.push_back({{.kernel = names[i]}, names[i]});
  return others;
}

template <class Blocking>
std::vector<Contender> other_blockings(const std::vector<Blocking>& blockings) {
  std::vector<Contender> others;
  for (std::size_t i = 1; i < blockings.size(); ++i) {
    const std::vector<std::int64_t> words = words_of(blockings[i]);
    std::string label = "blocks of";
    for (const std::int64_t word : words) label += " " + std::to_string(word);
    others.push_back({{.kernel = "winograd", .blocking = words}, label});
  }
  return others;
}

}  // namespace

std::optional<TimedConvolution> TimedConvolution::of(const Graph& graph, const GraphNode& conv) {
  if (conv.dead || !is_convolution(conv)) return std::nullopt;
  for (const int id : values_of(conv)) {
    const plan::GraphValue& value = graph.value(id);
    const bool typed = value.dtype == DType::f32 || value.dtype == DType::bf16;
    if (!typed || value.elements() == 0) return std::nullopt;
  }
  const auto batch = static_cast<std::uint64_t>(graph.value(conv.inputs[0]).shape[0]);
  const double image = flops_of_image(graph, conv);
  if (image * static_cast<double>(batch) < least_flops) return std::nullopt;

  TimedConvolution timed;
  // Batches of a similar size are one kind.
  const auto kind = std::min<std::int64_t>(most_images, static_cast<std::int64_t>(std::bit_ceil(batch)));
  const auto quick = static_cast<std::int64_t>(most_flops * omp_get_max_threads() / image);
  timed.images_ = std::clamp<std::int64_t>(quick, 1, kind);
  timed.flops_ = image * static_cast<double>(timed.images_);
  timed.graph_.conv_algorithm = graph.conv_algorithm;
  GraphNode node = conv;
  node.inputs = {0, 1};
  node.outputs = {2};
  node.tuned = nullptr;
  const std::vector<int> values = values_of(conv);
  for (std::size_t i = 0; i < values.size(); ++i) {
    plan::GraphValue value{.shape = graph.value(values[i]).shape, .dtype = graph.value(values[i]).dtype};
    if (!is_weights(conv, i)) value.shape[0] = timed.images_;
    value.producer = i == 2 ? 0 : -1;
    timed.graph_.values.push_back(std::move(value));
  }
  timed.graph_.nodes.push_back(std::move(node));
  timed.group_.name = conv.op->name;
  timed.group_.nodes = {0};
  timed.group_.inputs = {0, 1};
  timed.group_.outputs = {2};
  timed.key_ = key_of(timed.graph_);
  return timed;
}

bool TimedConvolution::winograd(const TunedKernel& kernel) {
  node().tuned = std::make_shared<const TunedKernel>(kernel);
  return winograd_serves(graph_, node()).ok;
}

std::vector<Contender> TimedConvolution::algorithms() {
  const bool winograd_first = winograd({});
  std::vector<Contender> contenders{{{}, winograd_first ? "Winograd" : "direct"}};
  if (winograd_first) {
    contenders.push_back({{.kernel = "direct"}, "direct"});
  } else if (winograd_computes(graph_, node()).ok) {
    // Of fewer channels, chunks of 16 are more padding than Winograd can make up for.
    const winograd::Problem problem = *winograd_problem(graph_, node());
    const std::int64_t channels = node().op->is("conv2d_grad_input") ? problem.out : problem.in;
    if (channels >= 8) contenders.push_back({{.kernel = "winograd"}, "Winograd"});
  }
  return contenders;
}

std::vector<Contender> TimedConvolution::variants(const Contender& winner) {
  if (!winograd(winner.kernel)) return other_implementations(graph_);
  const winograd::Problem problem = *winograd_problem(graph_, node());
  const int threads = omp_get_max_threads();
  if (node().op->is("conv2d_grad_weight"))
    return other_blockings(winograd_gradient_blockings(problem, threads));
  const bool turned = node().op->is("conv2d_grad_input");
  return other_blockings(winograd_blockings(turned ? problem.mirrored() : problem, threads));
}

std::unique_ptr<Kernel> TimedConvolution::make(const TunedKernel& kernel, Backend& backend) {
  node().tuned = std::make_shared<const TunedKernel>(kernel);
  return backend.compile(graph_, group_);
}

}  // namespace fusetape::backends::cpu
