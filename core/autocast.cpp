#include "core/autocast.hpp"

#include <algorithm>

#include "core/module_scope.hpp"
#include "core/tape.hpp"
#include "fusetape/autocast.hpp"

namespace fusetape {
namespace core {
namespace {

/// As what an op takes its f32 and bf16 inputs. All others are taken as they are.
enum class Takes : std::uint8_t {
  as_given,
  low,     ///< as Autocast's dtype, a 16-bit one
  wide,    ///< as f32
  common,  ///< as f32 where both kinds come in
};

struct Row {
  std::string_view name;
  Takes takes;
};

/// What is not in the table takes its inputs as given: batch norm (whose parameters and statistics are f32
/// beside a bf16 x), activations, pooling, shapes, dropout, max and argmax, and cast itself. Of linear and
/// conv_transpose2d, mse_loss and bce_with_logits, which are no ops, the calls ask.
constexpr Row table[] = {
    // products: 16 bits in, 16 bits out, added up in f32
    {"conv2d", Takes::low},
    {"conv_transpose2d", Takes::low},
    {"conv2d_grad_input", Takes::low},  // the op of conv_transpose2d
    {"matmul", Takes::low},
    {"linear", Takes::low},
    {"bias_add", Takes::low},  // the end of a product
    // sums of many terms, exponentials and logarithms of them
    {"sum", Takes::wide},
    {"mean", Takes::wide},  // and global_avg_pool
    {"softmax", Takes::wide},
    {"log_softmax", Takes::wide},
    {"cross_entropy", Takes::wide},
    {"bce_with_logits", Takes::wide},
    {"mse_loss", Takes::wide},
    // several inputs that must be of one dtype
    {"add", Takes::common},
    {"sub", Takes::common},
    {"mul", Takes::common},
    {"div", Takes::common},
    {"pow", Takes::common},
    {"minimum", Takes::common},
    {"maximum", Takes::common},
    {"equal", Takes::common},
    {"not_equal", Takes::common},
    {"less", Takes::common},
    {"less_equal", Takes::common},
    {"greater", Takes::common},
    {"greater_equal", Takes::common},
    {"where", Takes::common},
    {"concat", Takes::common},
};

/// Gradients and updates are recorded in the precision of the values that they belong to.
bool autocasting() {
  return Tape::current().settings.autocast != DType::f32 && source_context().phase == plan::Phase::forward;
}

Takes takes(std::string_view name) {
  const Row* const row =
      std::find_if(std::begin(table), std::end(table), [name](const Row& r) { return r.name == name; });
  return row != std::end(table) ? row->takes : Takes::as_given;
}

bool casts(DType dtype) { return dtype == DType::f32 || dtype == Tape::current().settings.autocast; }

}  // namespace

DType autocast_input(std::string_view name, DType dtype) {
  if (!autocasting() || !casts(dtype)) return dtype;
  switch (takes(name)) {
    case Takes::low:
      return Tape::current().settings.autocast;
    case Takes::wide:
      return DType::f32;
    case Takes::as_given:
    case Takes::common:
      break;
  }
  return dtype;
}

void autocast_inputs(std::string_view op, std::span<TensorInfo> inputs) {
  if (!autocasting()) return;
  const auto comes_in = [&](DType dtype) {
    return std::any_of(inputs.begin(), inputs.end(), [&](const TensorInfo& i) { return i.dtype == dtype; });
  };
  const bool widen =
      takes(op) == Takes::common && comes_in(DType::f32) && comes_in(Tape::current().settings.autocast);
  for (TensorInfo& input : inputs) {
    input.dtype = widen && casts(input.dtype) ? DType::f32 : autocast_input(op, input.dtype);
  }
}

}  // namespace core

Autocast::Autocast(DType dtype, Location at) : before_(core::Tape::current().settings.autocast) {
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) {
    throw Error("Autocast", "expected bf16 or f16, or f32 for none, got " + std::string(name_of(dtype)), at);
  }
  core::Tape::current().settings.autocast = dtype;
}

Autocast::~Autocast() {
  if (core::Tape* tape = core::Tape::alive()) tape->settings.autocast = before_;
}

DType autocast_dtype() { return core::Tape::current().settings.autocast; }

}  // namespace fusetape
