#include "backends/norm_groups.hpp"

#include <algorithm>
#include <string>

#include "core/op/op_list.hpp"

namespace fusetape::backends {

using plan::Graph;
using plan::NormRoles;

namespace {

Support refuse(std::string reason) { return {.ok = false, .reason = std::move(reason)}; }

/// All present values of this dtype with as many elements as expected.
Support check(const Graph& graph, std::initializer_list<int> values, DType dtype, std::int64_t elements) {
  for (int value : values) {
    if (value < 0) continue;
    if (graph.value(value).dtype != dtype) {
      return refuse("expected " + std::string(name_of(dtype)) + ", got " +
                    std::string(name_of(graph.value(value).dtype)));
    }
    if (graph.value(value).elements() != elements) return refuse("operands broadcast");
  }
  return {};
}

/// `tensors` are those beside each norm's own.
Support check_norms(const Graph& graph, const NormRoles* norms, int count, std::initializer_list<int> tensors,
                    std::initializer_list<DType> dtypes) {
  const Shape& shape = graph.value(norms[0].x).shape;
  const DType dtype = graph.value(norms[0].x).dtype;
  if (shape.rank() == 0 || shape.elements() == 0) return refuse("no rows of channels");
  if (std::find(dtypes.begin(), dtypes.end(), dtype) == dtypes.end()) {
    std::string names;
    for (const DType allowed : dtypes) names += (names.empty() ? "" : " or ") + std::string(name_of(allowed));
    return refuse("expected " + names + ", got " + std::string(name_of(dtype)));
  }
  Support support = check(graph, tensors, dtype, shape.elements());
  for (int i = 0; i < count && support.ok; ++i) {
    const NormRoles& n = norms[i];
    support = check(graph, {n.x, n.dx, n.normed}, dtype, shape.elements());
    if (!support.ok) break;
    support = check(graph,
                    {n.gamma, n.beta, n.running_mean, n.running_var, n.mean, n.inv_std, n.new_running_mean,
                     n.new_running_var, n.dgamma, n.dbeta},
                    DType::f32, shape.back());
  }
  return support;
}

}  // namespace

Support norm_operands(const Graph& graph, const plan::NormForward& roles,
                      std::initializer_list<DType> dtypes) {
  if (roles.statistics == plan::Statistics::sample) return refuse({});
  return check_norms(graph, roles.norm, roles.norms, {roles.z, roles.sum, roles.y}, dtypes);
}

Support norm_operands(const Graph& graph, const plan::NormBackward& roles,
                      std::initializer_list<DType> dtypes) {
  if (graph.node(roles.norm[0].node).is(ops::group_norm_grad_op)) return refuse({});
  if (roles.recompute && roles.norms != 1) return refuse("two normalisations need their ReLU's output");
  return check_norms(graph, roles.norm, roles.norms, {roles.g, roles.g2, roles.y, roles.masked}, dtypes);
}

}  // namespace fusetape::backends
