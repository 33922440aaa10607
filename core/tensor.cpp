#include "fusetape/tensor.hpp"

#include <algorithm>
#include <cstring>
#include <locale>
#include <ostream>
#include <sstream>

#include "core/check.hpp"
#include "core/element.hpp"
#include "core/op_attrs.hpp"
#include "core/tape.hpp"
#include "fusetape/ops.hpp"
#include "fusetape/runtime.hpp"
#include "ops/ops.hpp"

namespace fusetape {
namespace {

[[noreturn]] void undefined(const char* what, Location at) {
  throw Error(what, "the tensor is undefined", at);
}

[[noreturn]] void nothing_computed(const char* what, Location at) {
  throw Error(what, "the null backend plans but computes nothing", at);
}

}  // namespace

namespace core {

/// A leaf that shows the bytes of a value that has them.
static Tensor share_leaf(const Value& value, Location at) {
  Tape& tape = Tape::current(at);
  Node* node = make_node(1);
  node->tape = &tape;
  Value& leaf = node->output(0);
  leaf.shape = value.shape;
  leaf.dtype = value.dtype;
  leaf.state = State::ready;
  leaf.scalar = value.scalar;
  leaf.planned_only = value.planned_only;
  std::memcpy(leaf.inline_data, value.inline_data, sizeof(leaf.inline_data));
  leaf.buffer = value.buffer;
  return Tensor(&leaf);
}

}  // namespace core

namespace {

/// The value with its data, run if need be.
core::Value& ready(const Tensor& tensor, const char* what, Location at) {
  if (!tensor.defined()) undefined(what, at);
  core::Value& value = *tensor.value();
  if (value.state == core::State::pending) {
    core::Tape& tape = core::Tape::current(at);
    if (value.node->tape != &tape) {
      throw Error(
          what, "the tensor is still pending on another thread; materialize it there before handing it over",
          at);
    }
    if (!tape.settings.backend->executes()) nothing_computed(what, at);
    tape.flush(at);
  }
  if (value.planned_only) nothing_computed(what, at);
  if (value.state == core::State::lost) throw Error(what, "the value was lost: " + *value.node->failure, at);
  FUSETAPE_ASSERT(value.state == core::State::ready);
  return value;
}

void check_extents(const char* what, const Shape& shape, Location at) {
  if (core::countable(shape)) return;
  throw Error(what, "expected extents of at least 0 and at most 2^56 elements, got " + to_string(shape), at);
}

void check_count(const char* what, const Shape& shape, std::size_t count, Location at) {
  check_extents(what, shape, at);
  if (static_cast<std::size_t>(shape.elements()) != count) {
    throw Error(what,
                "expected " + std::to_string(shape.elements()) + " elements for " + to_string(shape) +
                    ", got " + std::to_string(count),
                at);
  }
}

}  // namespace

Tensor::Tensor(core::Value* value) : value_(value) {
  core::reference(value->node);
  core::hold(*value);
}

Tensor::Tensor(const Tensor& other) : value_(other.value_) {
  if (value_ == nullptr) return;
  core::reference(value_->node);
  core::hold(*value_);
}

Tensor::~Tensor() {
  if (value_ == nullptr) return;
  core::Node* node = value_->node;
  core::unhold(*value_);
  core::dereference(node);
}

const Shape& Tensor::shape() const {
  if (!defined()) undefined("shape", Location::current());
  return value_->shape;
}

DType Tensor::dtype() const {
  if (!defined()) undefined("dtype", Location::current());
  return value_->dtype;
}

bool Tensor::requires_grad() const { return defined() && value_->requires_grad; }
bool Tensor::pending() const { return defined() && value_->state == core::State::pending; }

std::int64_t Tensor::size(int axis, Location at) const {
  const int rank = shape().rank();
  const int wrapped = axis < 0 ? axis + rank : axis;
  if (wrapped < 0 || wrapped >= rank) {
    throw Error("size", "axis " + std::to_string(axis) + " is outside " + to_string(shape()), at);
  }
  return shape()[wrapped];
}

double Tensor::item(Location at) const {
  if (!defined()) undefined("item", at);
  if (elements() != 1) throw Error("item", "expected one element, got " + to_string(shape()), at);
  double result = 0;
  copy_to(&result, DType::f64, at);
  return result;
}

void Tensor::copy_to(void* out, DType as, Location at) const {
  core::Value& value = ready(*this, "read", at);
  const std::int64_t count = value.shape.elements();
  if (count == 0) return;
  if (as == value.dtype) {
    std::memcpy(out, core::host_data(value), value.bytes());
  } else {
    core::convert(core::host_data(value), value.dtype, out, as, count);
  }
}

const void* Tensor::data(DType as, Location at) const {
  core::Value& value = ready(*this, "span", at);
  if (value.dtype != as) {
    throw Error("span",
                "the elements are " + std::string(name_of(value.dtype)) + ", not " + std::string(name_of(as)),
                at);
  }
  return core::host_data(value);
}

Tensor Tensor::detach(Location at) const {
  if (!defined()) undefined("detach", at);
  if (value_->state == core::State::ready) return core::share_leaf(*value_, at);
  const core::GradMode off(false);
  return core::record_one(ops::copy_variable_op, {*this}, core::Attrs::of(core::NoAttrs{}), at);
}

Tensor Tensor::reshape(Shape shape, Location at) const {
  return fusetape::reshape(Operand(*this, at), shape);
}

Tensor variable(const Tensor& x, Location at) {
  if (!x.defined()) undefined("variable", at);
  if (!is_floating(x.dtype())) {
    throw Error("variable", "expected a floating dtype, got " + std::string(name_of(x.dtype())), at);
  }
  Tensor copy = x.detach(at);
  copy.value()->requires_grad = true;
  return copy;
}

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) {
  if (!tensor.defined()) return out << "undefined tensor";
  constexpr std::size_t shown = 64;
  const std::vector<double> data = tensor.to_vector<double>();
  std::ostringstream text;  // the stream's precision, but no commas of its locale among ours
  text.imbue(std::locale::classic());
  text.flags(out.flags());
  text.precision(out.precision());
  text << name_of(tensor.dtype()) << ' ' << to_string(tensor.shape()) << " [";
  for (std::size_t i = 0; i < std::min(data.size(), shown); ++i) text << (i > 0 ? ", " : "") << data[i];
  if (data.size() > shown) text << ", … " << data.size() - shown << " more";
  return out << text.str() + "]";
}

