#pragma once
#include <cstdint>

#include "core/update_formulas.hpp"

/// The inner loops of the optimizers, on a run of elements of one parameter. Results may share the operands'
/// places.
namespace fusetape::backends::cpu {

/// core::sgd_updated of g' = scale·g. Without momentum v, v' are null; g' is written only where it has a
/// place.
struct SgdSpan {
  core::SgdFactors factors{};
  float scale = 1;
  const float *p = nullptr, *g = nullptr, *v = nullptr;
  float *new_p = nullptr, *new_g = nullptr, *new_v = nullptr;
};
void update_sgd(const SgdSpan& span, std::int64_t begin, std::int64_t end);

/// core::adam_updated of g' = scale·g. g' is written only where it has a place.
struct AdamSpan {
  core::AdamFactors factors{};
  float scale = 1;
  const float *p = nullptr, *g = nullptr, *m = nullptr, *v = nullptr;
  float *new_p = nullptr, *new_g = nullptr, *new_m = nullptr, *new_v = nullptr;
};
void update_adam(const AdamSpan& span, std::int64_t begin, std::int64_t end);

}  // namespace fusetape::backends::cpu
