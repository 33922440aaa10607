#include "backends/cpu/conv/rows/row_convolution.hpp"

#include <omp.h>

#include "backends/cpu/candidates.hpp"

namespace fusetape::backends::cpu::conv {
namespace {

using plan::Convolution;
using plan::Graph;
using plan::GraphNode;
using plan::Group;
using rows::Form;

Support refuse(std::string reason) { return {.ok = false, .reason = std::move(reason)}; }

/// Images of one dtype; what belongs to a channel is f32.
Support check_types(const Graph& graph, const Convolution& conv) {
  std::vector<int> operands{conv.x,    conv.y,  conv.w,           conv.z,      conv.mask,
                            conv.bias, conv.dw, conv.masked_by.x, conv.sums.x, conv.read_x};
  for (const plan::Prologue* read : {&conv.before_x, &conv.before_y}) {
    operands.insert(operands.end(), {read->g, read->z, read->norm[0].x, read->norm[1].x});
  }
  for (const int value : operands) {
    if (value >= 0 && graph.value(value).dtype != DType::f32) return refuse("f32 only");
  }
  return {};
}

Support supports(const Graph& graph, const Group& group) {
  const auto* conv = group.as<Convolution>();
  if (conv == nullptr || !carries_by_rows(graph, graph.node(conv->node))) return refuse("");
  if (!conv->carries()) {
    if (Support serves = rows_serve(graph, graph.node(conv->node)); !serves.ok) return serves;
  }
  if (conv->activation != nullptr || conv->before_activation >= 0 || conv->folded.present())
    return refuse("no activation behind the convolution");
  if (!group.writes(conv->result())) return refuse("nobody reads the convolution's result, only its sums");
  return check_types(graph, *conv);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.as<Convolution>()->node);
  std::unique_ptr<Kernel> kernel = rows::form_of(graph, node) == Form::pointwise
                                       ? rows::make_pointwise(graph, group)
                                       : rows::make_depthwise(graph, group);
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
  if (one_pixel && a.groups == 1) return Form::pointwise;
  return a.groups > 1 && a.groups == x[3] && w[0] == x[3] ? Form::depthwise : Form::none;
}

bool carries_by_rows(const Graph& graph, const GraphNode& conv) {
  return plan::conv_pass(*conv.op).has_value() && graph.value(conv.inputs[0]).dtype == DType::f32 &&
         rows::form_of(graph, conv) != Form::none;
}

Support rows_serve(const Graph& graph, const GraphNode& conv) {
  if (!carries_by_rows(graph, conv)) return refuse("");
  if (conv.tuned != nullptr && !conv.tuned->kernel.empty())
    return conv.tuned->kernel == by_rows ? Support{} : refuse(conv.tuned->why);
  const Shape& image = graph.value(plan::convolution_of(conv, -1).x).shape;
  const std::int64_t parts = rows::form_of(graph, conv) == Form::pointwise
                                 ? rows::parts_of_pixels(image[0] * image[1] * image[2])
                                 : image[0];
  return parts >= omp_get_max_threads() ? Support{} : refuse("too few rows for all threads");
}

std::span<const Candidate> carrying_convolutions() { return candidates; }

}  // namespace fusetape::backends::cpu::conv