// ---- data in
// ---------------------------------------------------------------------------------------------------------

namespace core {

Tensor make_leaf(const Shape& shape, DType dtype, void** data, Location at) {
  Tape& tape = Tape::current(at);
  Node* node = make_node(1);
  node->tape = &tape;
  Value& value = node->output(0);
  value.shape = shape;
  value.dtype = dtype;
  value.state = State::ready;
  Tensor leaf(&value);
  value.scalar = shape.rank() == 0;
  if (!value.scalar) {
    value.buffer = host_pool().allocate(static_cast<std::size_t>(shape.elements()) * size_of(dtype));
  }
  *data = value.scalar ? static_cast<void*>(value.inline_data) : value.buffer.data();
  return leaf;
}

}  // namespace core

template <class T>
Tensor from_span(std::span<const T> data, Shape shape, Location at) {
  check_count("from_span", shape, data.size(), at);
  void* to = nullptr;
  Tensor leaf = core::make_leaf(shape, dtype_for<T>::value, &to, at);
  if (!data.empty()) std::memcpy(to, data.data(), data.size_bytes());
  return leaf;
}
template Tensor from_span<float>(std::span<const float>, Shape, Location);
template Tensor from_span<double>(std::span<const double>, Shape, Location);
template Tensor from_span<std::int64_t>(std::span<const std::int64_t>, Shape, Location);
template Tensor from_span<std::uint8_t>(std::span<const std::uint8_t>, Shape, Location);
template Tensor from_span<bool>(std::span<const bool>, Shape, Location);

Tensor from_floats(std::span<const float> data, Shape shape, DType dtype, Location at) {
  check_count("from_floats", shape, data.size(), at);
  void* to = nullptr;
  Tensor leaf = core::make_leaf(shape, dtype, &to, at);
  core::convert(data.data(), DType::f32, to, dtype, shape.elements());
  return leaf;
}

Tensor from_doubles(std::span<const double> data, Shape shape, DType dtype, Location at) {
  check_count("from_doubles", shape, data.size(), at);
  void* to = nullptr;
  Tensor leaf = core::make_leaf(shape, dtype, &to, at);
  core::convert(data.data(), DType::f64, to, dtype, shape.elements());
  return leaf;
}

Tensor full(Shape shape, double value, DType dtype, Location at) {
  check_extents("full", shape, at);
  void* to = nullptr;
  Tensor leaf = core::make_leaf(shape, dtype, &to, at);
  const std::size_t bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  if (bytes == 0) return leaf;
  core::convert(&value, DType::f64, to, dtype, 1);
  auto* first = static_cast<std::byte*>(to);
  for (std::size_t done = size_of(dtype); done < bytes;) {  // doubles what is filled
    const std::size_t next = std::min(done, bytes - done);
    std::memcpy(first + done, first, next);
    done += next;
  }
  return leaf;
}

