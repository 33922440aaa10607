#pragma once
#include "backends/update_groups.hpp"

/// The inner loops of the optimizers.
namespace fusetape::backends::cpu::update {

/// The elements of one parameter, by pointer as Update has them. Results may share the operands' places.
struct UpdateSpan {
  float scale = 1;  ///< of the gradient; what that gives is written only where it has a place
  PerUpdateTensor<const float*> in{};
  PerUpdateTensor<float*> out{};
};
void run_update(const KernelArgs& args, const Update& update, const UpdateSpan& span, std::int64_t begin,
                std::int64_t end);

}  // namespace fusetape::backends::cpu::update
