#include <cblas.h>

#include <limits>
#include <optional>
#include <string>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/onednn_engine.hpp"
#include "core/op_attrs.hpp"

/// matmul. f32 goes to oneDNN, whose threads and kernels are the better ones from about 128×128×128 on;
/// smaller products, and f64, go to OpenBLAS, which needs no primitive and is as fast there.
namespace fusetape::backends::cpu {
namespace {

using dnnl::memory;
using plan::Graph;
using plan::Group;

constexpr std::int64_t small_product = std::int64_t{1} << 18;  ///< multiply-adds

struct Matrix {
  int id = -1;
  std::int64_t batch = 1, rows = 0, columns = 0;  ///< as multiplied
  bool transposed = false;                        ///< stored {columns, rows}

  std::int64_t elements() const { return rows * columns; }
  /// Between the starts of two stored rows.
  std::int64_t leading() const { return transposed ? rows : columns; }
};

/// c = a·b for each of `batch` pairs; a matrix of batch 1 serves all.
struct Product {
  std::int64_t batch = 1;
  Matrix a, b, c;
};

Matrix matrix_of(const Graph& graph, int id, bool transposed) {
  const Shape& shape = graph.value(id).shape;
  const int rank = shape.rank();
  Matrix m{.id = id, .rows = shape[rank - 2], .columns = shape[rank - 1]};
  for (int axis = 0; axis < rank - 2; ++axis) m.batch *= shape[axis];
  if (transposed) std::swap(m.rows, m.columns);
  m.transposed = transposed && m.rows > 1 && m.columns > 1;  // a vector's bytes are the same either way
  return m;
}

std::optional<Product> product_of(const Graph& graph, const Group& group) {
  if (group.pattern != plan::Pattern::single) return std::nullopt;
  const plan::GraphNode& node = graph.node(group.nodes[0]);
  if (!node.op->is("matmul")) return std::nullopt;
  const auto attrs = node.attrs.as<core::MatmulAttrs>();
  Product p;
  p.a = matrix_of(graph, node.inputs[0], attrs.transpose_a != 0);
  p.b = matrix_of(graph, node.inputs[1], attrs.transpose_b != 0);
  p.c = matrix_of(graph, node.outputs[0], false);
  p.batch = p.c.batch;
  if (p.batch > 1 && p.b.batch == 1 && !p.a.transposed) {
    // Rows of all batches below each other: one larger product.
    for (Matrix* m : {&p.a, &p.c}) m->rows *= std::exchange(m->batch, 1);
    p.batch = 1;
  }
  return p;
}

bool has_empty(const Product& p) { return p.batch * p.a.elements() * p.b.elements() == 0; }

// ---- oneDNN -----------------------------------------------------------------------------------------------

memory::desc describe(const Matrix& m) {
  const std::int64_t row = m.transposed ? 1 : m.columns, column = m.transposed ? m.rows : 1;
  return {{m.batch, m.rows, m.columns}, memory::data_type::f32, memory::dims{m.elements(), row, column}};
}

dnnl::matmul::primitive_desc describe(const Product& p) {
  return {onednn_engine(), describe(p.a), describe(p.b), describe(p.c), onednn_attributes()};
}

Support onednn_supports(const Graph& graph, const Group& group) {
  const std::optional<Product> product = product_of(graph, group);
  if (!product) return {.ok = false, .reason = ""};
  const DType dtype = graph.value(product->c.id).dtype;
  if (dtype != DType::f32) return {.ok = false, .reason = "f32 only, not " + std::string(name_of(dtype))};
  if (has_empty(*product)) return {.ok = false, .reason = "an empty tensor"};
  return supported_by_onednn([&] { describe(*product); });
}

std::unique_ptr<Kernel> make_onednn(const Graph& graph, const Group& group) {
  const Product p = *product_of(graph, group);
  try {
    const auto desc = describe(p);
    auto kernel = std::make_unique<OnednnKernel>();
    const memory a = kernel->value(p.a.id, describe(p.a)), b = kernel->value(p.b.id, describe(p.b));
    const memory c = kernel->value(p.c.id, describe(p.c));
    kernel->add(dnnl::matmul(desc), {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}},
                desc.scratchpad_desc());
    kernel->name = std::string("onednn:") + desc.impl_info_str();
    kernel->tensor_passes = 3;
    return kernel;
  } catch (const dnnl::error& error) {
    rethrow_onednn(graph.node(group.nodes[0]), error);
  }
}

// ---- OpenBLAS ---------------------------------------------------------------------------------------------

void gemm(const Product& p, const float* a, const float* b, float* c) {
  cblas_sgemm(CblasRowMajor, p.a.transposed ? CblasTrans : CblasNoTrans,
              p.b.transposed ? CblasTrans : CblasNoTrans, static_cast<blasint>(p.a.rows),
              static_cast<blasint>(p.b.columns), static_cast<blasint>(p.a.columns), 1, a,
              static_cast<blasint>(p.a.leading()), b, static_cast<blasint>(p.b.leading()), 0, c,
              static_cast<blasint>(p.c.leading()));
}

void gemm(const Product& p, const double* a, const double* b, double* c) {
  cblas_dgemm(CblasRowMajor, p.a.transposed ? CblasTrans : CblasNoTrans,
              p.b.transposed ? CblasTrans : CblasNoTrans, static_cast<blasint>(p.a.rows),
              static_cast<blasint>(p.b.columns), static_cast<blasint>(p.a.columns), 1, a,
              static_cast<blasint>(p.a.leading()), b, static_cast<blasint>(p.b.leading()), 0, c,
              static_cast<blasint>(p.c.leading()));
}

template <class T>
class BlasKernel final : public Kernel {
 public:
  explicit BlasKernel(const Product& product) : product_(product) {
    name = std::is_same_v<T, float> ? "openblas:sgemm" : "openblas:dgemm";
    tensor_passes = 3;
  }

