#pragma once
#include <cstdint>
#include <memory>
#include <optional>

#include "backends/backend.hpp"

/// What the kernels for matmul share: a group as one product of matrices, and who can compute it.
namespace fusetape::backends::cpu::matmul {

struct Matrix {
  int id = -1;
  DType dtype = DType::f32;
  std::int64_t batch = 1, rows = 0, columns = 0;  ///< as multiplied
  bool transposed = false;                        ///< stored {columns, rows}

  std::int64_t elements() const { return rows * columns; }
  /// Between the starts of two stored rows.
  std::int64_t leading() const { return transposed ? rows : columns; }
};

/// c = a·b (+ bias) for each of `batch` pairs; a matrix of batch 1 serves all. With `relu`, max(0, c).
struct Product {
  std::int64_t batch = 1;
  Matrix a, b, c;
  int bias = -1;  ///< of a's dtype
  bool relu = false;

  bool empty() const { return batch * a.elements() * b.elements() == 0; }
  bool half() const { return a.dtype == DType::bf16 || a.dtype == DType::f16; }
};

/// The matrix product of a group that is a matmul, alone or with what follows it; without the rest. c is the
/// value that the matmul itself writes, or the cast of it.
std::optional<Product> product_of(const plan::Graph& graph, const plan::Group& group);

/// oneDNN: f32, and bf16 to bf16 or f32 where the processor multiplies bf16; bias and ReLU inside. Making a
/// kernel throws dnnl::error.
Support supports_onednn_product(const Product& product);
std::unique_ptr<Kernel> make_onednn_product(const Product& product);

/// OpenBLAS: f32 or f64, neither bias nor ReLU.
Support supports_blas_product(const Product& product);
std::unique_ptr<Kernel> make_blas_product(const Product& product);

}  // namespace fusetape::backends::cpu::matmul
