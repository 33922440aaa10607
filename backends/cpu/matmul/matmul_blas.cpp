#include <cblas.h>

#include <limits>
#include <string>

#include "backends/cpu/matmul/matrix_product.hpp"

/// Matrix products by OpenBLAS, which needs no primitive.
namespace fusetape::backends::cpu::matmul {
namespace {

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

}  // namespace

Support supports_blas_product(const Product& p) {
  if (p.a.dtype != p.c.dtype || (p.a.dtype != DType::f32 && p.a.dtype != DType::f64)) {
    return {.ok = false, .reason = "f32 and f64 only, not " + std::string(name_of(p.a.dtype))};
  }
  if (p.empty()) return {.ok = false, .reason = "an empty tensor"};
  for (std::int64_t extent : {p.a.rows, p.a.columns, p.b.columns}) {
    if (extent > std::numeric_limits<blasint>::max())
      return {.ok = false, .reason = "an extent above 32 bits"};
  }
  return {};
}

std::unique_ptr<Kernel> make_blas_product(const Product& p) {
  if (p.a.dtype == DType::f64) return std::make_unique<BlasKernel<double>>(p);
  return std::make_unique<BlasKernel<float>>(p);
}

}  // namespace fusetape::backends::cpu::matmul