  void run(const KernelArgs& args) override {
    const T *a = args.in<T>(product_.a.id), *b = args.in<T>(product_.b.id);
    T* c = args.out<T>(product_.c.id);
    const std::int64_t a_step = product_.a.batch == 1 ? 0 : product_.a.elements();
    const std::int64_t b_step = product_.b.batch == 1 ? 0 : product_.b.elements();
    for (std::int64_t i = 0; i < product_.batch; ++i) {
      gemm(product_, a + i * a_step, b + i * b_step, c + i * product_.c.elements());
    }
  }

 private:
  Product product_;
};

Support blas_supports(const Graph& graph, const Group& group) {
  const std::optional<Product> product = product_of(graph, group);
  if (!product) return {.ok = false, .reason = ""};
  const DType dtype = graph.value(product->c.id).dtype;
  if (dtype != DType::f32 && dtype != DType::f64) {
    return {.ok = false, .reason = "f32 and f64 only, not " + std::string(name_of(dtype))};
  }
  if (has_empty(*product)) return {.ok = false, .reason = "an empty tensor"};
  const bool small = product->batch == 1 && product->c.elements() * product->a.columns <= small_product;
  if (dtype == DType::f32 && !small) return {.ok = false, .reason = "oneDNN is faster at this size"};
  for (std::int64_t extent : {product->a.rows, product->a.columns, product->b.columns}) {
    if (extent > std::numeric_limits<blasint>::max())
      return {.ok = false, .reason = "an extent above 32 bits"};
  }
  return {};
}

std::unique_ptr<Kernel> make_blas(const Graph& graph, const Group& group) {
  const Product product = *product_of(graph, group);
  if (graph.value(product.c.id).dtype == DType::f64) return std::make_unique<BlasKernel<double>>(product);
  return std::make_unique<BlasKernel<float>>(product);
}

constexpr Candidate candidates[] = {{"openblas:gemm", blas_supports, make_blas},
                                    {"onednn:matmul", onednn_supports, make_onednn}};

}  // namespace

std::span<const Candidate> matrix_products() { return candidates; }

}  // namespace fusetape::backends::cpu
