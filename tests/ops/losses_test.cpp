// Losses that are made of several ops: PyTorch's numbers (tests/data/losses_pytorch.py), in f64 on
// `reference`, in f32 on the CPU; and what they refuse.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Reduction;
using ft::Shape;
using ft::Tensor;

namespace {

std::map<std::string, Numbers> pytorch_table() {
  std::ifstream in(FUSETAPE_TESTS_DIR "/data/losses_pytorch.txt");
  std::map<std::string, Numbers> table;
  for (std::string line, name, number; std::getline(in, line);) {
    std::istringstream fields(line);
    std::getline(fields, name, ';');
    while (std::getline(fields, number, ';')) table[name].push_back(std::stod(number));
  }
  return table;
}

Tensor wave(const Shape& shape, double pace, DType dtype, double size = 2) {
  Numbers values;
  for (std::int64_t i = 0; i < shape.elements(); ++i)
    values.push_back(size * std::sin(pace * static_cast<double>(i + 1)));
  return ft::from_doubles(values, shape, dtype);
}
Tensor unit(const Shape& shape, double pace, DType dtype) { return (wave(shape, pace, dtype, 1) + 1) / 2; }

Tensor labels(const Shape& outer, bool ignored = false) {
  std::vector<std::int64_t> values;
  for (std::int64_t i = 0; i < outer.elements(); ++i)
    values.push_back(ignored && i % 3 == 1 ? -100 : (3 * i + i / 4) % 5);
  return ft::from_vector(values, outer);
}
Shape outer_of(const Shape& shape) {
  return Shape(std::span<const std::int64_t>(shape.begin(), shape.end() - 1));
}

Tensor weights(DType dtype) { return ft::from_doubles(Numbers{0.5, 2.0, 1.25, 0.0, 3.0}, {5}, dtype); }

using Loss = std::function<Tensor(const Tensor& x, Reduction reduction)>;
struct Case {
  const char* name;
  Shape shape;
  Loss loss;
};

Loss cross_entropy(double smoothing, bool weighted, bool ignored, bool soft = false) {
  return [=](const Tensor& x, Reduction reduction) {
    ft::CrossEntropyOptions options{.label_smoothing = smoothing, .reduction = reduction};
    if (weighted) options.weight = weights(x.dtype());
    if (ignored) options.ignore_index = -100;
    const Tensor target =
        soft ? ft::softmax(wave(x.shape(), 0.71, x.dtype())) : labels(outer_of(x.shape()), ignored);
    return ft::cross_entropy(x, target, options);
  };
}
Loss nll(bool weighted_and_ignored) {
  return [=](const Tensor& x, Reduction reduction) {
    ft::NllOptions options{.reduction = reduction};
    if (weighted_and_ignored) {
      options.weight = weights(x.dtype());
      options.ignore_index = -100;
    }
    return ft::nll_loss(ft::log_softmax(x), labels(outer_of(x.shape()), weighted_and_ignored), options);
  };
}
/// Beside unit(x.shape(), 0.37).
Loss paired(std::function<Tensor(const Tensor& x, const Tensor& target, Reduction reduction)> loss) {
  return [=](const Tensor& x, Reduction reduction) {
    return loss(x, unit(x.shape(), 0.37, x.dtype()), reduction);
  };
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"hard", {6, 5}, cross_entropy(0, false, false)},
      {"hard over axes", {2, 3, 2, 5}, cross_entropy(0.1, false, false)},
      {"weight", {6, 5}, cross_entropy(0, true, false)},
      {"weight, smoothing", {2, 3, 5}, cross_entropy(0.2, true, false)},
      {"ignored", {2, 4, 5}, cross_entropy(0, false, true)},
      {"ignored, smoothing", {8, 5}, cross_entropy(0.1, false, true)},
      {"ignored, weight, smoothing", {8, 5}, cross_entropy(0.3, true, true)},
      {"soft", {6, 5}, cross_entropy(0, false, false, true)},
      {"soft over axes", {2, 3, 5}, cross_entropy(0.1, false, false, true)},
      {"soft, weight, smoothing", {6, 5}, cross_entropy(0.1, true, false, true)},
      {"nll", {6, 5}, nll(false)},
      {"nll, weight, ignored", {2, 4, 5}, nll(true)},
      {"l1", {4, 5}, paired([](auto& x, auto& t, auto r) { return ft::l1_loss(x, t, r); })},
      {"huber", {4, 5}, paired([](auto& x, auto& t, auto r) {
         return ft::huber_loss(x, t, {.delta = 0.7, .reduction = r});
       })},
      {"bce", {4, 5}, paired([](auto& x, auto& t, auto r) {
         return ft::binary_cross_entropy(ft::sigmoid(x), t, r);
       })},
      {"kl", {4, 5}, paired([](auto& x, auto& t, auto r) {
         return ft::kl_div(ft::log_softmax(x), t / ft::sum(t, {-1}, {.keep_dims = true}), r);
       })},
      {"focal", {4, 5}, paired([](auto& x, auto& t, auto r) {
         return ft::focal_loss(x, t, {.reduction = r});
       })},
      {"focal, no alpha", {4, 5}, paired([](auto& x, auto& t, auto r) {
         return ft::focal_loss(x, t, {.alpha = -1, .gamma = 1.5, .reduction = r});
       })},
  };
  return all;
}

