#include "library_double.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/numerics/reference.hpp"
#include "fusetape/error.hpp"

namespace fusetape::tests {

using backends::cuda::ConvolutionSpec;
using backends::cuda::OperationArgs;
using backends::cuda::ProductSpec;

namespace {

using Doubles = std::vector<double>;

Doubles read(const void* from, DType dtype, std::int64_t count) {
  Doubles out(static_cast<std::size_t>(count));
  if (from != nullptr) core::to_doubles(from, dtype, count, out.data());
  return out;
}

double relu(double x) { return x <= 0 ? 0 : x; }

class ConvolutionDouble final : public LibraryDouble {
 public:
  explicit ConvolutionDouble(const ConvolutionSpec& spec) : s_(spec) { name = "double:convolution"; }

  void run(const OperationArgs& args) override {
    const std::int64_t images = s_.n * s_.h * s_.w * s_.c, results = s_.n * s_.oh * s_.ow * s_.k;
    const std::int64_t weights = s_.k * s_.r * s_.s * (s_.c / s_.groups);
    switch (s_.pass) {
      case ConvolutionSpec::Pass::forward: {
        const Doubles x = read(args.a, s_.dtype, images), w = read(args.b, s_.dtype, weights);
        Doubles y(static_cast<std::size_t>(results));
        for_products(
            [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) { y[at(yi)] += x[at(xi)] * w[at(wi)]; });
        return finish(args, y);
      }
      case ConvolutionSpec::Pass::grad_input: {
        const Doubles g = read(args.a, s_.dtype, results), w = read(args.b, s_.dtype, weights);
        Doubles dx(static_cast<std::size_t>(images));
        for_products(
            [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) { dx[at(xi)] += g[at(yi)] * w[at(wi)]; });
        return finish(args, dx);
      }
      case ConvolutionSpec::Pass::grad_weight: {
        const Doubles x = read(args.a, s_.dtype, images), g = read(args.b, s_.dtype, results);
        Doubles dw(static_cast<std::size_t>(weights));
        for_products(
            [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) { dw[at(wi)] += x[at(xi)] * g[at(yi)]; });
        return finish(args, dw);
      }
    }
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

  /// Calls f(x, w, y) with the places of every product's operands and of its sum.
  template <class F>
  void for_products(F&& f) const {
    const std::int64_t inner = s_.c / s_.groups, outer = s_.k / s_.groups;
    for (std::int64_t y = 0; y < s_.n * s_.oh * s_.ow * s_.k; ++y) {
      const std::int64_t k = y % s_.k, column = y / s_.k % s_.ow, row = y / s_.k / s_.ow % s_.oh;
      const std::int64_t image = y / s_.k / s_.ow / s_.oh, first = k / outer * inner;
      for (std::int64_t r = 0; r < s_.r; ++r) {
        for (std::int64_t s = 0; s < s_.s; ++s) {
          const std::int64_t h = row * s_.stride_h - s_.pad_h + r * s_.dilation_h;
          const std::int64_t w = column * s_.stride_w - s_.pad_w + s * s_.dilation_w;
          if (h < 0 || h >= s_.h || w < 0 || w >= s_.w) continue;
          for (std::int64_t c = 0; c < inner; ++c) {
            f(((image * s_.h + h) * s_.w + w) * s_.c + first + c, ((k * s_.r + r) * s_.s + s) * inner + c, y);
          }
        }
      }
    }
  }

  void finish(const OperationArgs& args, Doubles& sums) const {
    const auto count = static_cast<std::int64_t>(sums.size());
    if (s_.bias) {
      const Doubles bias = read(args.bias, s_.dtype, s_.k);
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += bias[i % bias.size()];
    }
    if (s_.add) {
      const Doubles z = read(args.z, s_.result, count);
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += z[i];
    }
    if (s_.relu) {
      for (double& sum : sums) sum = relu(sum);
    }
    core::from_doubles(sums.data(), s_.result, count, args.out);
    if (s_.statistics) add_up(args);
  }

  /// Of y as it was rounded, in f32.
  void add_up(const OperationArgs& args) const {
    const Doubles y = read(args.out, s_.result, s_.n * s_.oh * s_.ow * s_.k);
    auto *sum = static_cast<float*>(args.sum), *square = static_cast<float*>(args.square);
    std::fill_n(sum, s_.k, 0.0f);
    std::fill_n(square, s_.k, 0.0f);
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t channel = i % static_cast<std::size_t>(s_.k);
      sum[channel] += static_cast<float>(y[i]);
      square[channel] += static_cast<float>(y[i] * y[i]);
    }
  }

  ConvolutionSpec s_;
};

class ProductDouble final : public LibraryDouble {
 public:
  explicit ProductDouble(const ProductSpec& spec) : s_(spec) { name = "double:product"; }

  void run(const OperationArgs& args) override {
    const Doubles a = read(args.a, s_.dtype, count_of(s_.stride_a, s_.m * s_.k));
    const Doubles b = read(args.b, s_.dtype, count_of(s_.stride_b, s_.k * s_.n));
    const Doubles bias = read(args.bias, s_.dtype, s_.bias ? s_.n : 0);
    Doubles out;
    for (std::int64_t i = 0; i < s_.batch; ++i) {
      for (std::int64_t m = 0; m < s_.m; ++m) {
        for (std::int64_t n = 0; n < s_.n; ++n) {
          double sum = s_.bias ? bias[static_cast<std::size_t>(n)] : 0;
          for (std::int64_t k = 0; k < s_.k; ++k) {
            const std::int64_t ai = i * s_.stride_a + (s_.transpose_a ? k * s_.m + m : m * s_.k + k);
            const std::int64_t bi = i * s_.stride_b + (s_.transpose_b ? n * s_.k + k : k * s_.n + n);
            sum += a[static_cast<std::size_t>(ai)] * b[static_cast<std::size_t>(bi)];
          }
          out.push_back(activated(sum));
        }
      }
    }
    core::from_doubles(out.data(), s_.result, static_cast<std::int64_t>(out.size()), args.out);
  }

 private:
  std::int64_t count_of(std::int64_t stride, std::int64_t matrix) const {
    return s_.batch == 0 ? 0 : (s_.batch - 1) * stride + matrix;
  }

  double activated(double x) const {
    if (s_.activation == ProductSpec::Activation::relu) return relu(x);
    if (s_.activation == ProductSpec::Activation::gelu) return x * 0.5 * std::erfc(-x / std::numbers::sqrt2);
    return x;
  }

  ProductSpec s_;
};

}  // namespace

std::unique_ptr<LibraryDouble> make_convolution_double(const ConvolutionSpec& spec) {
  if (spec.statistics && spec.dtype != DType::f16) throw Error("double", "statistics beside f16 only");
  return std::make_unique<ConvolutionDouble>(spec);
}

std::unique_ptr<LibraryDouble> make_product_double(const ProductSpec& spec) {
  return std::make_unique<ProductDouble>(spec);
}

}  // namespace fusetape::tests
