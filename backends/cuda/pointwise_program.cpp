// Which groups generated kernels can run, and what such a kernel is made of.
#include "backends/cuda/pointwise_program.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <map>

#include "core/op_attrs.hpp"

namespace fusetape::backends::cuda {

using plan::Graph;
using plan::GraphNode;
using plan::GraphValue;
using plan::Group;

namespace {

// What a thread holds at a time has to fit its registers, and a kernel has to compile in a moment.
constexpr std::size_t most_tensors = 64;
constexpr std::size_t most_nodes = 128;
constexpr int most_registers = 128;  // 32-bit, for operands and results

struct Formula {
  std::string_view name;
  Elements elements = Elements::floats;
};

/// Every op of core/formulas.hpp.
constexpr Formula formulas[] = {
    {"add"},
    {"sub"},
    {"mul"},
    {"div"},
    {"pow"},
    {"minimum"},
    {"maximum"},
    {"bias_add"},
    {"neg"},
    {"abs"},
    {"abs_grad"},
    {"exp"},
    {"log"},
    {"sqrt"},
    {"clamp"},
    {"clamp_grad"},
    {"relu"},
    {"relu_grad"},
    {"leaky_relu"},
    {"leaky_relu_grad"},
    {"sigmoid"},
    {"sigmoid_grad"},
    {"tanh"},
    {"tanh_grad"},
    {"gelu"},
    {"gelu_grad"},
    {"bce_logits"},
    {"bce_logits_grad"},
    {"equal", Elements::compare},
    {"not_equal", Elements::compare},
    {"less", Elements::compare},
    {"less_equal", Elements::compare},
    {"greater", Elements::compare},
    {"greater_equal", Elements::compare},
    {"where", Elements::select},
    {"broadcast_to", Elements::select},
    {"cast", Elements::convert},
};

const Formula* find_formula(std::string_view op) {
  const auto* found = std::find_if(std::begin(formulas), std::end(formulas),
                                   [&](const Formula& formula) { return formula.name == op; });
  return found == std::end(formulas) ? nullptr : found;
}

/// A name for the kernel from those of its ops.
std::string kernel_name(const Group& group) {
  constexpr std::size_t longest = 60;
  std::string name = "pointwise_" + group.name.substr(0, longest);
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

PointwiseProgram::Input input_of(const GraphValue& value, int id, const Shape& shape) {
  using Kind = PointwiseProgram::Input::Kind;
  PointwiseProgram::Input input{.value = id, .dtype = value.dtype};
  if (value.elements() == shape.elements()) return input;
  input.kind = value.elements() == 1 ? Kind::scalar : Kind::broadcast;
  input.view = broadcast_view(value.shape, shape);
  return input;
}

/// 16-byte accesses of the narrowest operand or result (f32 or 16 bits), as long as there are registers.
int width_of(const PointwiseProgram& program) {
  std::size_t bytes = 0, narrowest = 4;
  const auto add = [&](DType dtype) {
    bytes += size_of(dtype);
    narrowest = std::min(narrowest, size_of(dtype));
  };
  for (const auto& input : program.inputs) {
    if (input.kind == PointwiseProgram::Input::Kind::packed) add(input.dtype);
  }
  for (const auto& output : program.outputs) add(program.step(output.step).dtype);
  int width = narrowest < 4 ? 8 : 4;
  while (width > 1 && static_cast<int>(bytes) * width > 4 * most_registers) width /= 2;
  return width;
}

/// The bounds of clamp's gradient as floats: no float lies between them and the doubles.
float float_at_least(double x) {
  const float y = static_cast<float>(x);
  return static_cast<double>(y) < x ? std::nextafter(y, std::numeric_limits<float>::infinity()) : y;
}
float float_at_most(double x) { return -float_at_least(-x); }

}  // namespace

std::string pointwise_refusal(const Graph& graph, const Group& group, bool& foreign) {
  const Shape& shape = chain_shape(graph, group);
  foreign = false;
  for (const int id : group.nodes) {
    const GraphNode& node = graph.node(id);
    const std::string name(node.op->name);
    const Formula* formula = find_formula(name);
    foreign = formula == nullptr;
    if (foreign) return name + " is not pointwise";
    const Shape& result = graph.value(node.outputs[0]).shape;
    if (!(result == shape)) return name + " has shape " + to_string(result) + ", not " + to_string(shape);
    std::string reason = refusal_of_dtypes(graph, node, formula->elements);
    if (!reason.empty()) return reason;
  }
  if (group.nodes.size() > most_nodes)
    return std::to_string(group.nodes.size()) + " ops, one kernel takes " + std::to_string(most_nodes);
  const std::size_t tensors = group.inputs.size() + group.outputs.size();
  if (tensors > most_tensors)
    return std::to_string(tensors) + " operands and results, one kernel takes " +
           std::to_string(most_tensors);
  return {};
}

PointwiseProgram make_pointwise_program(const Graph& graph, const Group& group) {
  const Shape& shape = chain_shape(graph, group);
  PointwiseProgram program;
  program.name = kernel_name(group);
  program.count = shape.elements();
  std::map<int, int> found;  // by value, as operands count them
  for (const int input : group.inputs) {
    found[input] = static_cast<int>(program.inputs.size());
    program.inputs.push_back(input_of(graph.value(input), input, shape));
  }
  for (const int id : group.nodes) {
    const GraphNode& node = graph.node(id);
    const int result = node.outputs[0], step = static_cast<int>(program.steps.size());
    PointwiseProgram::Step made{.op = node.op, .attrs = node.attrs, .dtype = graph.value(result).dtype};
    for (const int input : node.inputs) made.operands.push_back(found.at(input));
    found[result] = static_cast<int>(program.inputs.size()) + step;
    program.steps.push_back(std::move(made));
    const bool written = std::find(group.outputs.begin(), group.outputs.end(), result) != group.outputs.end();
    if (written) program.outputs.push_back({.value = result, .step = step});
  }
  for (const int in : dying_inputs(graph, group)) {
    if (program.inputs[static_cast<std::size_t>(found.at(in))].kind != PointwiseProgram::Input::Kind::packed)
      continue;
    for (const auto& output : program.outputs) {
      if (graph.value(in).dtype == program.step(output.step).dtype)
        program.in_place.emplace_back(in, output.value);
    }
  }
  program.width = width_of(program);
  return program;
}

std::vector<float> attributes_of(const PointwiseProgram::Step& step) {
  if (step.op->is("clamp")) {
    const auto attrs = step.attrs.as<core::ClampAttrs>();
    return {static_cast<float>(attrs.low), static_cast<float>(attrs.high)};
  }
  if (step.op->is("clamp_grad")) {
    const auto attrs = step.attrs.as<core::ClampAttrs>();
    return {float_at_least(attrs.low), float_at_most(attrs.high)};
  }
  if (step.op->is("leaky_relu") || step.op->is("leaky_relu_grad"))
    return {static_cast<float>(step.attrs.as<core::LeakyReluAttrs>().slope)};
  return {};
}

}  // namespace fusetape::backends::cuda
