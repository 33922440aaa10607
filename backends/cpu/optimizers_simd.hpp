#pragma once
#include <cstdint>

/// The inner loops of the optimizers, on a run of elements of one parameter. Results may share the operands'
/// places.
namespace fusetape::backends::cpu {

/// g' = scale·g; d = g' + weight_decay·p; v' = momentum·v + d; p' = p − lr·(nesterov ? d + momentum·v' : v').
/// Without momentum v, v' are null; g' is written only where it has a place.
struct SgdSpan {
  float lr = 0, weight_decay = 0, momentum = 0;
  float scale = 1;
  bool nesterov = false;
  const float *p = nullptr, *g = nullptr, *v = nullptr;
  float *new_p = nullptr, *new_g = nullptr, *new_v = nullptr;
};
void update_sgd(const SgdSpan& span, std::int64_t begin, std::int64_t end);

/// As AdamAttrs says of g' = scale·g, with step = lr/c₁ and root = 1/√c₂: p' = keep·p − step·m' / (√v'·root +
/// eps). g' is written only where it has a place.
struct AdamSpan {
  float step = 0, beta1 = 0, rest1 = 0, beta2 = 0, rest2 = 0, eps = 0, root = 0;
  float decay = 0;  ///< added to the gradient times p
  float keep = 1;   ///< decoupled: the part of p that stays
  float scale = 1;
  const float *p = nullptr, *g = nullptr, *m = nullptr, *v = nullptr;
  float *new_p = nullptr, *new_g = nullptr, *new_m = nullptr, *new_v = nullptr;
};
void update_adam(const AdamSpan& span, std::int64_t begin, std::int64_t end);

}  // namespace fusetape::backends::cpu
