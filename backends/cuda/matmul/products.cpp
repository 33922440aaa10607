#include <optional>
#include <utility>

#include "backends/cuda/candidates.hpp"
#include "backends/cuda/library_kernel.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

/// matmul, alone and with bias, activation or a cast, through the library (cuBLASLt).
namespace fusetape::backends::cuda::matmul {
namespace {

using plan::Graph;
using plan::Group;

/// A stack of matrices, as the product sees each of them.
struct Matrices {
  std::int64_t count = 1, rows = 0, columns = 0;
  bool transposed = false;  ///< stored {columns, rows}

  /// Elements from one to the next; of one matrix for all there is no next.
  std::int64_t stride() const { return count == 1 ? 0 : rows * columns; }
};

Matrices matrices_of(const Shape& shape, bool transposed) {
  const int rank = shape.rank();
  Matrices m{.rows = shape[rank - 2], .columns = shape[rank - 1]};
  for (int axis = 0; axis < rank - 2; ++axis) m.count *= shape[axis];
  if (transposed) std::swap(m.rows, m.columns);
  m.transposed = transposed && m.rows > 1 && m.columns > 1;  // a vector's bytes are the same either way
  return m;
}

struct LibraryProduct {
  ProductSpec spec;
  OperationRoles roles;
};

/// The rules put no other behind a product.
ProductSpec::Activation activation_of(const core::OpDef* op) {
  if (op == &ops::relu_op) return ProductSpec::Activation::relu;
  return op == &ops::gelu_op ? ProductSpec::Activation::gelu : ProductSpec::Activation::none;
}

std::optional<LibraryProduct> product_of(const Graph& graph, const Group& group) {
  const auto* roles = group.as<plan::MatrixProduct>();
  if (roles == nullptr) return std::nullopt;
  const auto attrs = graph.node(roles->node).attrs.as<core::MatmulAttrs>();
  LibraryProduct product{.roles = {.a = roles->a, .b = roles->b, .bias = roles->bias, .out = roles->y}};
  Matrices a = matrices_of(graph.value(product.roles.a).shape, attrs.transpose_a != 0);
  const Matrices b = matrices_of(graph.value(product.roles.b).shape, attrs.transpose_b != 0);
  // The rows of all matrices below each other: one larger product.
  if (b.count == 1 && !a.transposed) a.rows *= std::exchange(a.count, 1);
  product.spec = {.dtype = graph.value(product.roles.a).dtype,
                  .result = graph.value(product.roles.out).dtype,
                  .batch = a.count == 1 ? b.count : a.count,
                  .m = a.rows,
                  .n = b.columns,
                  .k = a.columns,
                  .stride_a = a.stride(),
                  .stride_b = b.stride(),
                  .transpose_a = a.transposed,
                  .transpose_b = b.transposed,
                  .bias = product.roles.bias >= 0,
                  .tf32 = graph.tf32};
  product.spec.activation = activation_of(roles->activation);
  return product;
}

/// Nothing to multiply, or nothing to write.
bool is_empty(const ProductSpec& spec) { return spec.batch * spec.m * spec.n * spec.k == 0; }

Support supports(const Graph& graph, const Group& group, Device& device) {
  const std::optional<LibraryProduct> product = product_of(graph, group);
  if (!product) return {.ok = false, .reason = ""};
  if (group.as<plan::MatrixProduct>()->before_activation >= 0) {
    return {.ok = false, .reason = "what the activation reads is wanted, too: one result is written"};
  }
  const ProductSpec& spec = product->spec;
  if (Support fits = supports_dtype(spec.dtype); !fits.ok) return fits;
  if (is_empty(spec)) {
    return {.ok = !spec.bias, .reason = spec.bias ? "a bias on a product of nothing" : ""};
  }
  const LibraryCache::Built built = device.libraries.find(spec);
  return {.ok = built.operation != nullptr, .reason = built.refusal};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  const LibraryProduct product = *product_of(graph, group);
  if (is_empty(product.spec)) return make_empty_sum(graph, device, product.roles.out);
  return make_library_kernel(graph, device, device.libraries.find(product.spec).operation, product.roles);
}

constexpr Candidate candidates[] = {{"cublaslt", supports, make}};

}  // namespace

std::span<const Candidate> products() { return candidates; }

}  // namespace fusetape::backends::cuda::matmul
