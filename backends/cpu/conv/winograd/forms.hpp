#pragma once
#include "backends/cpu/conv/winograd/winograd.hpp"

/// The forms of a Source and of a Sink. Each has code of its own, and what winograd.hpp does not offer has
/// none.
namespace fusetape::backends::cpu::conv::winograd {

enum class Form : std::uint8_t { plain, norm, norm_relu, norm_add_relu, two_norms_relu, norm_gradient };

inline Form form_of(const Source& source) {
  if (source.scale == nullptr) return Form::plain;
  if (source.mean == nullptr) return Form::norm_gradient;
  if (source.x2 == nullptr) return source.relu ? Form::norm_relu : Form::norm;
  return source.scale2 == nullptr ? Form::norm_add_relu : Form::two_norms_relu;
}

inline bool is_offered(const Source& source) {
  switch (form_of(source)) {
    case Form::plain:
      return source.x2 == nullptr && !source.relu && source.written == nullptr;
    case Form::norm_add_relu:
    case Form::two_norms_relu:
      return source.relu;
    case Form::norm_gradient:
      return source.x2 != nullptr && !source.relu;
    default:
      return true;
  }
}

/// What a result passes before it is stored.
enum class Gate : std::uint8_t { none, relu, mask_y, mask_x };

inline Gate gate_of(const Sink& sink) {
  if (sink.mask_y != nullptr) return Gate::mask_y;
  if (sink.mask_x != nullptr) return Gate::mask_x;
  return sink.relu ? Gate::relu : Gate::none;
}

inline bool is_offered(const Sink& sink) {
  const int gates = (sink.relu ? 1 : 0) + (sink.mask_y != nullptr ? 1 : 0) + (sink.mask_x != nullptr ? 1 : 0);
  if (gates > 1) return false;
  const Gate gate = gate_of(sink);
  if (sink.sums == Sums::moments) return gate == Gate::none && sink.z == nullptr;
  return gate != (sink.sums == Sums::none ? Gate::mask_x : Gate::relu);
}

}  // namespace fusetape::backends::cpu::conv::winograd