Tensor zeros(Shape shape, DType dtype, Location at) { return full(shape, 0, dtype, at); }
Tensor ones(Shape shape, DType dtype, Location at) { return full(shape, 1, dtype, at); }
Tensor scalar(double value, DType dtype, Location at) { return full({}, value, dtype, at); }

Tensor arange(std::int64_t n, DType dtype, Location at) {
  if (n < 0) throw Error("arange", "expected n of at least 0, got " + std::to_string(n), at);
  check_extents("arange", {n}, at);
  std::vector<double> numbers(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<double>(i);
  return from_doubles(numbers, {n}, dtype, at);
}

// ---- cells
// -----------------------------------------------------------------------------------------------------------

namespace {

/// A pending result without history that only this handle names, as an update's: it can become the cell's
/// version itself.
bool nobody_else_names(const Tensor& value) {
  const core::Value& result = *value.value();
  const core::Node& node = *result.node;
  return value.pending() && result.holds.load(std::memory_order_acquire) == 1 && !node.history &&
         result.original == nullptr && node.cell.expired();
}

/// Binds the value, detached: a cell keeps no history alive, and what a user holds does not become a leaf.
void bind_version(core::Cell& cell, Tensor value, Location at) {
  Tensor version = nobody_else_names(value) ? std::move(value) : value.detach(at);
  if (cell.is_parameter) {
    version.value()->requires_grad = cell.requires_grad;
    version.value()->node->cell = cell.weak_from_this();
  }
  if (version.pending()) core::Tape::current(at).journal.note(cell, core::Journal::Part::value);
  cell.value = std::move(version);
}

core::Cell& state_of(core::Cell* state, const char* what) {
  if (state == nullptr) throw Error(what, "the cell is empty: construct it with a value");
  return *state;
}

}  // namespace

Cell::Cell(Tensor value, std::string name) : state_(std::make_shared<core::Cell>()) {
  if (!value.defined()) throw Error("Cell", "the value is undefined");
  state_->name = std::move(name);
  bind_version(*state_, value, Location::current());
}

Tensor Cell::value() const { return state_of(state_.get(), "value").value; }
const std::string& Cell::name() const { return state_of(state_.get(), "name").name; }
void Cell::set_name(std::string name) { state_of(state_.get(), "set_name").name = std::move(name); }
const Shape& Cell::shape() const { return state_of(state_.get(), "shape").value.shape(); }
DType Cell::dtype() const { return state_of(state_.get(), "dtype").value.dtype(); }

void Cell::set_data(Tensor value, Location at) {
  core::Cell& cell = state_of(state_.get(), "set_data");
  if (!value.defined() || !(value.shape() == cell.value.shape()) || value.dtype() != cell.value.dtype()) {
    throw Error("set_data",
                "expected " + std::string(name_of(cell.value.dtype())) + " " + to_string(cell.value.shape()) +
                    " for '" + cell.name + "', got " +
                    (value.defined() ? std::string(name_of(value.dtype())) + " " + to_string(value.shape())
                                     : std::string("an undefined tensor")),
                at);
  }
  bind_version(cell, std::move(value), at);
}

Parameter::Parameter(Tensor value, std::string name) : Cell(std::move(value), std::move(name)) {
  state_->is_parameter = true;
  state_->requires_grad = true;
  bind_version(*state_, state_->value, Location::current());
}

Tensor Parameter::grad() const { return state_of(state_.get(), "grad").gradient; }

void Parameter::set_grad(Tensor grad) {
  core::Cell& cell = state_of(state_.get(), "set_grad");
  if (grad.defined() && (!(grad.shape() == cell.value.shape()) || grad.dtype() != cell.value.dtype())) {
    throw Error("set_grad", "expected " + std::string(name_of(cell.value.dtype())) + " " +
                                to_string(cell.value.shape()) + ", got " +
                                std::string(name_of(grad.dtype())) + " " + to_string(grad.shape()));
  }
  core::bind_gradient(cell, std::move(grad));
}

void Parameter::zero_grad() { state_of(state_.get(), "zero_grad").gradient = Tensor(); }
bool Parameter::requires_grad() const { return state_of(state_.get(), "requires_grad").requires_grad; }

void Parameter::set_requires_grad(bool on) {
  core::Cell& cell = state_of(state_.get(), "set_requires_grad");
  cell.requires_grad = on;
  cell.value.value()->requires_grad = on;
}

}  // namespace fusetape
