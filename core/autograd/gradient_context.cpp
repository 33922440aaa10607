#include <cstring>

#include "core/check.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "core/tape/module_scope.hpp"
#include "core/tape/segment.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/autograd.hpp"

namespace fusetape::core {

void InferContext::fail(const std::string& expected, const std::string& got) const {
  const std::string* path = source_context().module_path;
  throw Error(std::string(op_), "expected " + expected + ", got " + got, at_,
              path != nullptr ? *path : std::string());
}

DType InferContext::same_floating_dtype() const {
  const DType first = inputs[inputs.size() > 1 && inputs[0].number ? 1 : 0].dtype;
  if (!is_floating(first)) fail("a floating dtype", std::string(name_of(first)) + "; use cast");
  for (const TensorInfo& input : inputs) {
    if (input.dtype != first && !input.number) {
      fail("equal dtypes",
           std::string(name_of(first)) + " and " + std::string(name_of(input.dtype)) + "; use cast");
    }
  }
  return first;
}

template <class T>
void RefContextOf<T>::fail(const std::string& what) const {
  throw Error(std::string(op_), what);
}
template class RefContextOf<double>;
template class RefContextOf<std::int64_t>;

Tensor GradContext::input(int i) const {
  FUSETAPE_ASSERT(node_.saves_input(i));
  return saved(*node_.inputs[static_cast<std::size_t>(i)]);
}

Tensor GradContext::output(int i) const {
  FUSETAPE_ASSERT(node_.saves_output(i));
  return saved(node_.output(i));
}

double GradContext::number(int i) const {
  const Value& value = *node_.inputs[static_cast<std::size_t>(i)];
  FUSETAPE_ASSERT(value.scalar && value.dtype == DType::f64);
  double number = 0;
  std::memcpy(&number, value.inline_data, sizeof(number));
  return number;
}

namespace {

/// For gradients of gradients.
void stand_for(Value& again, Value& original) {
  if (again.original != nullptr) return;
  reference(original.node);
  again.original = &original;
  again.requires_grad = true;
}

}  // namespace

/// Inside a checkpoint that is still being recorded, what is there is used as it is.
Tensor GradContext::saved(Value& value) const {
  const Segment* segment = node_.segment != nullptr ? node_.segment->around(value) : nullptr;
  if (segment == nullptr || (segment->is_open() && value.state != State::dropped)) return Tensor(&value);
  Tensor again = recomputation_.value(*segment, value.node->sequence, value.index);
  if (Tape::current().settings.grad && value.requires_grad) stand_for(*again.value(), in_history(value));
  return again;
}

const Shape& GradContext::input_shape(int i) const {
  return node_.inputs[static_cast<std::size_t>(i)]->shape;
}
DType GradContext::input_dtype(int i) const { return node_.inputs[static_cast<std::size_t>(i)]->dtype; }
const Shape& GradContext::output_shape(int i) const { return node_.output(i).shape; }
int GradContext::input_count() const { return static_cast<int>(node_.inputs.size()); }
const Attrs& GradContext::raw_attrs() const { return node_.attrs; }

Tensor GradContext::incoming(int i) const {
  if (has_incoming(i)) return incoming_[static_cast<std::size_t>(i)];
  return zeros(node_.output(i).shape, node_.output(i).dtype, node_.at);
}

/// Both then and now: what was frozen at recording left no saves.
bool GradContext::needs(int i) const {
  return (node_.wanted & bit(i)) != 0 && node_.inputs[static_cast<std::size_t>(i)]->requires_grad;
}

void GradContext::set(int i, Tensor gradient) {
  while (gradients_.size() < node_.inputs.size()) gradients_.push_back(Tensor());
  gradients_[static_cast<std::size_t>(i)] = std::move(gradient);
}

void GradContext::through(const std::function<std::vector<Tensor>(const std::vector<Tensor>&)>& meaning) {
  const bool differentiable = Tape::current().settings.grad;
  const GradMode recording(true);
  std::vector<Tensor> variables, wanted, outputs, gradients;
  for (int i = 0; i < input_count(); ++i) {
    // A view of its own for each input: one value may come in twice, and the history goes on behind it.
    variables.push_back(
        needs(i) ? record_one(ops::copy_variable_op, {input(i)}, Attrs::of(NoAttrs{}), node_.at) : input(i));
    if (needs(i)) wanted.push_back(variables.back());
  }
  const std::vector<Tensor> results = meaning(variables);
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!has_incoming(static_cast<int>(i))) continue;
    outputs.push_back(results[i]);
    gradients.push_back(incoming_[i]);
  }
  const std::vector<Tensor> found =
      grad(outputs, wanted, gradients, {.retain_graph = true, .create_graph = differentiable});
  std::size_t next = 0;
  for (int i = 0; i < input_count(); ++i) {
    if (needs(i)) set(i, found[next++]);
  }
}

}  // namespace fusetape::core
