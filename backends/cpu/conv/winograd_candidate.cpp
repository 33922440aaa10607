#include "backends/cpu/conv/winograd_candidate.hpp"

#include <omp.h>

#include <algorithm>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/conv/folded_weights.hpp"
#include "backends/cpu/conv/winograd/accuracy.hpp"
#include "backends/cpu/conv/winograd/both_gradients.hpp"
#include "backends/cpu/conv/winograd/tiles.hpp"
#include "core/numerics/number_text.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::conv {
namespace {

using plan::Convolution;
using plan::ConvPass;
using plan::Graph;
using plan::GraphNode;
using plan::Group;

Support refuse(std::string reason) { return {.ok = false, .reason = std::move(reason)}; }

/// Of a folded norm's convolution: the bias goes into the folded one, whatever its dtype.
Convolution without_bias(Convolution conv) {
  conv.bias = -1;
  return conv;
}

bool image(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

/// Everything of an image's size, and w, has the image's dtype; a weight gradient may have the other. Values
/// per channel are f32: a bias is looked at, the batch norm ops record no others beside f32 and bf16.
Support check_types(const Graph& graph, const Convolution& conv) {
  const bool is_grad_weight = conv.pass == ConvPass::grad_weight;
  const DType dtype = graph.value(conv.pass == ConvPass::grad_input ? conv.y : conv.x).dtype;
  std::vector<int> operands{conv.z, conv.mask, conv.masked_by.x, conv.sums.x, conv.read_x, conv.x, conv.y};
  if (!is_grad_weight) operands.push_back(conv.w);
  for (const plan::Prologue* read : {&conv.before_x, &conv.before_y}) {
    operands.insert(operands.end(), {read->g, read->z, read->norm[0].x, read->norm[1].x});
  }
  for (const int value : operands) {
    if (value >= 0 && graph.value(value).dtype != dtype) return refuse("operands of several dtypes");
  }
  for (const int dw : {is_grad_weight ? conv.w : -1, conv.dw}) {
    if (dw >= 0 && !image(graph.value(dw).dtype)) return refuse("f32 and bf16 only");
  }
  if (conv.bias >= 0 && graph.value(conv.bias).dtype != DType::f32) return refuse("a bias that is not f32");
  return {};
}

bool is_relu_or_none(const core::OpDef* activation) {
  return activation == nullptr || activation == &ops::relu_op;
}

/// Whether the transforms have such a form (winograd::Source).
bool is_offered(const plan::Prologue& prologue) {
  const bool is_sum = prologue.norms == 2 || prologue.z >= 0;
  return is_relu_or_none(prologue.activation) && (prologue.activation != nullptr || !is_sum);
}

Support supports(const Graph& graph, const Group& group) {
  const auto* conv = group.as<Convolution>();
  if (conv == nullptr || conv->before_activation >= 0) return refuse("");
  if (!conv->carries() || !winograd_is_in_question(graph, graph.node(conv->node))) {
    if (Support serves = winograd_serves(graph, graph.node(conv->node)); !serves.ok) return serves;
  }
  if (!is_relu_or_none(conv->activation) || conv->gradient != nullptr || !is_offered(conv->before_x) ||
      !is_offered(conv->before_y))
    return refuse("no activation but relu, and no sum without it");
  if (conv->weights_node >= 0) {
    if (Support both = winograd_serves_both(graph, *conv); !both.ok) return both;
  }
  if (!group.writes(conv->result())) return refuse("nobody reads the convolution's result, only its sums");
  if (conv->folded.present()) {
    if (Support folds = supports_folding(graph, conv->folded); !folds.ok) return folds;
    return check_types(graph, without_bias(*conv));
  }
  return check_types(graph, *conv);
}

/// Measured against oneDNN with AVX-512 and its bf16 instructions, one thread: 8 to 64 channels, images of 2
/// to 32 pixels a side, batches of 1 to 128. Within these limits Winograd takes 0.3 to 1.0 of the time in f32
/// and 0.4 to 1.3 in bf16, where the norms that it carries pay for the rest; beyond, mostly more than 1.
Support pays_by_shape(const GraphNode& conv, const winograd::Problem& problem, DType dtype) {
  const bool f32 = dtype == DType::f32;
  const ConvPass pass = *plan::conv_pass(*conv.op);
  const bool is_grad_input = pass == ConvPass::grad_input, is_grad_weight = pass == ConvPass::grad_weight;
  const std::int64_t channels = transformed_channels(conv, problem);
  const std::int64_t least_channels = !f32 ? 16 : is_grad_weight ? 12 : least_winograd_channels;
  if (channels < least_channels) return refuse("fewer than " + std::to_string(least_channels) + " channels");
  const std::int64_t rows = is_grad_input ? problem.height : problem.out_height();
  const std::int64_t columns = is_grad_input ? problem.width : problem.out_width();
  if (rows < winograd::tile_size || columns < winograd::tile_size)
    return refuse("images smaller than a tile");
  const auto tiles = [](std::int64_t extent) { return winograd::divided_up(extent, winograd::tile_size); };
  constexpr std::int64_t tile_pixels = winograd::tile_size * winograd::tile_size;
  const double filled =
      static_cast<double>(rows * columns) / static_cast<double>(tiles(rows) * tiles(columns) * tile_pixels);
  if (filled < (f32 ? 0.5 : 0.75)) return refuse("tiles of 4×4 pixels that are mostly padding");
  // The weights are transformed in every run.
  if (problem.batch * rows * columns < (f32 ? 4 : 8) * tile_pixels) return refuse("too few pixels");
  return {};
}

Support within(double error, double stated, const std::string& where) {
  if (error <= stated) return {};
  const auto text = [](double number, int digits) {
    return core::number_text(number, std::chars_format::scientific, digits);
  };
  return refuse("its error " + where + " is about " + text(error, 2) + " of the largest value, above " +
                text(stated, 0));
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  const bool is_grad_weight = group.as<Convolution>()->pass == ConvPass::grad_weight;
  return is_grad_weight ? make_winograd_grad_weight(graph, group) : make_winograd_convolution(graph, group);
}

constexpr Candidate candidates[] = {{"winograd", supports, make}};

}  // namespace

std::optional<winograd::Problem> winograd_problem(const Graph& graph, const GraphNode& conv) {
  const auto a = conv.attrs.as<core::ConvAttrs>();
  const bool plain = a.kernel_h == 3 && a.kernel_w == 3 && a.stride_h == 1 && a.stride_w == 1 &&
                     a.dilation_h == 1 && a.dilation_w == 1 && a.groups == 1;
  if (!plain || a.pad_h != a.pad_w || a.pad_h > 1) return std::nullopt;
  const Convolution roles = plan::convolution_of(conv, -1);
  const Shape &x = graph.value(roles.x).shape, &w = graph.value(roles.w).shape;
  return winograd::Problem{.batch = x[0],
                           .height = x[1],
                           .width = x[2],
                           .in = x[3],
                           .out = w[0],
                           .pad = static_cast<int>(a.pad_h)};
}

std::int64_t transformed_channels(const GraphNode& conv, const winograd::Problem& problem) {
  switch (*plan::conv_pass(*conv.op)) {
    case ConvPass::grad_weight:
      return std::min(problem.in, problem.out);
    case ConvPass::grad_input:
      return problem.out;
    case ConvPass::forward:
      break;
  }
  return problem.in;
}

Support winograd_computes(const Graph& graph, const GraphNode& conv) {
  if (!plan::conv_pass(*conv.op)) return refuse("");
  if (graph.conv_algorithm == ConvAlgorithm::direct) return refuse("");
  const std::optional<winograd::Problem> problem = winograd_problem(graph, conv);
  if (!problem.has_value()) return refuse("");
  for (const int value : conv.inputs) {
    if (!image(graph.value(value).dtype)) return refuse("f32 and bf16 only");
  }
  if (problem->batch == 0 || problem->in == 0 || problem->out == 0 || problem->out_height() < 1 ||
      problem->out_width() < 1)
    return refuse("an empty tensor");
  return {};
}

Support winograd_is_accurate(const Graph& graph, const GraphNode& conv) {
  const winograd::Problem problem = *winograd_problem(graph, conv);
  const ConvPass pass = *plan::conv_pass(*conv.op);
  if (pass == ConvPass::grad_weight) {
    // Of every way to cut it: the verdict does not depend on which one was timed to be the fastest.
    const int threads = omp_get_max_threads();
    double error = 0;
    for (const winograd::GradientBlocking& blocking : winograd_gradient_blockings(problem, threads)) {
      error = std::max(error, winograd::weight_gradient_error(problem, blocking, threads));
    }
    return within(error, winograd_gradient_error,
                  "over " + std::to_string(winograd::Tiles(problem).count()) + " tiles");
  }
  const bool is_grad_input = pass == ConvPass::grad_input;
  const std::int64_t channels = is_grad_input ? problem.out : problem.in;
  return within(winograd::convolution_error(channels),
                is_grad_input ? winograd_gradient_error : winograd_error,
                "over " + std::to_string(channels) + " channels");
}

Support winograd_serves(const Graph& graph, const GraphNode& conv) {
  Support computes = winograd_computes(graph, conv);
  if (!computes.ok || graph.conv_algorithm == ConvAlgorithm::winograd) return computes;
  if (Support accurate = winograd_is_accurate(graph, conv); !accurate.ok) return accurate;
  if (conv.tuned != nullptr && !conv.tuned->kernel.empty())
    return conv.tuned->kernel == "winograd" ? Support{} : refuse(conv.tuned->why);
  return pays_by_shape(conv, *winograd_problem(graph, conv), graph.value(conv.inputs[0]).dtype);
}

bool winograd_is_in_question(const Graph& graph, const GraphNode& conv) {
  const bool lost = conv.tuned != nullptr && !conv.tuned->kernel.empty() && conv.tuned->kernel != "winograd";
  return lost && !conv.apart && winograd_computes(graph, conv).ok && winograd_is_accurate(graph, conv).ok &&
         pays_by_shape(conv, *winograd_problem(graph, conv), graph.value(conv.inputs[0]).dtype).ok;
}

Support winograd_serves_both(const Graph& graph, const Convolution& conv) {
  const winograd::Problem problem = *winograd_problem(graph, graph.node(conv.node));
  constexpr std::int64_t most_pairs = 64 * 64,
                         least_tiles = 16;  // the latter of each thread: it takes all channels
  if (problem.in * problem.out > most_pairs) return refuse("");
  if (graph.conv_algorithm != ConvAlgorithm::winograd) {
    const int threads = omp_get_max_threads();
    if (winograd::Tiles(problem.mirrored()).count() < least_tiles * threads) return refuse("");
    const winograd::GradientBlocking cut{.tiles = winograd::both_gradients_blocking.tiles};
    if (winograd::weight_gradient_error(problem, cut, threads) > winograd_gradient_error) return refuse("");
  }
  const GraphNode& weights = graph.node(conv.weights_node);
  if (conv.carries() && winograd_is_in_question(graph, weights)) return {};
  return winograd_serves(graph, weights);
}

bool winograd_carries(const Graph& graph, const GraphNode& conv, const core::OpDef* activation) {
  return is_relu_or_none(activation) &&
         (winograd_serves(graph, conv).ok || winograd_is_in_question(graph, conv));
}

std::vector<winograd::Blocking> winograd_blockings(const winograd::Problem& problem, int threads) {
  const winograd::Blocking built_in = winograd::default_blocking(problem, threads);
  std::vector<winograd::Blocking> blockings{built_in};
  for (const std::int64_t tiles : {built_in.tiles / 2, built_in.tiles * 2}) {
    if (tiles >= 8) blockings.push_back({.tiles = tiles, .out_parts = built_in.out_parts});
  }
  return blockings;
}

std::vector<winograd::GradientBlocking> winograd_gradient_blockings(const winograd::Problem& problem,
                                                                    int threads) {
  const winograd::GradientBlocking built_in = winograd::default_gradient_blocking(problem, threads);
  std::vector<winograd::GradientBlocking> blockings{built_in};
  if (built_in.by_channels) {
    blockings.push_back({.tiles = 32});
    return blockings;
  }
  blockings.push_back({.tiles = built_in.tiles >= 32 ? built_in.tiles / 2 : built_in.tiles * 2});
  blockings.push_back({.tiles = built_in.tiles, .passes = 3});
  return blockings;
}

std::vector<std::int64_t> words_of(const winograd::Blocking& blocking) {
  return {blocking.tiles, blocking.out_parts};
}

std::vector<std::int64_t> words_of(const winograd::GradientBlocking& blocking) {
  return {blocking.tiles, blocking.by_channels ? 1 : 0, blocking.passes, blocking.chunks};
}

std::span<const Candidate> winograd_convolutions() { return candidates; }

}  // namespace fusetape::backends::cpu::conv
