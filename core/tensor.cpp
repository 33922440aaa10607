#include "fusetape/tensor.hpp"

#include <algorithm>
#include <cstring>
#include <locale>
#include <ostream>
#include <sstream>

#include "core/check.hpp"
#include "core/numerics/element.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/ops.hpp"
#include "fusetape/runtime.hpp"

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

void require_one_element(const Tensor& tensor, Location at) {
  if (!tensor.defined()) undefined("item", at);
  if (tensor.elements() != 1)
    throw Error("item", "expected one element, got " + to_string(tensor.shape()), at);
}

/// Of a leaf to be made.
void check_spec(const char* what, const Shape& shape, DType dtype, Location at) {
  if (dtype > DType::boolean)
    throw Error(what, "expected a DType, got " + std::to_string(static_cast<int>(dtype)), at);
  if (core::countable(shape)) return;
  throw Error(what, "expected extents of at least 0 and at most 2^56 elements, got " + to_string(shape), at);
}

void check_count(const char* what, const Shape& shape, DType dtype, std::size_t count, Location at) {
  check_spec(what, shape, dtype, at);
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

const Shape& Tensor::shape(Location at) const {
  if (!defined()) undefined("shape", at);
  return value_->shape;
}

DType Tensor::dtype(Location at) const {
  if (!defined()) undefined("dtype", at);
  return value_->dtype;
}

bool Tensor::requires_grad() const { return defined() && value_->requires_grad; }
bool Tensor::pending() const { return defined() && value_->state == core::State::pending; }

std::int64_t Tensor::size(int axis, Location at) const {
  const Shape& extents = shape(at);
  const int rank = extents.rank();
  const int wrapped = axis < 0 ? axis + rank : axis;
  if (wrapped < 0 || wrapped >= rank) {
    throw Error("size", "axis " + std::to_string(axis) + " is outside " + to_string(extents), at);
  }
  return extents[wrapped];
}

double Tensor::real_item(Location at) const {
  require_one_element(*this, at);
  double result = 0;
  copy_to(&result, DType::f64, at);
  return result;
}

std::int64_t Tensor::whole_item(std::int64_t least, std::int64_t most, Location at) const {
  require_one_element(*this, at);
  std::int64_t whole = 0;
  copy_to(&whole, DType::i64, at);
  const Number number = is_floating(dtype()) ? Number(real_item(at)) : Number(whole);
  if (!core::holds(DType::i64, number) || whole < least || whole > most) {
    throw Error("item",
                "expected a whole number in [" + std::to_string(least) + ", " + std::to_string(most) +
                    "], got " + to_string(number),
                at);
  }
  return whole;
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

template <class T>
static void print(std::ostream& out, const std::vector<T>& data) {
  constexpr std::size_t shown = 64;
  for (std::size_t i = 0; i < std::min(data.size(), shown); ++i) out << (i > 0 ? ", " : "") << data[i];
  if (data.size() > shown) out << ", … " << data.size() - shown << " more";
}

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) {
  if (!tensor.defined()) return out << "undefined tensor";
  std::ostringstream text;  // the stream's precision, but no commas of its locale among ours
  text.imbue(std::locale::classic());
  text.flags(out.flags());
  text.precision(out.precision());
  text << name_of(tensor.dtype()) << ' ' << to_string(tensor.shape()) << " [";
  is_floating(tensor.dtype()) ? print(text, tensor.to_vector<double>())
                              : print(text, tensor.to_vector<std::int64_t>());
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
    try {
      value.buffer = host_pool().allocate(static_cast<std::size_t>(shape.elements()) * size_of(dtype));
    } catch (const Error& error) {
      throw Error(error.op(), error.message(), at);
    }
  }
  *data = value.scalar ? static_cast<void*>(value.inline_data) : value.buffer.data();
  return leaf;
}

}  // namespace core

Tensor from_elements(const void* data, std::size_t count, DType dtype, const Shape& shape, Location at) {
  check_count("from_span", shape, dtype, count, at);
  void* to = nullptr;
  Tensor leaf = core::make_leaf(shape, dtype, &to, at);
  if (count > 0) std::memcpy(to, data, count * size_of(dtype));
  return leaf;
}

namespace {

/// A floating dtype rounds; an integer one has to hold each number.
template <class T>
Tensor from_numbers(const char* what, std::span<const T> data, const Shape& shape, DType dtype, Location at) {
  check_count(what, shape, dtype, data.size(), at);
  for (std::size_t i = 0; i < data.size() && !is_floating(dtype); ++i) {
    if (core::holds(dtype, data[i])) continue;
    throw Error(what,
                "expected numbers that " + std::string(name_of(dtype)) + " holds, got " + to_string(data[i]) +
                    " as element " + std::to_string(i),
                at);
  }
  void* to = nullptr;
  Tensor leaf = core::make_leaf(shape, dtype, &to, at);
  core::convert(data.data(), dtype_for<T>::value, to, dtype, shape.elements());
  return leaf;
}

}  // namespace

Tensor from_floats(std::span<const float> data, Shape shape, DType dtype, Location at) {
  return from_numbers("from_floats", data, shape, dtype, at);
}