/// Loss and gradient of each reduction; of none, of the sum with some weights.
Numbers numbers_of(const Case& c, DType dtype) {
  Numbers all;
  for (const Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
    const Tensor x = ft::variable(wave(c.shape, 1.3, dtype));
    const Tensor loss = c.loss(x, reduction);
    const Tensor total = reduction == Reduction::none ? ft::sum(loss * wave(loss.shape(), 0.9, dtype)) : loss;
    const Tensor gradient = ft::grad({total}, {x})[0];
    for (const Tensor& each : {loss, gradient}) {
      for (const double value : each.to_vector<double>()) all.push_back(value);
    }
  }
  return all;
}

}  // namespace

TEST_CASE("losses are PyTorch's, and so are their gradients") {
  const auto table = pytorch_table();
  CHECK(table.size() == cases().size());
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    {
      const OnBackend reference("reference");
      CHECK(difference(numbers_of(c, DType::f64), table.at(c.name)) <= 1e-12);
    }
    for (const bool fused : {true, false}) {
      const Fusion fusion(fused);
      CHECK(difference(numbers_of(c, DType::f32), table.at(c.name)) <= 3e-5);
    }
  }
}

TEST_CASE("losses: gradients by finite differences, of both orders") {
  const OnBackend reference("reference");
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    const Tensor x = ft::variable(wave(c.shape, 1.3, DType::f64));
    const auto loss = [&](const std::vector<Tensor>& in) { return c.loss(in[0], Reduction::mean); };
    const auto gradient = [&](const std::vector<Tensor>& in) {
      return ft::sum(ft::grad({loss(in)}, in, {}, {.create_graph = true})[0] *
                     wave(c.shape, 0.6, DType::f64));
    };
    CHECK_NOTHROW(ft::gradcheck(loss, {x}));
    CHECK_NOTHROW(ft::gradcheck(gradient, {x}));
  }
}

