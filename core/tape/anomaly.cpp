#include "core/tape/anomaly.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace fusetape::core {
namespace {

/// A NaN or an infinity has every exponent bit set; a NaN has others below, too.
template <class Bits>
NonFinite search(const Bits* bits, std::int64_t count, Bits exponent, Bits mantissa) {
  constexpr std::int64_t block = 4096;
  NonFinite found;
  for (std::int64_t start = 0; start < count; start += block) {
    const std::int64_t end = std::min(start + block, count);
    Bits any = 0;
    for (std::int64_t i = start; i < end; ++i) any |= static_cast<Bits>((bits[i] & exponent) == exponent);
    if (any == 0) continue;
    for (std::int64_t i = start; i < end; ++i) {
      if ((bits[i] & exponent) != exponent) continue;
      const bool nan = (bits[i] & mantissa) != 0;
      ++(nan ? found.nans : found.infinities);
      if (found.first >= 0) continue;
      found.first = i;
      found.first_is_nan = nan;
    }
  }
  return found;
}

std::string index_text(std::int64_t element, const Shape& shape) {
  Shape index = shape;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    index[axis] = element % shape[axis];
    element /= shape[axis];
  }
  return to_string(index);
}

/// "a NaN at {0, 3}: 1 NaN and 2 infinities among 12 elements f32 {4, 3}"
std::string text_of(const NonFinite& found, const Shape& shape, DType dtype) {
  std::string counts;
  if (found.nans > 0) counts = std::to_string(found.nans) + " NaN";
  if (found.infinities > 0) {
    counts += (counts.empty() ? "" : " and ") + std::to_string(found.infinities) +
              (found.infinities == 1 ? " infinity" : " infinities");
  }
  return std::string(found.first_is_nan ? "a NaN" : "an infinity") + " at " + index_text(found.first, shape) +
         ": " + counts + " among " + std::to_string(shape.elements()) + " elements, " +
         std::string(name_of(dtype)) + " " + to_string(shape);
}

/// "parameter 'fc.weight'"; empty where the value is no parameter's.
std::string parameter_text(const Value& value) {
  const std::shared_ptr<Cell> cell = value.node->cell.lock();
  if (cell == nullptr) return "";
  return cell->name.empty() ? "a parameter" : "parameter '" + cell->name + "'";
}

const char* phase_text(plan::Phase phase) {
  switch (phase) {
    case plan::Phase::forward:
      return "in forward";
    case plan::Phase::backward:
      return "in backward";
    case plan::Phase::update:
      return "in the update";
  }
  return "";
}

NonFinite search(const plan::Plan& plan, int id, plan::Backend& backend) {
  const plan::GraphValue& value = plan.graph.value(id);
  const void* data = plan.pointers[static_cast<std::size_t>(id)];
  if (data == nullptr) return {};
  if (backend.on_host()) return find_non_finite(data, value.dtype, value.elements());
  std::vector<std::byte> bytes(static_cast<std::size_t>(value.bytes()));
  backend.download(bytes.data(), data, bytes.size());
  return find_non_finite(bytes.data(), value.dtype, value.elements());
}

/// What every earlier kernel wrote is finite: a bad input came from outside, and its maker is not known.
void blame_inputs(const plan::Plan& plan, const plan::GraphNode& node, std::span<Value* const> values,
                  plan::Backend& backend) {
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const NonFinite found = search(plan, node.inputs[i], backend);
    if (found.first < 0) continue;
    const Value& value = *values[static_cast<std::size_t>(node.inputs[i])];
    const std::string parameter = parameter_text(value);
    throw Error("anomaly", std::string(phase_text(node.phase)) + ", expected finite inputs, got " +
                               text_of(found, value.shape, value.dtype) + ": input " + std::to_string(i) +
                               (parameter.empty() ? "" : ", the value of " + parameter + ",") +
                               " was so before this run");
  }
}

/// An update's line is the optimizer's step: which parameter says more.
std::string updated_text(const plan::GraphNode& node, std::span<Value* const> values) {
  if (node.phase != plan::Phase::update) return "";
  const std::string parameter = parameter_text(*values[static_cast<std::size_t>(node.inputs[0])]);
  return parameter.empty() ? "" : " (of " + parameter + ")";
}

}  // namespace

NonFinite find_non_finite(const void* data, DType dtype, std::int64_t count) {
  switch (dtype) {
    case DType::f32:
      return search(static_cast<const std::uint32_t*>(data), count, 0x7f800000u, 0x007fffffu);
    case DType::f64:
      return search(static_cast<const std::uint64_t*>(data), count, std::uint64_t{0x7ff} << 52,
                    (std::uint64_t{1} << 52) - 1);
    case DType::bf16:
      return search<std::uint16_t>(static_cast<const std::uint16_t*>(data), count, 0x7f80, 0x007f);
    case DType::f16:
      return search<std::uint16_t>(static_cast<const std::uint16_t*>(data), count, 0x7c00, 0x03ff);
    default:
      return {};
  }
}

void require_finite(const plan::Plan& plan, const plan::Step& step, std::span<Value* const> values,
                    plan::Backend& backend) {
  const plan::Group& group = plan.groups[static_cast<std::size_t>(step.group)];
  const plan::GraphNode& node = plan.graph.node(step.node);
  for (int id : group.outputs) {
    const NonFinite found = search(plan, id, backend);
    if (found.first < 0) continue;
    blame_inputs(plan, node, values, backend);
    const plan::GraphValue& value = plan.graph.value(id);
    throw Error("anomaly", std::string(phase_text(node.phase)) + ", expected finite values, got " +
                               text_of(found, value.shape, value.dtype) + updated_text(node, values));
  }
}

}  // namespace fusetape::core
