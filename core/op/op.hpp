#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/op/attrs.hpp"
#include "core/tape/inline_vector.hpp"
#include "fusetape/tensor.hpp"

/// What an op is. An op is added in one place: a file in ops/ defines its OpDef (checks and shape rule,
/// gradient, declared saves, reference loop) and its public function; core/op/op_list.hpp lists it.
namespace fusetape::core {

struct Node;
struct Value;
class Recomputation;

/// Whether no extent is negative and the elements' bytes can be counted.
bool countable(const Shape& shape);

struct TensorInfo {
  Shape shape;
  DType dtype = DType::f32;
  /// A number that a caller wrote beside a 16-bit tensor: f32, and no part of a rule for equal dtypes.
  bool number = false;
};

/// The arguments of a shape rule: reads input infos and attributes, checks them, adds one info per output.
class InferContext {
 public:
  InferContext(std::string_view op, std::span<const TensorInfo> inputs, const Attrs& attrs, Location at)
      : inputs(inputs), attrs(attrs), op_(op), at_(at) {}

  std::span<const TensorInfo> inputs;
  const Attrs& attrs;
  InlineVector<TensorInfo, 6> outputs;

  void output(const Shape& shape, DType dtype) { outputs.push_back({shape, dtype}); }
  const Shape& shape(int i) const { return inputs[static_cast<std::size_t>(i)].shape; }
  DType dtype(int i) const { return inputs[static_cast<std::size_t>(i)].dtype; }

  /// Throws Error("[op] expected <expected>, got <got>").
  [[noreturn]] void fail(const std::string& expected, const std::string& got) const;
  void require(bool ok, const char* expected, const std::string& got) const {
    if (!ok) fail(expected, got);
  }
  /// Without building a text for the call that is right.
  void require(bool ok, const char* expected, const Shape& got) const {
    if (!ok) fail(expected, to_string(got));
  }
  void require(bool ok, const char* expected, DType got) const {
    if (!ok) fail(expected, std::string(name_of(got)));
  }
  /// All inputs of one floating dtype, but for numbers; which.
  DType same_floating_dtype() const;

 private:
  std::string_view op_;
  Location at_;
};

/// The arguments of a gradient: only what the op declared in its saves can be read.
class GradContext {
 public:
  GradContext(Node& node, std::span<const Tensor> incoming, Recomputation& recomputation)
      : node_(node), incoming_(incoming), recomputation_(recomputation) {}

  /// A saved input or output of the forward op (asserts that it was declared, also by `saves_for`). Of a
  /// checkpointed op it is computed again.
  Tensor input(int i) const;
  Tensor output(int i) const;
  /// What input i, one of the op's f64 numbers, is.
  double number(int i) const;
  /// Shapes and dtypes are always known.
  const Shape& input_shape(int i) const;
  DType input_dtype(int i) const;
  const Shape& output_shape(int i) const;
  int input_count() const;
  int output_count() const { return static_cast<int>(incoming_.size()); }

  /// The gradient that came for output i; zeros are recorded where none came.
  Tensor incoming(int i = 0) const;
  bool has_incoming(int i) const { return incoming_[static_cast<std::size_t>(i)].defined(); }
  /// Whether anybody wants the gradient of input i.
  bool needs(int i) const;
  void set(int i, Tensor gradient);

  template <class T>
  T attrs() const {
    return raw_attrs().as<T>();
  }
  const Attrs& raw_attrs() const;

  /// The gradient of an op that is given by what it means: records `meaning(inputs)` from differentiable ops,
  /// and its gradients by reverse mode. All inputs must be declared saves. For second derivatives of the
  /// `*_grad` ops.
  void through(const std::function<std::vector<Tensor>(const std::vector<Tensor>&)>& meaning);

  InlineVector<Tensor, 6>& gradients() { return gradients_; }

 private:
  Tensor saved(Value& value) const;

  Node& node_;
  std::span<const Tensor> incoming_;
  Recomputation& recomputation_;
  InlineVector<Tensor, 6> gradients_ = {};
};

/// A tensor as the reference sees it: doubles, or std::int64_t where all that an op reads and writes is of an
/// integer dtype or bool.
template <class T>
struct RefTensorOf {
  Shape shape;
  DType dtype = DType::f32;
  T* data = nullptr;
  std::int64_t size() const { return shape.elements(); }
};
using RefTensor = RefTensorOf<double>;

/// A tensor's elements as they are.
struct RawTensor {
  Shape shape;
  DType dtype = DType::f32;
  void* data = nullptr;
};

template <class T>
class RefContextOf {
 public:
  RefContextOf(std::string_view op, const Attrs& attrs, std::span<const RefTensorOf<T>> in,
               std::span<const RefTensorOf<T>> out)
      : attrs(attrs), in(in), out(out), op_(op) {}
  const Attrs& attrs;
  std::span<const RefTensorOf<T>> in;
  std::span<const RefTensorOf<T>> out;  ///< written in full; rounded to its dtype by the caller
  /// A mistake that only the data shows (a label out of range).
  [[noreturn]] void fail(const std::string& what) const;