TEST_CASE("losses at the edge: nothing that counts, logits and probabilities of infinity and zero") {
  const Tensor logits = ft::ones({2, 3});
  const Tensor none = ft::from_vector(std::vector<std::int64_t>{7, 7}, {2});
  CHECK(std::isnan(ft::cross_entropy(logits, none, {.ignore_index = 7}).item()));
  CHECK(ft::cross_entropy(logits, none, {.reduction = Reduction::sum, .ignore_index = 7}).item() == 0);
  // An infinite loss of a label that does not count, and of one where all classes but one are out of the
  // question.
  const Tensor masked = ft::variable(ft::from_vector({-INFINITY, 0.0f, 1.0f, 0.0f}, {2, 2}));
  const Tensor second = ft::from_vector(std::vector<std::int64_t>{-1, 0}, {2});
  for (const Reduction reduction : {Reduction::mean, Reduction::sum}) {
    const Tensor loss = ft::cross_entropy(masked, second, {.reduction = reduction, .ignore_index = -1});
    CHECK(loss.item() == doctest::Approx(std::log(1 + std::exp(-1))));
    CHECK(std::isfinite(ft::sum(ft::grad({loss}, {masked})[0]).item()));
  }
  CHECK(ft::nll_loss(masked, second, {.ignore_index = -1}).item() == -1);
  const Tensor sure = ft::variable(ft::from_vector({0.0f, 1.0f, 0.5f}, {3}));
  const Tensor bce = ft::binary_cross_entropy(sure, ft::from_vector({0.0f, 0.0f, 1.0f}, {3}), Reduction::sum);
  CHECK(bce.item() == doctest::Approx(100 + std::log(2)));
  CHECK(ft::grad({bce}, {sure})[0].to_vector() == std::vector<float>{1, 0, -2});
  const Tensor certain = ft::from_vector({0.0f, -INFINITY}, {1, 2});
  CHECK(ft::nll_loss(certain, ft::from_vector(std::vector<std::int64_t>{0}, {1})).item() == 0);
  CHECK(ft::binary_cross_entropy(ft::zeros({1}), ft::ones({1})).item() == 100);
  const Tensor half = ft::cast(ft::zeros({70'000, 2}), DType::f16);
  const Tensor all = ft::zeros({70'000}, DType::i64);
  CHECK(ft::cross_entropy(half, all, {.ignore_index = 1}).item() ==
        doctest::Approx(std::log(2)).epsilon(1e-3));
  CHECK(ft::kl_div(ft::log(ft::full({2}, 0.5)), ft::from_vector({0.0f, 1.0f}, {2})).item() ==
        doctest::Approx(std::log(2)));
}

TEST_CASE("losses refuse what makes no sense, and name the line") {
  const Tensor x = ft::ones({2, 3}), t = ft::from_vector(std::vector<std::int64_t>{0, 3}, {2});
  const Tensor good = ft::from_vector(std::vector<std::int64_t>{0, 2}, {2});
  const auto refused = [](auto make, const char* expected) {
    const std::string message = message_of(make);
    CAPTURE(message);
    CHECK(contains(message, expected));
    CHECK(contains(message, "losses_test.cpp"));
  };
  refused([&] { ft::cross_entropy(x, t); }, "labels[1] = 3");
  refused([&] { ft::cross_entropy(x, t, {.ignore_index = 0}); }, "labels[1] = 3");
  refused([&] { ft::nll_loss(x, t); }, "labels[1] = 3");
  refused([&] { ft::nll_loss(x, good + t); }, "labels[1] = 5");
  refused([&] { ft::cross_entropy(x, good, {.weight = ft::ones({2})}); }, "a weight {3}");
  refused([&] { ft::cross_entropy(x, ft::ones({2})); }, "probabilities {2, 3}, got {2} f32");
  refused([&] { ft::cross_entropy(x, ft::ones({2, 3}), {.ignore_index = 1}); }, "labels beside ignore_index");
  refused([&] { ft::cross_entropy(ft::ones({2, 2, 3}), t); }, "labels {2, 2} for {2, 2, 3}, got {2}");
  refused([&] { ft::huber_loss(x, x, {.delta = 0}); }, "delta > 0, got 0");
  refused([&] { ft::focal_loss(x, x, {.gamma = -1}); }, "gamma ≥ 0");
  refused([&] { ft::l1_loss(x, ft::ones({3, 2})); }, "a target of shape {2, 3}");
}
