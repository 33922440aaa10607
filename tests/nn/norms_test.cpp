// Batch norms whose statistics are frozen, or made anew.
#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
using namespace fusetape::tests;
using ft::Tensor;

namespace {

struct Net : nn::Module {
  nn::Conv2d conv{{.in = 1, .out = 2, .kernel = 1}};
  nn::BatchNorm2d first{2}, second{2};
  nn::Dropout dropout{0.5};
  Net() {
    register_child("conv", conv);
    register_child("first", first);
    register_child("second", second);
    register_child("dropout", dropout);
  }
  Tensor forward(const Tensor& x) override { return dropout(second(first(conv(x)))); }
};

std::vector<Tensor> batches() {
  ft::manual_seed(8);
  std::vector<Tensor> all;
  for (int i = 0; i < 3; ++i) all.push_back(ft::randn({2, 3, 3, 1}) * (1.0 + i) + 0.5 * i);
  ft::materialize({});
  return all;
}

Numbers statistics(const nn::BatchNorm2d& norm) {
  Numbers all = norm.running_mean().value().to_vector<double>();
  for (const double x : norm.running_var().value().to_vector<double>()) all.push_back(x);
  return all;
}

}  // namespace

TEST_CASE("frozen statistics survive train(), and gradients flow through them") {
  Net net;
  nn::freeze_statistics(net);
  CHECK(net.first.has_frozen_statistics());
  const Numbers before = statistics(net.first);
  net.train();
  net.dropout.eval();
  const Tensor x = ft::randn({1, 1, 1, 1});  // one value a channel would be an error
  const Tensor y = net(x);
  y.sum().backward();
  CHECK(statistics(net.first) == before);
  CHECK(net.first.weight().grad().defined());
  net.eval();
  CHECK(net(x).to_vector() == y.to_vector());
  nn::freeze_statistics(net, false);
  net.train();
  net(ft::randn({2, 2, 2, 1}));
  CHECK(statistics(net.first) != before);
}

TEST_CASE("recalibrated statistics are the means over the batches, of a model that is otherwise evaluated") {
  ft::manual_seed(1);
  Net net;
  net.conv.weight().set_data(ft::from_vector({2, -1}, {2, 1, 1, 1}));
  const std::vector<Tensor> data = batches();
  Numbers mean(4, 0.0);
  for (const Tensor& x : data) {  // of the first norm: of 2x and −x
    Numbers elements = x.to_vector<double>();
    double sum = 0, squares = 0;
    const auto n = static_cast<double>(elements.size());
    for (const double e : elements) sum += e / n;
    for (const double e : elements) squares += (e - sum) * (e - sum) / (n - 1);
    const Numbers of_batch{2 * sum, -sum, 4 * squares, squares};
    for (std::size_t i = 0; i < 4; ++i) mean[i] += of_batch[i] / 3;
  }
  net.second.freeze_statistics();
  net.second.eval();
  const Numbers frozen = statistics(net.second);
  int calls = 0;
  nn::recalibrate_norms(net, [&] {
    CHECK_FALSE(net.dropout.is_training());
    CHECK(net.first.is_training());
    for (const Tensor& x : data) {
      CHECK_FALSE(net(x).requires_grad());
      ++calls;
    }
  });
  CHECK(calls == 3);
  CHECK(difference(statistics(net.first), mean) <= 1e-6);
  CHECK(statistics(net.second) == frozen);
  CHECK(net.is_training());
  CHECK(net.dropout.is_training());
  CHECK_FALSE(net.second.is_training());
  net.first(ft::randn({2, 3, 3, 2}));  // momentum is the option's again
  CHECK(difference(statistics(net.first), mean) > 1e-3);
}

TEST_CASE("statistics that are no numbers are mended by a recalibration; an empty batch counts for nothing") {
  Net net;
  net(ft::full({2, 3, 3, 1}, std::numeric_limits<double>::quiet_NaN()));
  CHECK(std::isnan(statistics(net.first)[0]));
  const std::vector<Tensor> data = batches();
  nn::recalibrate_norms(net, [&] {
    net(ft::zeros({0, 3, 3, 1}));
    for (const Tensor& x : data) net(x);
  });
  const Numbers mended = statistics(net.first);
  CHECK(std::isfinite(mended[0]));
  nn::recalibrate_norms(net, [&] {
    for (const Tensor& x : data) net(x);
  });
  CHECK(statistics(net.first) == mended);
}

TEST_CASE("a recalibration that fails leaves statistics and modes") {
  Net net;
  net(ft::randn({2, 3, 3, 1}));
  net.eval();
  const Numbers before = statistics(net.first);
  CHECK(contains(message_of([&] { nn::recalibrate_norms(net, [] {}); }),
                 "expected batches through every batch norm, got none"));
  CHECK_THROWS_AS(nn::recalibrate_norms(net,
                                        [&] {
                                          net(ft::ones({2, 3, 3, 1}));
                                          ft::materialize();
                                          throw std::runtime_error("a reader's");
                                        }),
                  std::runtime_error);
  CHECK(statistics(net.first) == before);
  CHECK_FALSE(net.first.is_training());
  CHECK(
      contains(message_of([&] { nn::recalibrate_norms(net, {}); }), "expected a function, got an empty one"));
}