 private:
  std::string_view op_;
};
using RefContext = RefContextOf<double>;
using WholeContext = RefContextOf<std::int64_t>;

/// From the 32nd on they share the last one.
constexpr std::uint32_t bit(int i) { return 1u << (i < 31 ? i : 31); }
constexpr std::uint32_t all_inputs = ~0u;

/// Inputs and outputs as bits.
struct Saves {
  std::uint32_t inputs = 0, outputs = 0;
};

/// In which dtype Autocast lets an op take its f32 and 16-bit inputs.
enum class Takes : std::uint8_t {
  as_given,  ///< as they are
  low,       ///< as Autocast's dtype: products, which are added up in f32
  wide,      ///< as f32: sums of many terms, exponentials and logarithms of them
  common,    ///< as f32 where both kinds come in: several inputs that must be of one dtype
};

/// Which dtypes a pointwise op may meet beside f32, bf16 and f16.
enum class Elements : std::uint8_t {
  floats,   ///< none
  compare,  ///< bool and u8 operands too; gives bool
  select,   ///< moves values: bool and u8 in and out
  convert,  ///< cast
};

/// What a batch norm's op reads or makes.
enum class NormRole : std::uint8_t {
  none,
  x,
  gamma,
  beta,
  running_mean,
  running_var,
  mean,
  inv_std,
  new_running_mean,
  new_running_var,
  dx,
  dgamma,
  dbeta
};
/// Of its inputs, without numbers, and outputs in order. The last ones may be absent from a call.
struct NormSignature {
  NormRole inputs[7] = {};
  NormRole outputs[5] = {};
};

struct OpDef {
  std::string_view name;
  void (*infer)(InferContext&) = nullptr;
  /// The last so many inputs are numbers, which the shape rule does not see: scalars that a call makes of its
  /// options, so that other values make no other plan. f64, whatever the tensors, where a kernel computes
  /// with them.
  int numbers = 0;
  /// nullptr: carries no gradient.
  void (*gradient)(GradContext&) = nullptr;
  /// What the gradient reads, as bits: the only values kept for backward.
  std::uint32_t saves_inputs = 0;
  std::uint32_t saves_outputs = 0;
  /// Of those, what the gradients of the inputs `wanted` (bits) read. nullptr: everything.
  Saves (*saves_for)(std::uint32_t wanted) = nullptr;
  /// The meaning, in plain loops over doubles. nullptr only for views, pointwise ops and those with `run`.
  void (*reference)(RefContext&) = nullptr;
  /// Pointwise ops (outputs one value, inputs broadcast to its shape): the meaning of one element.
  double (*pointwise)(const double* in, const Attrs& attrs) = nullptr;
  /// The same without rounding, where every input and output is of an integer dtype or bool. What overflows
  /// wraps around. nullptr: no such call, or small numbers only.
  void (*whole_reference)(WholeContext&) = nullptr;
  std::int64_t (*whole_pointwise)(const std::int64_t* in, const Attrs& attrs) = nullptr;
  /// A user's own forward: the op's meaning and its kernel on every backend, never part of a group.
  void (*run)(const Attrs& attrs, std::span<const RawTensor> in, std::span<const RawTensor> out) = nullptr;
  /// The output is the first input's bytes under another shape: no kernel, no copy.
  bool view = false;
  /// Bits of outputs that a gradient flows through.
  std::uint32_t differentiable_outputs = bit(0);
  /// Multiply-adds of a call times two; 0 where it does not matter.
  double (*flops)(std::span<const TensorInfo> in, std::span<const TensorInfo> out,
                  const Attrs& attrs) = nullptr;
  Takes takes = Takes::as_given;
  Elements elements = Elements::floats;  ///< pointwise ops
  /// Pointwise ops: the result is one of the operands, or one with another sign, or 0: of 16-bit operands it
  /// is a 16-bit number without rounding.
  bool chooses = false;
  /// How often whole tensors are read or written beside what the operands tell; negative for operands that
  /// are no whole tensors: a convolution's weights.
  double extra_passes = 0;
  const NormSignature* norm = nullptr;  ///< batch and group norms
  /// A pointwise op of one tensor that other kernels may compute of what they write.
  bool activation = false;
  /// The gradient of such an op: of g and the activation's output, if that saves it, else its input; then the
  /// activation's numbers.
  const OpDef* gradient_of = nullptr;
  /// An optimizer's update (core/numerics/update_formulas.inc): p, g, state, scalars → p', new state. All
  /// updates by one op may run as one kernel.
  bool update = false;

  Saves saves_of(std::uint32_t wanted) const {
    return saves_for != nullptr ? saves_for(wanted) : Saves{saves_inputs, saves_outputs};
  }
};

/// Every op, in the order of core/op/op_list.hpp (explicit: no static initialisers).
std::span<const OpDef* const> all_ops();
/// By name, for what comes as text; asserts that there is one.
const OpDef& find_op(std::string_view name);

using Outputs = InlineVector<Tensor, 6>;
/// Checks and records one call; all-or-nothing.
Outputs record(const OpDef& op, std::span<const Tensor> inputs, const Attrs& attrs, Location at);
inline Outputs record(const OpDef& op, std::initializer_list<Tensor> inputs, const Attrs& attrs,
                      Location at) {
  return record(op, std::span<const Tensor>(inputs.begin(), inputs.size()), attrs, at);
}
/// For ops with one output.
Tensor record_one(const OpDef& op, std::initializer_list<Tensor> inputs, const Attrs& attrs, Location at);

}  // namespace fusetape::core
