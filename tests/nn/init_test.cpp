// Initial values: their distribution, and what they refuse.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
using namespace fusetape::tests;
using ft::Shape;
using ft::Tensor;

TEST_CASE(
    "initial values have the deviation and the bounds that they are asked for, and come from the seed") {
  struct Case {
    const char* name;
    Tensor (*make)();
    double deviation, bound;
  };
  const Case cases[] = {
      {"normal",
       [] {
         return nn::normal({100, 100}, 0, 0.5);
       },
       0.5, 3},
      {"truncated_normal",
       [] {
         return nn::truncated_normal({100, 100}, 0.5);
       },
       0.5 * 0.8796, 1},
      {"truncated_normal, wide",
       [] {
         return nn::truncated_normal({100, 100}, 1, 5);
       },
       1, 5},
      {"xavier_uniform",
       [] {
         return nn::xavier_uniform({50, 2, 2, 25}, 2);
       },
       2 * std::sqrt(2.0 / 300), 2 * std::sqrt(6.0 / 300)},
      {"xavier_normal",
       [] {
         return nn::xavier_normal({80, 120});
       },
       std::sqrt(2.0 / 200), 1},
      {"kaiming_normal",
       [] {
         return nn::kaiming_normal({100, 100}, 200);
       },
       0.1, 1},
  };
  for (const Case& c : cases) {
    CAPTURE(c.name);
    ft::manual_seed(4);
    const std::vector<double> x = c.make().to_vector<double>();
    double sum = 0, squares = 0, largest = 0;
    for (const double e : x) {
      sum += e;
      squares += e * e;
      largest = std::max(largest, std::abs(e));
    }
    const auto n = static_cast<double>(x.size());
    CHECK(std::abs(std::sqrt(squares / n) / c.deviation - 1) < 0.03);
    CHECK(std::abs(sum / n) < 0.05 * c.deviation);
    CHECK(largest <= c.bound * (1 + 1e-6));
    ft::manual_seed(4);
    CHECK(c.make().to_vector<double>() == x);
  }
  CHECK(std::abs(nn::normal({1000}, 7, 0.1).mean().item() - 7) < 0.02);
}

TEST_CASE("truncated normals have the normal's shape between the cuts") {
  // Of a normal cut at two deviations, 0.7152 lie within one: erf(1/√2) / erf(2/√2).
  const std::vector<float> x = nn::truncated_normal({20000}, 1).to_vector();
  const auto inside = std::count_if(x.begin(), x.end(), [](float e) { return std::abs(e) < 1; });
  CHECK(std::abs(static_cast<double>(inside) / 20000 - 0.7152) < 0.012);
}

TEST_CASE("whitened patches are not correlated, and have one mean square but for eps") {
  // Pixels that follow their neighbours, and channels that follow each other.
  const Tensor noise = ft::randn({40, 9, 9, 3});
  const Tensor images = noise + 0.8 * ft::roll(noise, 1, 2) + 0.5 * ft::roll(noise, 1, 3);
  constexpr double eps = 1e-2;
  const Tensor filters = nn::whitening(images, {2, 3}, eps);
  CHECK(filters.shape() == ft::Shape{36, 2, 3, 3});
  const std::vector<float> weights = filters.to_vector();
  for (std::size_t i = 0; i < 18 * 18; ++i) CHECK(weights[18 * 18 + i] == -weights[i]);

  const Tensor results = ft::conv2d(images, ft::slice(filters, 0, 0, 18)).reshape({-1, 18});
  const auto places = static_cast<double>(results.size(0));
  const std::vector<float> moments = (ft::matmul(ft::transpose(results), results) / places).to_vector();
  const std::vector<float> sizes = ft::sum(filters * filters, {1, 2, 3}).to_vector();
  for (std::size_t i = 0; i < 18; ++i) {
    for (std::size_t j = 0; j < 18; ++j) {
      const double expected = i == j ? 1 - eps * double{sizes[i]} : 0;  // |filter|² is 1/(λ + eps)
      CHECK(double{moments[i * 18 + j]} == doctest::Approx(expected).epsilon(1e-4));
    }
    if (i > 0) CHECK(sizes[i] >= sizes[i - 1]);
  }
}

TEST_CASE("orthogonal weights are so, by rows or by columns") {
  for (const Shape& shape : {Shape{6, 3, 3, 2}, {7, 7}, {40, 3, 3, 1}, {1, 5}}) {
    CAPTURE(shape);
    const Tensor w = nn::orthogonal(shape, 2).reshape({shape[0], -1});
    const bool by_rows = w.shape()[0] <= w.shape()[1];
    const Tensor product =
        by_rows ? ft::matmul(w, w, {.transpose_b = true}) : ft::matmul(w, w, {.transpose_a = true});
    const std::int64_t n = product.shape()[0];
    Numbers expected(static_cast<std::size_t>(n * n), 0.0);
    for (std::int64_t i = 0; i < n; ++i) expected[static_cast<std::size_t>(i * n + i)] = 4;
    CHECK(difference(product.to_vector<double>(), expected) <= 1e-6);
  }
}

TEST_CASE("initial values refuse what they cannot make") {
  const std::pair<const char*, void (*)()> cases[] = {
      {"[normal] expected a finite deviation ≥ 0, got -1", [] { nn::normal({2}, 0, -1); }},
      {"[normal] expected a finite mean", [] { nn::normal({2}, NAN); }},
      {"[truncated_normal] expected a cut in (0, 5], got 0", [] { nn::truncated_normal({2}, 1, 0); }},
      {"[truncated_normal] expected a finite deviation", [] { nn::truncated_normal({2}, INFINITY); }},
      {"[xavier_uniform] expected at least two axes and one element, got {3}",
       [] { nn::xavier_uniform({3}); }},
      {"[xavier_normal] expected a finite gain ≥ 0, got -2",
       [] {
         nn::xavier_normal({3, 3}, -2);
       }},
      {"[orthogonal] expected at least two axes and one element, got {0, 3}",
       [] {
         nn::orthogonal({0, 3});
       }},
      {"[whitening] expected f32 images {N, H, W, C}, got f32 {2, 2}",
       [] {
         nn::whitening(ft::zeros({2, 2}), 2, 1);
       }},
      {"[whitening] expected at least one patch, of at most 4096 elements, got kernel {5, 5} and images {1, "
       "4, 8, 3}",
       [] {
         nn::whitening(ft::zeros({1, 4, 8, 3}), 5, 1);
       }},
      {"[whitening] expected finite images, got a NaN or an infinity among them",
       [] {
         nn::whitening(ft::full({1, 2, 2, 1}, std::nan("")), 1, 1);
       }},
      {"[whitening] expected a finite eps > 0, got 0",
       [] {
         nn::whitening(ft::zeros({1, 4, 8, 3}), 2, 0);
       }},
      {"[orthogonal] expected extents ≥ 0",
       [] {
         nn::orthogonal({-1, 3});
       }},
  };
  for (const auto& [message, make] : cases) CHECK(contains(message_of(make), message));
}
