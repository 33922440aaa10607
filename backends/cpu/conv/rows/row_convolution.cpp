#include "backends/cpu/conv/rows/row_convolution.hpp"

#include <omp.h>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/conv/winograd_candidate.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::conv {
namespace {

using plan::Convolution;
using plan::ConvPass;
using plan::Graph;
using plan::GraphNode;
using plan::Group;
using rows::Form;

Support refuse(std::string reason) { return {.ok = false, .reason = std::move(reason)}; }

bool image(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

/// Images and filter of one dtype, a weight gradient of that or f32; a bias is f32, and so is what belongs to
/// a norm's channel.
Support check_types(const Graph& graph, const Convolution& conv) {
  const bool is_grad_weight = conv.pass == ConvPass::grad_weight;
  const DType dtype = graph.value(conv.pass == ConvPass::grad_input ? conv.y : conv.x).dtype;
  if (!image(dtype)) return refuse("f32 and bf16 only");
  std::vector<int> operands{conv.x, conv.y, conv.z, conv.mask, conv.masked_by.x, conv.sums.x, conv.read_x};
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

Support supports(const Graph& graph, const Group& group) {
  const auto* conv = group.as<Convolution>();
  if (conv == nullptr || !rows_compute(graph, graph.node(conv->node))) return refuse("");
  if (graph.node(conv->node).apart && conv->carries())
    return refuse(
        "kernels of their own are faster: by what was timed, or of bf16 by what the CPU multiplies");
  const bool patches = rows::form_of(graph, graph.node(conv->node)) == Form::patches;
  if (patches || !conv->carries()) {
    if (Support serves = rows_serve(graph, graph.node(conv->node)); !serves.ok) return serves;
  }
  if (conv->folded.present()) return refuse("");
  if (patches && conv->weights_node >= 0) return refuse("patches are of one gradient");
  if (conv->activation != nullptr || conv->before_activation >= 0)
    return refuse("no activation behind the convolution");
  if (!group.writes(conv->result())) return refuse("nobody reads the convolution's result, only its sums");
  return check_types(graph, *conv);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.as<Convolution>()->node);
  std::unique_ptr<Kernel> kernel;
  switch (rows::form_of(graph, node)) {
    case Form::pointwise:
      kernel = rows::make_pointwise(graph, group);
      break;
    case Form::depthwise:
      kernel = rows::make_depthwise(graph, group);
      break;
    default:
      kernel = rows::make_patches(graph, group);
  }
  if (node.tuned != nullptr && node.tuned->kernel == by_rows) kernel->why = node.tuned->why;
  return kernel;
}

constexpr Candidate candidates[] = {{"highway:convolution by rows", supports, make}};

}  // namespace

Form rows::form_of(const Graph& graph, const GraphNode& conv) {
  const auto a = conv.attrs.as<core::ConvAttrs>();
  const Convolution roles = plan::convolution_of(conv, -1);
  const Shape &x = graph.value(roles.x).shape, &w = graph.value(roles.w).shape;
  if (x.elements() == 0 || w.elements() == 0 || graph.value(roles.y).elements() == 0) return Form::none;
  const bool one_pixel = a.kernel_h == 1 && a.kernel_w == 1 && a.stride_h == 1 && a.stride_w == 1 &&
                         a.pad_h == 0 && a.pad_w == 0;
  if (a.groups > 1) return a.groups == x[3] && w[0] == x[3] ? Form::depthwise : Form::none;
  if (one_pixel) return Form::pointwise;
  constexpr std::int64_t most_of_row = std::int64_t{1} << 21;  // floats of patches, which each thread has
  const std::int64_t channels = conv.is(ops::conv2d_grad_input_op) ? w[0] : x[3];
  const Shape& read_by = graph.value(roles.y).shape;
  const std::int64_t row = read_by[2] * a.kernel_h * a.kernel_w * channels;
  return winograd_problem(graph, conv).has_value() || row > most_of_row ? Form::none : Form::patches;
}

bool rows_compute(const Graph& graph, const GraphNode& conv) {
  if (!plan::conv_pass(*conv.op).has_value() || !image(graph.value(conv.inputs[0]).dtype)) return false;
  // Every thread sums a weight gradient of its own.
  constexpr std::int64_t most_sums = std::int64_t{1} << 26;
  const std::int64_t weights = graph.value(plan::convolution_of(conv, -1).w).elements();
  return rows::form_of(graph, conv) != Form::none && weights <= most_sums / omp_get_max_threads();
}

bool rows_carry(const Graph& graph, const GraphNode& conv) {
  if (!rows_compute(graph, conv)) return false;
  return rows::form_of(graph, conv) != Form::patches || rows_serve(graph, conv).ok;
}

Support rows_serve(const Graph& graph, const GraphNode& conv) {
  if (!rows_compute(graph, conv)) return refuse("");
  if (conv.tuned != nullptr && !conv.tuned->kernel.empty())
    return conv.tuned->kernel == by_rows ? Support{} : refuse(conv.tuned->why);
  if (rows::form_of(graph, conv) == Form::patches) return refuse("not timed to be faster than oneDNN's");
  if (graph.value(conv.inputs[0]).dtype != DType::f32) return refuse("its products are of f32");
  const Shape& x = graph.value(plan::convolution_of(conv, -1).x).shape;
  const std::int64_t pixels = x[0] * x[1] * x[2];
  const bool enough = rows::parts_of_pixels(pixels) == omp_get_max_threads();
  return enough ? Support{} : refuse("too few pixels for all threads");
}

std::span<const Candidate> row_convolutions() { return candidates; }

}  // namespace fusetape::backends::cpu::conv
