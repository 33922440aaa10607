#include "core/autograd/autocast.hpp"

#include <algorithm>

#include "core/tape/module_scope.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/autocast.hpp"

namespace fusetape {
namespace core {
namespace {

/// Gradients and updates are recorded in the precision of the values that they belong to.
bool autocasting() {
  return Tape::current().settings.autocast != DType::f32 && source_context().phase == plan::Phase::forward;
}

bool casts(DType dtype) { return dtype == DType::f32 || dtype == Tape::current().settings.autocast; }

}  // namespace

DType autocast_input(Takes takes, DType dtype) {
  if (!autocasting() || !casts(dtype)) return dtype;
  switch (takes) {
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

void autocast_inputs(const OpDef& op, std::span<TensorInfo> inputs) {
  if (!autocasting()) return;
  const auto comes_in = [&](DType dtype) {
    return std::any_of(inputs.begin(), inputs.end(),
                       [&](const TensorInfo& i) { return i.dtype == dtype && !i.number; });
  };
  const bool widen =
      op.takes == Takes::common && comes_in(DType::f32) && comes_in(Tape::current().settings.autocast);
  for (TensorInfo& input : inputs) {
    if (input.number) continue;
    input.dtype = widen && casts(input.dtype) ? DType::f32 : autocast_input(op.takes, input.dtype);
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
