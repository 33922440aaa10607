#include "backends/cpu/tune/timed_convolution.hpp"

#include <omp.h>

#include <algorithm>
#include <bit>

#include "backends/cpu/conv/onednn.hpp"
#include "backends/cpu/conv/rows/row_convolution.hpp"
#include "backends/cpu/conv/winograd_candidate.hpp"

namespace fusetape::backends::cpu::tune {

using namespace conv;  // NOLINT(google-build-using-namespace): all that is timed

namespace {

using plan::Convolution;
using plan::Graph;
using plan::GraphNode;
using plan::TunedKernel;

constexpr double quick_flops = 1e8;  ///< a thread, of one run: a millisecond of a direct convolution
/// On few pixels, Winograd spends most of its time on the weights, which says nothing of larger batches: so
/// many pixels are timed, or the batch. Where that takes a thread longer than 12 ms, the built-in order
/// knows more than a verdict from fewer would.
constexpr std::int64_t enough_pixels = 1024;
constexpr double patient_flops = 1.25e9;

/// The images and filter of a convolution, or of one of its gradients.
Convolution roles_of(const GraphNode& conv) { return plan::convolution_of(conv, 0); }

std::vector<int> values_of(const GraphNode& conv) {
  return {conv.inputs[0], conv.inputs[1], conv.outputs[0]};
}

/// So many that their verdict holds for larger batches, too; none: that would take too long.
std::int64_t images_to_time(const Graph& graph, const GraphNode& conv, std::int64_t most) {
  const Shape& y = graph.value(roles_of(conv).y).shape;
  const double threads = omp_get_max_threads(), image = flops_of_image(graph, conv);
  const auto quick =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(quick_flops * threads / image), 1, most);
  if (!winograd_computes(graph, conv).ok) return quick;
  const std::int64_t pixels = y[1] * y[2];
  const std::int64_t images = std::max(quick, std::min(most, (enough_pixels + pixels - 1) / pixels));
  const bool quick_enough = images == quick || static_cast<double>(images) * image <= patient_flops * threads;
  return quick_enough ? images : 0;
}

std::string forced(ConvAlgorithm algorithm) {
  if (algorithm == ConvAlgorithm::automatic) return "";
  return algorithm == ConvAlgorithm::direct ? ", direct" : ", Winograd";
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
  return key + setting_of(conv) + forced(graph.conv_algorithm);
}

/// What oneDNN would be asked for.
ConvDescription direct_convolution(const Graph& graph) {
  return choose_arithmetic(describe_convolution(graph, roles_of(graph.nodes[0])));
}

/// By name, for "the built-in choice" may be another in a larger batch. Throws dnnl::error where there is
/// none.
Contender direct_contender(const Graph& graph) {
  return {{.kernel = implementation_of(direct_convolution(graph))}, "direct"};
}

std::vector<Contender> other_implementations(const Graph& graph, const std::string& winner) {
  std::vector<Contender> others;
  for (const std::string& name : implementations_of(direct_convolution(graph))) {
    if (name != winner) others.push_back({{.kernel = name}, name});
  }
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

double flops_of_image(const Graph& graph, const GraphNode& conv) {
  const Convolution roles = roles_of(conv);
  const Shape& y = graph.value(roles.y).shape;
  return 2.0 * static_cast<double>(y[1] * y[2]) * static_cast<double>(graph.value(roles.w).elements());
}

std::string setting_of(const GraphNode& conv) {
  const auto a = conv.attrs.as<core::ConvAttrs>();
  const auto pair = [](std::int64_t h, std::int64_t w) {
    return std::to_string(h) + "x" + std::to_string(w);
  };
  return ", stride " + pair(a.stride_h, a.stride_w) + ", pad " + pair(a.pad_h, a.pad_w) + ", dilation " +
         pair(a.dilation_h, a.dilation_w) + ", groups " + std::to_string(a.groups) + ", threads " +
         std::to_string(omp_get_max_threads());
}

std::optional<TimedConvolution> TimedConvolution::of(const Graph& graph, const GraphNode& conv) {
  if (conv.dead || !plan::conv_pass(*conv.op)) return std::nullopt;
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
  timed.images_ = images_to_time(graph, conv, kind);
  if (timed.images_ == 0) return std::nullopt;
  timed.flops_ = image * static_cast<double>(timed.images_);
  timed.graph_.conv_algorithm = graph.conv_algorithm;
  GraphNode node = conv;
  node.inputs = {0, 1};
  node.outputs = {2};
  node.tuned = nullptr;
  const std::vector<int> values = values_of(conv);
  for (std::size_t i = 0; i < values.size(); ++i) {
    plan::GraphValue value{.shape = graph.value(values[i]).shape, .dtype = graph.value(values[i]).dtype};
    if (static_cast<int>(i) != roles_of(node).w) value.shape[0] = timed.images_;
    value.producer = i == 2 ? 0 : -1;
    timed.graph_.values.push_back(std::move(value));
  }
  timed.graph_.nodes.push_back(std::move(node));
  timed.graph_.values[2].keep = true;
  timed.group_ = plan::single_group(timed.graph_, 0);
  timed.key_ = key_of(timed.graph_);
  return timed;
}

std::vector<Contender> TimedConvolution::algorithms() {
  const Contender winograd{{.kernel = "winograd"}, "Winograd"};
  node().tuned = nullptr;
  const bool by_shape = winograd_serves(graph_, node()).ok;
  if (by_shape && graph_.conv_algorithm == ConvAlgorithm::winograd) return {winograd};
  if (rows_compute(graph_, node())) {
    const Contender rows{{.kernel = by_rows}, "by rows"};
    Contender direct;
    if (!supported_by_onednn([&] { direct = direct_contender(graph_); }).ok) return {rows};
    return rows_serve(graph_, node()).ok ? std::vector{rows, direct} : std::vector{direct, rows};
  }
  const bool promising =
      winograd_computes(graph_, node()).ok && winograd_is_accurate(graph_, node()).ok &&
      transformed_channels(node(), *winograd_problem(graph_, node())) >= least_winograd_channels;
  if (!promising) return {direct_contender(graph_)};
  Contender direct;
  if (!supported_by_onednn([&] { direct = direct_contender(graph_); }).ok) return {winograd};
  return by_shape ? std::vector{winograd, direct} : std::vector{direct, winograd};
}

std::vector<Contender> TimedConvolution::variants(const Contender& winner) {
  if (winner.kernel.kernel == by_rows) return {};
  if (winner.kernel.kernel != "winograd") return other_implementations(graph_, winner.kernel.kernel);
  const winograd::Problem problem = *winograd_problem(graph_, node());
  const int threads = omp_get_max_threads();
  const ConvPass pass = roles_of(node()).pass;
  if (pass == ConvPass::grad_weight) return other_blockings(winograd_gradient_blockings(problem, threads));
  const bool turned = pass == ConvPass::grad_input;
  return other_blockings(winograd_blockings(turned ? problem.mirrored() : problem, threads));
}

bool TimedConvolution::offers(const TunedKernel& kernel) {
  if (kernel.kernel == "winograd") {
    if (!winograd_computes(graph_, node()).ok) return false;
    const std::vector<Contender> others = variants({kernel, ""});
    return kernel.blocking.empty() || std::any_of(others.begin(), others.end(), [&](const Contender& other) {
             return other.kernel.blocking == kernel.blocking;
           });
  }
  if (kernel.kernel == by_rows) return rows_compute(graph_, node());
  std::string obeyed;
  const Support direct = supported_by_onednn([&] {
    ConvDescription conv = direct_convolution(graph_);
    conv.implementation = kernel.kernel;
    obeyed = implementation_of(conv);
  });
  return direct.ok && obeyed == kernel.kernel;
}

std::unique_ptr<Kernel> TimedConvolution::make(const TunedKernel& kernel, Backend& backend) {
  node().tuned = std::make_shared<const TunedKernel>(kernel);
  return backend.compile(graph_, group_);
}

}  // namespace fusetape::backends::cpu::tune
