#pragma once
#include <cstdint>
#include <exception>
#include <functional>
#include <iosfwd>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fusetape/axes.hpp"
#include "fusetape/dtype.hpp"
#include "fusetape/error.hpp"
#include "fusetape/number.hpp"
#include "fusetape/shape.hpp"

namespace fusetape {

namespace core {
struct Value;
struct Cell;
struct GradientHooks;
}  // namespace core

struct BackwardOptions {
  bool retain_graph = false;  ///< keep the graph for another backward()
  bool create_graph = false;  ///< record the gradients differentiably (implies retain_graph)
};

class Tensor;
class Operand;

/// What a hook on a gradient is: called with the gradient; what it returns replaces it (an undefined tensor:
/// the gradient stays as it is). It must not capture the tensor or Parameter that it is registered on, which
/// would then keep itself alive: until a backward() releases the graph, or the hook is removed.
using GradientHook = std::function<Tensor(const Tensor& gradient)>;

/// Names a registered hook. Dropping the handle leaves the hook in place.
class HookHandle {
 public:
  HookHandle() = default;
  /// The hook is not called any more. Harmless when the hook, or what it was on, is gone already.
  void remove();

  // For the library.
  HookHandle(std::weak_ptr<core::GradientHooks> hooks, std::uint64_t id)
      : hooks_(std::move(hooks)), id_(id) {}

