#pragma once
#include <cstdint>
#include <span>

#include "core/plan/plan.hpp"
#include "core/tape/value.hpp"

/// Anomaly detection: after every kernel its floating outputs are searched for NaN and infinity.
namespace fusetape::core {

/// What elements hold that is no finite number.
struct NonFinite {
  std::int64_t nans = 0, infinities = 0;
  std::int64_t first = -1;  ///< -1: all are finite
  bool first_is_nan = false;
};
NonFinite find_non_finite(const void* data, DType dtype, std::int64_t count);

/// Throws an Error where the step's kernel wrote a NaN or an infinity. `values` are the slice's by id.
void require_finite(const plan::Plan& plan, const plan::Step& step, std::span<Value* const> values,
                    plan::Backend& backend);

}  // namespace fusetape::core
