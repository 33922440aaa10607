// Tensor's methods are the functions of the same names; += names a new value.
#include <doctest/doctest.h>

#include <sstream>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::Tensor;

TEST_CASE("methods of a tensor") {
  const Tensor x = ft::from_vector({1, 2, 3, 4, 5, 6}, {2, 3});
  const std::pair<Tensor, Tensor> cases[] = {
      {x.sum(), ft::sum(x)},
      {x.sum(1), ft::sum(x, {1})},
      {x.sum({0, -1}), ft::sum(x)},
      {x.mean(0), ft::mean(x, 0)},
      {x.mean(-1, {.keep_dims = true}), ft::mean(x, {-1}, {.keep_dims = true})},
      {x.max(1), ft::max(x, 1)},
      {x.argmax(), ft::argmax(x)},
      {x.softmax(), ft::softmax(x)},
      {x.reshape({3, 2}), ft::reshape(x, {3, 2})},
      {x.reshape({1, 2, 3}).flatten(), ft::flatten(x.reshape({1, 2, 3}))},
      {x.transpose(), ft::transpose(x)},
      {x.transpose({1, 0}), ft::transpose(x)},
      {x.cast(ft::DType::i64), ft::cast(x, ft::DType::i64)},
      {(-x).relu(), ft::relu(-x)},
      {x.sigmoid(), ft::sigmoid(x)},
      {x.tanh(), ft::tanh(x)},
      {x.exp(), ft::exp(x)},
      {x.log(), ft::log(x)},
      {x.sqrt(), ft::sqrt(x)},
      {(-x).abs(), ft::abs(-x)},
  };
  for (const auto& [method, function] : cases) {
    CHECK(method.shape() == function.shape());
    CHECK(method.dtype() == function.dtype());
    CHECK(method.to_vector<double>() == function.to_vector<double>());
  }
  const std::string message = message_of([&] { x.sum(2); });
  CHECK(contains(message, "[sum]"));
  CHECK(contains(message, "methods_test.cpp"));
}

TEST_CASE("+=, -=, *= and /= give the handle a new value, and who has the old one keeps it") {
  Tensor x = ft::from_vector({1, 2}, {2});
  const Tensor old = x;
  x += 1.0;
  x *= x;
  x -= old;
  x /= 2;
  CHECK(x.to_vector() == std::vector<float>{1.5, 3.5});
  CHECK(old.to_vector() == std::vector<float>{1, 2});
  const ft::Parameter p(ft::ones({2}));
  Tensor y = ft::zeros({2});
  y += p;
  y.sum().backward();
  CHECK(p.grad().to_vector() == std::vector<float>{1, 1});
  const std::string message = message_of([&] { x += ft::ones({3}); });
  CHECK(contains(message, "methods_test.cpp"));
}

TEST_CASE("shapes print themselves") {
  std::ostringstream out;
  out << ft::Shape{2, 3} << ft::Shape{};
  CHECK(out.str() == "{2, 3}{}");
}
