#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fusetape/dtype.hpp"
#include "fusetape/shape.hpp"
#include "fusetape/tensor.hpp"

/// Ops of a user's own: recorded, planned, lazy and differentiable as the library's are.
namespace fusetape {

namespace core {
struct RawTensor;
class GradContext;
struct CustomDefinition;
}  // namespace core

struct CustomGradientOptions;

struct TensorSpec {
  Shape shape;
  DType dtype = DType::f32;
};

/// What a forward works on. Only the elements are at hand: it cannot record ops.
class CustomForward {
 public:
  std::size_t inputs() const { return in_.size(); }
  std::size_t outputs() const { return out_.size(); }
  const Shape& input_shape(std::size_t i) const;
  const Shape& output_shape(std::size_t i) const;
  DType input_dtype(std::size_t i) const;
  DType output_dtype(std::size_t i) const;

  /// The elements as T (float, double, std::int64_t, std::uint8_t or bool), valid during the call: in place
  /// where T is the dtype's own type, else a converted copy.
  template <class T>
  std::span<const T> input(std::size_t i) {
    return {static_cast<const T*>(read(i, dtype_for<T>::value)), size(input_shape(i))};
  }
  /// To be written in full. Where T is not the dtype's own type, the elements are rounded to it afterwards.
  template <class T>
  std::span<T> output(std::size_t i) {
    return {static_cast<T*>(write(i, dtype_for<T>::value)), size(output_shape(i))};
  }

  /// Calls body(T{}) with the type to compute in: double where output 0 is f64, else float.
  ///
  ///     call.typed([&](auto zero) {
  ///       using T = decltype(zero);
  ///       std::ranges::transform(call.input<T>(0), call.output<T>(0).begin(), [](T x) { return x * x; });
  ///     });
  template <class Body>
  void typed(Body&& body) const {
    if (output_dtype(0) == DType::f64) {
      std::forward<Body>(body)(double{});
    } else {
      std::forward<Body>(body)(float{});
    }
  }

  // For the library.
  CustomForward(const std::string& op, std::span<const core::RawTensor> in,
                std::span<const core::RawTensor> out);
  ~CustomForward();
  CustomForward(const CustomForward&) = delete;
  CustomForward& operator=(const CustomForward&) = delete;
  void write_back();

 private:
  static std::size_t size(const Shape& shape) { return static_cast<std::size_t>(shape.elements()); }
  const void* read(std::size_t i, DType as);
  void* write(std::size_t i, DType as);

  struct Copy;
  const std::string& op_;
  std::span<const core::RawTensor> in_, out_;
  std::vector<std::unique_ptr<Copy>> copies_;
};

/// What a gradient works on: the tensors that it declared to read, and the gradients that came in.
class CustomGradient {
 public:
  /// A saved input or output. Throws where saves_inputs or saves_outputs does not list it.
  Tensor input(int i) const;
  Tensor output(int i = 0) const;
  const Shape& input_shape(int i) const;
  /// The gradient that came for output i: of its shape and dtype, zeros where none came.
  Tensor incoming(int i = 0) const;
  bool has_incoming(int i) const;
  /// Whether anybody wants the gradient of input i. What nobody wants may be left undefined.
  bool needs(int i) const;

  // For the library.
  CustomGradient(const core::CustomDefinition& definition, core::GradContext& context)
      : definition_(definition), context_(context) {}

 private:
  const core::CustomDefinition& definition_;
  core::GradContext& context_;
};

struct CustomOpOptions {
  /// In errors and in explain(): letters, digits and "_.:-". No built-in op's.
  std::string name;
  int inputs = 1;  ///< 1 to 30
  /// Output shapes and dtypes from the inputs'. It throws (std::invalid_argument("expected …")) for inputs
  /// that the op does not take. Empty: one output like input 0.
  std::function<std::vector<TensorSpec>(const std::vector<TensorSpec>& inputs)> shapes = nullptr;
  /// Writes the outputs. A function of the inputs alone: it may run once for several equal calls, never, or
  /// on two threads at once.
  std::function<void(CustomForward&)> forward = nullptr;
  /// One gradient for each input, written with fusetape's ops: then it is differentiable itself. An undefined
  /// one means none. Empty: the op carries no gradient.
  std::function<std::vector<Tensor>(const CustomGradient&)> gradient = nullptr;
  /// Which inputs and outputs the gradient reads: what is kept for it.
  std::vector<int> saves_inputs = {}, saves_outputs = {};
};

/// An op of a user's own, described once and called often:
///
///     const ft::CustomOp square({.name = "square",
///                                .forward = [](ft::CustomForward& call) { … },
///                                .gradient = [](const ft::CustomGradient& call) -> std::vector<ft::Tensor> {
///                                  return {2 * call.input(0) * call.incoming()};
///                                },
///                                .saves_inputs = {0}});
///     ft::Tensor y = square.one({x});
///
/// The planner treats it as one kernel that nothing is fused into. Copies share the description, which lives
/// as long as the process: make an op once, not in every step. Any thread may call it.
class CustomOp {
 public:
  /// Throws for a name that is taken by a built-in op or has other characters, a missing forward, and saves
  /// that are not there.
  explicit CustomOp(CustomOpOptions options, Location at = Location::current());

  /// Records one call. Throws for a wrong number of inputs and for what the shape rule throws. What the
  /// forward throws comes out of the run, as an Error with this name and the line of this call.
  std::vector<Tensor> operator()(const std::vector<Tensor>& inputs, Location at = Location::current()) const;
  /// The same for an op with one output; throws where there are more.
  Tensor one(const std::vector<Tensor>& inputs, Location at = Location::current()) const;

  const std::string& name() const;

 private:
  friend CustomOp custom_gradient(CustomGradientOptions options, Location at);
  explicit CustomOp(const core::CustomDefinition* definition) : definition_(definition) {}
  const core::CustomDefinition* definition_;
};

struct CustomGradientOptions {
  std::string name;  ///< as CustomOpOptions'
  int inputs = 1;
  /// Made of fusetape's ops, which fuse as ever. No gradient flows through them.
  std::function<Tensor(const std::vector<Tensor>& inputs)> forward = nullptr;
  std::function<std::vector<Tensor>(const CustomGradient&)> gradient = nullptr;  ///< as CustomOpOptions'
  std::vector<int> saves_inputs = {};
  bool saves_output = false;
};

/// An op that is made of fusetape's ops, with a gradient of the user's own: a straight-through estimator, a
/// reversed or clipped gradient. Throws as CustomOp's constructor.
CustomOp custom_gradient(CustomGradientOptions options, Location at = Location::current());

}  // namespace fusetape
