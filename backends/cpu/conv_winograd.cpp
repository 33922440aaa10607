#include "backends/cpu/conv_winograd.hpp"

#include <omp.h>

#include <algorithm>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/folded_weights.hpp"
#include "backends/cpu/winograd/accuracy.hpp"
#include "backends/cpu/winograd/tiles.hpp"
#include "core/number_text.hpp"
#include "core/op_list.hpp"
#include "core/plan/norm_roles.hpp"

namespace fusetape::backends::cpu {
namespace {

using plan::Carried;
using plan::Graph;
using plan::GraphNode;
using plan::Group;
using plan::Pattern;

Support refuse(std::string reason) { return {.ok = false, .reason = std::move(reason)}; }

/// A plain convolution or gradient: its operands by name.
Carried plain_roles(const Graph& graph, int conv) {
  const GraphNode& node = graph.node(conv);
  Carried parts{.conv_node = conv};
  if (node.is(ops::conv2d_op)) {
    parts.x.value = node.inputs[0];
    parts.w = node.inputs[1];
  } else if (node.is(ops::conv2d_grad_input_op)) {
    parts.g.value = node.inputs[0];
    parts.w = node.inputs[1];
  } else {
    parts.x.value = node.inputs[0];
    parts.g.value = node.inputs[1];
  }
  parts.y = node.outputs[0];
  return parts;
}

bool writes(const Group& group, int value) {
  return std::find(group.outputs.begin(), group.outputs.end(), value) != group.outputs.end();
}

bool image(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

/// Everything of an image's size, and w, has the image's dtype; a weight gradient may have the other. Values
/// per channel are f32: a bias is looked at, the batch norm ops record no others beside f32 and bf16.
Support check_types(const Graph& graph, const WinogradRoles& roles) {
  const Carried& parts = roles.parts;
  const DType dtype = graph.value(parts.x.value >= 0 ? parts.x.value : parts.g.value).dtype;
  std::vector<int> operands{parts.z, parts.mask, parts.masked_by.x, parts.sums.x, parts.w};
  for (const plan::Prologue* read : {&parts.x, &parts.g}) {
    operands.insert(operands.end(), {read->value, read->g, read->z, read->norm[0].x, read->norm[1].x});
  }
  for (const int value : operands) {
    if (value >= 0 && graph.value(value).dtype != dtype) return refuse("operands of several dtypes");
  }
  const bool is_grad_weight = parts.w < 0;
  if (!is_grad_weight && graph.value(parts.y).dtype != dtype) return refuse("a result of another dtype");
  if (is_grad_weight && !image(graph.value(parts.y).dtype)) return refuse("f32 and bf16 only");
  if (parts.bias >= 0 && graph.value(parts.bias).dtype != DType::f32) return refuse("a bias that is not f32");
  return {};
}

Support supports(const Graph& graph, const Group& group) {
  const std::optional<WinogradRoles> roles = winograd_roles(graph, group);
  if (!roles.has_value()) return refuse("");
  Support serves = winograd_serves(graph, graph.node(roles->parts.conv_node));
  if (!serves.ok) return serves;
  if (!writes(group, roles->parts.y)) return refuse("nobody reads the convolution's result, only its sums");
  if (roles->folded != nullptr) {
    if (Support folds = supports_folding(graph, *roles->folded); !folds.ok) return folds;
  }
  return check_types(graph, *roles);
}

/// Measured against oneDNN with AVX-512 and its bf16 instructions, one thread: 8 to 64 channels, images of 2
/// to 32 pixels a side, batches of 1 to 128. Within these limits Winograd takes 0.3 to 1.0 of the time in f32
/// and 0.4 to 1.3 in bf16, where the norms that it carries pay for the rest; beyond, mostly more than 1.
Support pays_by_shape(const GraphNode& conv, const winograd::Problem& problem, DType dtype) {
  const bool f32 = dtype == DType::f32;
  const bool is_grad_input = conv.is(ops::conv2d_grad_input_op);
  const bool is_grad_weight = conv.is(ops::conv2d_grad_weight_op);
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
  const bool is_grad_weight = winograd_roles(graph, group)->parts.w < 0;
  return is_grad_weight ? make_winograd_grad_weight(graph, group) : make_winograd_convolution(graph, group);
}

constexpr Candidate candidates[] = {{"winograd", supports, make}};

}  // namespace

std::optional<WinogradRoles> winograd_roles(const Graph& graph, const Group& group) {
  switch (group.pattern) {
    case Pattern::single: {
      if (!is_convolution(graph.node(group.nodes[0]))) return std::nullopt;
      return WinogradRoles{.parts = plain_roles(graph, group.nodes[0])};
    }
    case Pattern::convolution: {
      const plan::Convolution& conv = group.conv;
      if (conv.before_relu >= 0) return std::nullopt;
      WinogradRoles roles{.parts = plain_roles(graph, conv.conv_node), .relu = conv.relu};
      if (conv.norm_node >= 0) {
        roles.folded = &conv;
      } else {
        roles.parts.bias = conv.bias;
      }
      roles.parts.z = conv.z;
      roles.parts.y = conv.y;
      return roles;
    }
    case Pattern::conv_grad_input_add: {
      WinogradRoles roles{.parts = plain_roles(graph, group.conv_grad_add.conv_node)};
      roles.parts.z = group.conv_grad_add.other;
      roles.parts.y = group.conv_grad_add.dx;
      return roles;
    }
    case Pattern::conv_grad_weight_cast: {
      WinogradRoles roles{.parts = plain_roles(graph, group.conv_grad_cast.conv_node)};
      roles.parts.y = group.conv_grad_cast.dw;
      return roles;
    }
    case Pattern::carried: {
      WinogradRoles roles{.parts = group.carried};
      Carried& parts = roles.parts;
      const Carried plain = plain_roles(graph, parts.conv_node);
      if (!parts.x.present()) parts.x.value = plain.x.value;
      if (!parts.g.present()) parts.g.value = plain.g.value;
      drop_unwritten(graph, group, parts.statistics);
      drop_unwritten(graph, group, parts.sums);
      return roles;
    }
    default:
      return std::nullopt;
  }
}

std::optional<winograd::Problem> winograd_problem(const Graph& graph, const GraphNode& conv) {
  const auto a = conv.attrs.as<core::ConvAttrs>();
  const bool plain = a.kernel_h == 3 && a.kernel_w == 3 && a.stride_h == 1 && a.stride_w == 1 &&
                     a.dilation_h == 1 && a.dilation_w == 1 && a.groups == 1;
  if (!plain || a.pad_h != a.pad_w || a.pad_h > 1) return std::nullopt;
  const bool is_grad_input = conv.is(ops::conv2d_grad_input_op);
  const bool is_grad_weight = conv.is(ops::conv2d_grad_weight_op);
  const Shape& x = graph.value(is_grad_input ? conv.outputs[0] : conv.inputs[0]).shape;
  const Shape& w = graph.value(is_grad_weight ? conv.outputs[0] : conv.inputs[1]).shape;
  return winograd::Problem{.batch = x[0],
                           .height = x[1],
                           .width = x[2],
                           .in = x[3],
                           .out = w[0],
                           .pad = static_cast<int>(a.pad_h)};
}

std::int64_t transformed_channels(const GraphNode& conv, const winograd::Problem& problem) {
  if (conv.is(ops::conv2d_grad_weight_op)) return std::min(problem.in, problem.out);
  return conv.is(ops::conv2d_grad_input_op) ? problem.out : problem.in;
}

bool is_convolution(const GraphNode& node) {
  return node.is(ops::conv2d_op) || node.is(ops::conv2d_grad_input_op) || node.is(ops::conv2d_grad_weight_op);
}

Support winograd_computes(const Graph& graph, const GraphNode& conv) {
  if (!is_convolution(conv)) return refuse("");
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
  if (conv.is(ops::conv2d_grad_weight_op)) {
    // Of every way to cut it: the verdict does not depend on which one was timed to be the fastest.
    const int threads = omp_get_max_threads();
    double error = 0;
    for (const winograd::GradientBlocking& blocking : winograd_gradient_blockings(problem, threads)) {
      error = std::max(error, winograd::weight_gradient_error(problem, blocking, threads));
    }
    return within(error, winograd_gradient_error,
                  "over " + std::to_string(winograd::Tiles(problem).count()) + " tiles");
  }
  const bool is_grad_input = conv.is(ops::conv2d_grad_input_op);
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

}  // namespace fusetape::backends::cpu