 private:
  std::weak_ptr<core::GradientHooks> hooks_;
  std::uint64_t id_ = 0;
};

/// An immutable value: a cheap handle to one output of a recorded op, or to data. Copying copies the handle.
/// Nothing is computed before a value is asked for (item, to_vector, <<, materialize) or an optimizer steps.
class Tensor {
 public:
  Tensor() = default;  ///< undefined: no shape, no data
  Tensor(const Tensor& other);
  Tensor(Tensor&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
  Tensor& operator=(Tensor other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Tensor();

  bool defined() const { return value_ != nullptr; }
  const Shape& shape(Location at = Location::current()) const;
  DType dtype(Location at = Location::current()) const;
  int rank(Location at = Location::current()) const { return shape(at).rank(); }
  /// The extent of an axis; negative axes count from the end.
  std::int64_t size(int axis, Location at = Location::current()) const;
  std::int64_t elements(Location at = Location::current()) const { return shape(at).elements(); }
  bool requires_grad() const;
  /// Recorded, but not computed yet.
  bool pending() const;

  /// The only element. Runs what is pending. Throws unless elements() == 1, and where T is an integer type or
  /// bool that does not hold it: item<std::int64_t>() gives every i64 exactly, item() rounds it beyond 2^53.
  template <class T = double>
    requires std::is_arithmetic_v<T>
  T item(Location at = Location::current()) const {
    if constexpr (std::is_floating_point_v<T>) {
      return static_cast<T>(real_item(at));
    } else if constexpr (std::is_same_v<T, bool>) {
      return whole_item(0, 1, at) != 0;
    } else {
      constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
      constexpr T least = std::numeric_limits<T>::min(), most = std::numeric_limits<T>::max();
      return static_cast<T>(
          whole_item(static_cast<std::int64_t>(least),
                     std::in_range<std::int64_t>(most) ? static_cast<std::int64_t>(most) : largest, at));
    }
  }

  /// All elements in row-major order, converted to T. Runs what is pending.
  template <class T = float>
  std::vector<T> to_vector(Location at = Location::current()) const {
    if constexpr (std::is_same_v<T, bool>) {
      std::vector<std::uint8_t> raw = room<std::uint8_t>(at);
      copy_to(raw.data(), DType::boolean, at);
      return {raw.begin(), raw.end()};
    } else {
      std::vector<T> out = room<T>(at);
      copy_to(out.data(), dtype_for<T>::value, at);
      return out;
    }
  }

  /// The elements in place, valid while this handle lives. T must be the dtype's own type. Runs what is
  /// pending.
  template <class T>
  std::span<const T> span(Location at = Location::current()) const {
    return {static_cast<const T*>(data(dtype_for<T>::value, at)), static_cast<std::size_t>(elements(at))};
  }

  /// Records the gradients of this scalar into the `grad()` of every Parameter it depends on, adding to what
  /// is there. Releases the graph unless told to retain it: a second backward() over it throws.
  void backward(BackwardOptions options = {}, Location at = Location::current()) const;

  /// Calls `hook` in every backward() and grad() that reaches this value, once its whole gradient (all
  /// branches summed) is known and before it flows on; several hooks in the order of registration. On a
  /// Parameter's value: the Parameter's. Throws for a value that requires no gradient; a hook that returns
  /// another shape or dtype makes backward() throw, naming the line of the registration.
  HookHandle register_hook(GradientHook hook, Location at = Location::current()) const;

  /// The same value without its history: no gradient flows through it.
  Tensor detach(Location at = Location::current()) const;

  /// The same elements in another shape; one extent may be -1.
  Tensor reshape(Shape shape, Location at = Location::current()) const;

  // What is written daily, as methods: the functions of the same names in <fusetape/ops.hpp>.
  Tensor sum(Axes axes = {}, ReduceOptions options = {}, Location at = Location::current()) const;
  Tensor mean(Axes axes = {}, ReduceOptions options = {}, Location at = Location::current()) const;
  Tensor max(Axes axes = {}, ReduceOptions options = {}, Location at = Location::current()) const;
  Tensor argmax(int axis = -1, ReduceOptions options = {}, Location at = Location::current()) const;
  Tensor softmax(int axis = -1, Location at = Location::current()) const;
  Tensor flatten(int from_axis = 1, Location at = Location::current()) const;
  Tensor transpose(Location at = Location::current()) const;
  Tensor transpose(std::vector<int> permutation, Location at = Location::current()) const;
  Tensor cast(DType dtype, Location at = Location::current()) const;
  Tensor relu(Location at = Location::current()) const;
  Tensor sigmoid(Location at = Location::current()) const;
  Tensor tanh(Location at = Location::current()) const;
  Tensor exp(Location at = Location::current()) const;
  Tensor log(Location at = Location::current()) const;
  Tensor sqrt(Location at = Location::current()) const;
  Tensor abs(Location at = Location::current()) const;
  /// x += y is x = x + y: the handle names a new value, and who has the old one keeps it.
  Tensor& operator+=(const Operand& other);
  Tensor& operator-=(const Operand& other);
  Tensor& operator*=(const Operand& other);
  Tensor& operator/=(const Operand& other);

  // For the library: the value behind the handle (not for users; may change).
  explicit Tensor(core::Value* value);
  core::Value* value() const { return value_; }

 private:
  template <class T>
  std::vector<T> room(Location at) const {
    try {
      return std::vector<T>(defined() ? static_cast<std::size_t>(elements(at)) : 0);
    } catch (const std::exception&) {  // std::bad_alloc, std::length_error
      throw Error("to_vector", "expected memory for " + to_string(shape(at)) + ", got none", at);
    }
  }
  double real_item(Location at) const;
  std::int64_t whole_item(std::int64_t least, std::int64_t most, Location at) const;
  void copy_to(void* out, DType as, Location at) const;
  const void* data(DType as, Location at) const;
  core::Value* value_ = nullptr;
};

/// For from_span and from_vector.
Tensor from_elements(const void* data, std::size_t count, DType dtype, const Shape& shape, Location at);

/// Evaluates and prints shape, dtype and the elements (shortened when there are many).
std::ostream& operator<<(std::ostream& out, const Tensor& tensor);

/// Copies the elements. `data.size()` must be the shape's number of elements.
template <class T>
Tensor from_span(std::span<const T> data, Shape shape, Location at = Location::current()) {
  static_assert(Element<T>,
                "a tensor's elements are float, double, std::int64_t, std::uint8_t or bool; from_vector also "
                "takes other integers");
  return from_elements(data.data(), data.size(), dtype_for<T>::value, shape, at);
}
/// Copies the elements: float gives f32, double f64, std::uint8_t u8, bool bool, every other integer type
/// i64.
template <class T>
Tensor from_vector(const std::vector<T>& data, Shape shape, Location at = Location::current()) {
  if constexpr (std::is_same_v<T, bool>) {  // whose elements are bits
    const std::vector<std::uint8_t> bytes(data.begin(), data.end());
    return from_elements(bytes.data(), bytes.size(), DType::boolean, shape, at);
  } else if constexpr (std::is_integral_v<T> && !Element<T>) {
    std::vector<std::int64_t> wide;
    wide.reserve(data.size());
    for (const T element : data) {
      if (!std::in_range<std::int64_t>(element)) {
        throw Error("from_vector", "expected elements that i64 holds, got " + std::to_string(element), at);
      }
      wide.push_back(static_cast<std::int64_t>(element));
    }
    return from_span<std::int64_t>(wide, shape, at);
  } else {
    return from_span<T>(std::span<const T>(data), shape, at);
  }
}
inline Tensor from_vector(std::initializer_list<float> data, Shape shape, Location at = Location::current()) {
  return from_span<float>(std::span<const float>(data.begin(), data.size()), shape, at);
}
/// Like from_span, converting each element to `dtype` (for f64 copies of f32 data, bf16, …). Throws where an
/// integer dtype or bool does not hold an element.
Tensor from_floats(std::span<const float> data, Shape shape, DType dtype, Location at = Location::current());
Tensor from_doubles(std::span<const double> data, Shape shape, DType dtype,
                    Location at = Location::current());

/// Every element `value`, which `dtype` must hold: 300 is no u8, 0.5 no i64, 1e6 no f16. Ready at once
/// (nothing is recorded).
Tensor full(Shape shape, Number value, DType dtype = DType::f32, Location at = Location::current());
Tensor zeros(Shape shape, DType dtype = DType::f32, Location at = Location::current());
Tensor ones(Shape shape, DType dtype = DType::f32, Location at = Location::current());
/// A scalar of shape {}. Scalars are run-time inputs: changing one never makes a new plan.
Tensor scalar(Number value, DType dtype = DType::f32, Location at = Location::current());
/// 0, 1, … n-1, all of which `dtype` must hold; a floating dtype rounds.
Tensor arange(std::int64_t n, DType dtype = DType::f32, Location at = Location::current());

/// Images {N, C, H, W} to the library's {N, H, W, C}, and back (recorded, differentiable).
Tensor from_nchw(const Tensor& x, Location at = Location::current());
Tensor to_nchw(const Tensor& x, Location at = Location::current());

/// A named mutable binding to a value. An update binds a new version: values recorded earlier keep the
/// version that they read. Running statistics and optimizer state are cells; a Parameter is a cell with a
/// gradient. Copies share the binding, which a const one may change, too: `net.conv.weight().set_data(…)`.
class Cell {
 public:
  Cell() = default;
  explicit Cell(Tensor value, std::string name = "", Location at = Location::current());
  bool defined() const { return state_ != nullptr; }
  Tensor value(Location at = Location::current()) const;
  const std::string& name(Location at = Location::current()) const;
  void set_name(std::string name, Location at = Location::current()) const;
  /// Binds a new version: the same shape and dtype, detached. Throws otherwise.
  void set_data(Tensor value, Location at = Location::current()) const;
  const Shape& shape(Location at = Location::current()) const;
  DType dtype(Location at = Location::current()) const;
  core::Cell* state() const { return state_.get(); }

 protected:
  std::shared_ptr<core::Cell> state_;
};

/// A leaf of a floating dtype that gradients are collected for.
class Parameter : public Cell {
 public:
  Parameter() = default;
  explicit Parameter(Tensor value, std::string name = "", Location at = Location::current());
  /// The collected gradient; undefined before the first backward() and after zero_grad().
  Tensor grad(Location at = Location::current()) const;
  void set_grad(Tensor grad, Location at = Location::current()) const;
  void zero_grad(Location at = Location::current()) const;
  /// As Tensor::register_hook, for every version of the parameter: called before the gradient of a backward()
  /// is added to grad().
  HookHandle register_hook(GradientHook hook, Location at = Location::current()) const;
  /// A parameter that is frozen gets no gradient and is skipped by optimizers.
  bool requires_grad(Location at = Location::current()) const;
  void set_requires_grad(bool on, Location at = Location::current()) const;
  operator Tensor() const { return value(); }
};

}  // namespace fusetape
