#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/numerics/number_text.hpp"
#include "fusetape/error.hpp"
#include "fusetape/init.hpp"
#include "fusetape/size2d.hpp"

extern "C" void dsyev_(const char* job, const char* triangle, const int* order, double* matrix,
                       const int* leading, double* eigenvalues, double* work, const int* work_size,
                       int* info);

namespace fusetape::nn {
namespace {

constexpr std::int64_t most_elements = 4096;  // of a patch: the solver takes their cube of operations

void require(bool ok, const std::string& expected, const std::string& got, Location at) {
  if (!ok) throw Error("whitening", "expected " + expected + ", got " + got, at);
}

/// Calls visit with each patch {kernel.height, kernel.width, channels} of the images, as one row.
template <class Visit>
void for_each_patch(const std::vector<float>& images, const Shape& shape, Size2d kernel, Visit&& visit) {
  const std::int64_t height = shape[1], width = shape[2], row = kernel[1] * shape[3];
  std::vector<double> patch(static_cast<std::size_t>(kernel[0] * row));
  for (std::int64_t n = 0; n < shape[0]; ++n) {
    for (std::int64_t y = 0; y + kernel[0] <= height; ++y) {
      for (std::int64_t x = 0; x + kernel[1] <= width; ++x) {
        for (std::int64_t k = 0; k < kernel[0]; ++k) {
          const auto from = images.begin() + ((n * height + y + k) * width + x) * shape[3];
          std::copy(from, from + row, patch.begin() + k * row);
        }
        visit(patch);
      }
    }
  }
}

}  // namespace

Tensor whitening(const Tensor& images, Size2d kernel, double eps, Location at) {
  const Shape shape = images.shape();
  require(shape.rank() == 4 && images.dtype() == DType::f32, "f32 images {N, H, W, C}",
          std::string(name_of(images.dtype())) + " " + to_string(shape), at);
  require(kernel[0] >= 1 && kernel[1] >= 1 && kernel[0] <= shape[1] && kernel[1] <= shape[2] &&
              shape.elements() > 0 && shape[3] <= most_elements &&
              kernel[0] * kernel[1] <= most_elements / shape[3],
          "at least one patch, of at most 4096 elements",
          "kernel " + to_string(Shape{kernel[0], kernel[1]}) + " and images " + to_string(shape), at);
  require(eps > 0 && std::isfinite(eps), "a finite eps > 0", core::number_text(eps), at);

  const int order = static_cast<int>(kernel[0] * kernel[1] * shape[3]);
  const auto size = static_cast<std::size_t>(order);
  std::vector<double> matrix(size * size), eigenvalues(size);
  double patches = 0;
  for_each_patch(images.to_vector(), shape, kernel, [&](const std::vector<double>& patch) {
    for (std::size_t i = 0; i < size; ++i) {
      for (std::size_t j = 0; j <= i; ++j) matrix[i * size + j] += patch[i] * patch[j];
    }
    ++patches;
  });
  for (double& element : matrix) element /= patches;
  require(std::all_of(matrix.begin(), matrix.end(), [](double m) { return std::isfinite(m); }),
          "finite images", "a NaN or an infinity among them", at);

  // By columns, as the solver reads it, this is an upper triangle; it leaves an eigenvector in each row.
  std::vector<double> work(size * 34);
  const int work_size = order * 34;
  int info = 0;
  dsyev_("V", "U", &order, matrix.data(), &order, eigenvalues.data(), work.data(), &work_size, &info);
  require(info == 0, "moments that have eigenvalues", "none", at);

  std::vector<float> filters(2 * size * size);
  for (std::size_t filter = 0; filter < size; ++filter) {
    const std::size_t from = size - 1 - filter;  // the solver's eigenvalues rise
    const double scale = 1 / std::sqrt(std::max(eigenvalues[from], 0.0) + eps);
    for (std::size_t i = 0; i < size; ++i) {
      const auto weight = static_cast<float>(scale * matrix[from * size + i]);
      filters[filter * size + i] = weight;
      filters[(size + filter) * size + i] = -weight;
    }
  }
  return from_vector(filters, {2 * order, kernel[0], kernel[1], shape[3]}, at);
}

}  // namespace fusetape::nn
