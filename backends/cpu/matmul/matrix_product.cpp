#include "backends/cpu/matmul/matrix_product.hpp"

#include <utility>

#include "core/op/op_attrs.hpp"

namespace fusetape::backends::cpu::matmul {
namespace {

using plan::Graph;
using plan::Group;

Matrix matrix_of(const Graph& graph, int id, bool transposed) {
  const plan::GraphValue& value = graph.value(id);
  const int rank = value.shape.rank();
  Matrix m{.id = id, .dtype = value.dtype, .rows = value.shape[rank - 2], .columns = value.shape[rank - 1]};
  for (int axis = 0; axis < rank - 2; ++axis) m.batch *= value.shape[axis];
  if (transposed) std::swap(m.rows, m.columns);
  m.transposed = transposed && m.rows > 1 && m.columns > 1;  // a vector's bytes are the same either way
  return m;
}

}  // namespace

std::optional<Product> product_of(const Graph& graph, const Group& group) {
  const auto* roles = group.as<plan::MatrixProduct>();
  if (roles == nullptr) return std::nullopt;
  const plan::GraphNode& node = graph.node(roles->node);
  const auto attrs = node.attrs.as<core::MatmulAttrs>();
  Product p;
  p.a = matrix_of(graph, node.inputs[0], attrs.transpose_a != 0);
  p.b = matrix_of(graph, node.inputs[1], attrs.transpose_b != 0);
  const bool cast = graph.value(roles->y).dtype != p.a.dtype;
  p.c = matrix_of(graph, cast ? roles->y : node.outputs[0], false);
  p.batch = p.c.batch;
  if (p.batch > 1 && p.b.batch == 1 && !p.a.transposed) {
    // Rows of all batches below each other: one larger product.
    for (Matrix* m : {&p.a, &p.c}) m->rows *= std::exchange(m->batch, 1);
    p.batch = 1;
  }
  return p;
}

}  // namespace fusetape::backends::cpu::matmul