Tensor from_doubles(std::span<const double> data, Shape shape, DType dtype, Location at) {
  return from_numbers("from_doubles", data, shape, dtype, at);
}

namespace {

Tensor filled(const char* what, const Shape& shape, Number value, DType dtype, Location at) {
  check_spec(what, shape, dtype, at);
  if (!core::holds(dtype, value)) {
    throw Error(what,
                "expected a number that " + std::string(name_of(dtype)) + " holds, got " + to_string(value),
                at);
  }
  void* to = nullptr;
  Tensor leaf = core::make_leaf(shape, dtype, &to, at);
  const std::size_t bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  if (bytes == 0) return leaf;
  core::write_number(value, dtype, to);
  auto* first = static_cast<std::byte*>(to);
  for (std::size_t done = size_of(dtype); done < bytes;) {  // doubles what is filled
    const std::size_t next = std::min(done, bytes - done);
    std::memcpy(first + done, first, next);
    done += next;
  }
  return leaf;
}

}  // namespace

Tensor full(Shape shape, Number value, DType dtype, Location at) {
  return filled("full", shape, value, dtype, at);
}
Tensor zeros(Shape shape, DType dtype, Location at) { return filled("zeros", shape, 0, dtype, at); }
Tensor ones(Shape shape, DType dtype, Location at) { return filled("ones", shape, 1, dtype, at); }
Tensor scalar(Number value, DType dtype, Location at) { return filled("scalar", {}, value, dtype, at); }

Tensor arange(std::int64_t n, DType dtype, Location at) {
  if (n < 0) throw Error("arange", "expected n of at least 0, got " + std::to_string(n), at);
  check_spec("arange", {n}, dtype, at);
  if (n > 0 && !core::holds(dtype, n - 1)) {
    throw Error(
        "arange",
        "expected numbers that " + std::string(name_of(dtype)) + " holds, got 0 to " + std::to_string(n - 1),
        at);
  }
  void* to = nullptr;
  Tensor leaf = core::make_leaf({n}, dtype, &to, at);
  auto* elements = static_cast<std::byte*>(to);
  for (std::int64_t i = 0; i < n; ++i) {
    core::write_number(i, dtype, elements + static_cast<std::size_t>(i) * size_of(dtype));
  }
  return leaf;
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

core::Cell& state_of(core::Cell* state, const char* what, Location at) {
  if (state == nullptr) throw Error(what, "the cell is empty: construct it with a value", at);
  return *state;
}

}  // namespace

Cell::Cell(Tensor value, std::string name, Location at) : state_(std::make_shared<core::Cell>()) {
  if (!value.defined()) throw Error("Cell", "the value is undefined", at);
  state_->name = std::move(name);
  bind_version(*state_, value, at);
}

Tensor Cell::value(Location at) const { return state_of(state_.get(), "value", at).value; }
const std::string& Cell::name(Location at) const { return state_of(state_.get(), "name", at).name; }
void Cell::set_name(std::string name, Location at) const {
  state_of(state_.get(), "set_name", at).name = std::move(name);
}
const Shape& Cell::shape(Location at) const { return state_of(state_.get(), "shape", at).value.shape(); }
DType Cell::dtype(Location at) const { return state_of(state_.get(), "dtype", at).value.dtype(); }

void Cell::set_data(Tensor value, Location at) const {
  core::Cell& cell = state_of(state_.get(), "set_data", at);
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

Parameter::Parameter(Tensor value, std::string name, Location at)
    : Cell(std::move(value), std::move(name), at) {
  if (!is_floating(dtype())) {
    throw Error("Parameter",
                "expected a value of a floating dtype, got " + std::string(name_of(dtype())) +
                    "; a Cell holds what gets no gradient",
                at);
  }
  state_->is_parameter = true;
  state_->requires_grad = true;
  bind_version(*state_, state_->value, at);
}

Tensor Parameter::grad(Location at) const { return state_of(state_.get(), "grad", at).gradient; }

void Parameter::set_grad(Tensor grad, Location at) const {
  core::Cell& cell = state_of(state_.get(), "set_grad", at);
  if (grad.defined() && (!(grad.shape() == cell.value.shape()) || grad.dtype() != cell.value.dtype())) {
    throw Error("set_grad",
                "expected " + std::string(name_of(cell.value.dtype())) + " " + to_string(cell.value.shape()) +
                    ", got " + std::string(name_of(grad.dtype())) + " " + to_string(grad.shape()),
                at);
  }
  core::bind_gradient(cell, std::move(grad));
}

void Parameter::zero_grad(Location at) const { state_of(state_.get(), "zero_grad", at).gradient = Tensor(); }
bool Parameter::requires_grad(Location at) const {
  return state_of(state_.get(), "requires_grad", at).requires_grad;
}

void Parameter::set_requires_grad(bool on, Location at) const {
  core::Cell& cell = state_of(state_.get(), "set_requires_grad", at);
  cell.requires_grad = on;
  cell.value.value()->requires_grad = on;
}

}  // namespace fusetape
