#include "core/op/op_list.hpp"

#include <algorithm>

#include "core/check.hpp"

namespace fusetape::core {
namespace {

#define FUSETAPE_ENTER_OP(name, ...) &ops::name##_op,
const OpDef* const registry[] = {FUSETAPE_POINTWISE_OPS(FUSETAPE_ENTER_OP)
                                     FUSETAPE_OTHER_OPS(FUSETAPE_ENTER_OP)};
#undef FUSETAPE_ENTER_OP

}  // namespace

std::span<const OpDef* const> all_ops() { return registry; }

const OpDef& find_op(std::string_view name) {
  const auto* const found = std::find_if(std::begin(registry), std::end(registry),
                                         [name](const OpDef* op) { return op->name == name; });
  if (found != std::end(registry)) return **found;
  assertion_failed("the op has a name of the list", __FILE__, __LINE__);
}

}  // namespace fusetape::core
