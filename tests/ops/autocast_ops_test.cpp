// Autocast op by op: what each takes and gives, and where it does nothing.
#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/tape/tape.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::Autocast;
using ft::DType;
using ft::Shape;
using ft::Tensor;

namespace {

constexpr DType f32 = DType::f32, bf16 = DType::bf16;

/// A variable whose elements are neither 0 nor equal.
Tensor variable(DType dtype, const Shape& shape) {
  std::vector<double> data(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<double>((i * 37) % 61 + 1) / 64;
  return ft::variable(ft::from_doubles(data, shape, dtype));
}

std::int64_t casts_in_plan() {
  const auto& groups = ft::explain().groups;
  return std::count_if(groups.begin(), groups.end(), [](const ft::GroupReport& group) {
    return group.name.find("cast") == 0 || group.name.find("+cast") != std::string::npos;
  });
}

struct OpRow {
  const char* name;
  Shape a, b;  ///< b: {} where the op has one input
  /// What comes of two f32 inputs, of two bf16, and of a bf16 a beside an f32 b.
  DType of_f32, of_bf16, of_both;
  std::function<Tensor(const Tensor& a, const Tensor& b)> call;
};

const Shape image{2, 4, 4, 3}, matrix{4, 3}, one_input{};

/// In bf16 whatever comes.
void add_products(std::vector<OpRow>& rows) {
  const auto add = [&](const char* name, Shape a, Shape b, decltype(OpRow::call) call) {
    rows.push_back({name, a, b, bf16, bf16, bf16, std::move(call)});
  };
  const auto bias = [](const Tensor& w) { return variable(w.dtype(), {5}); };
  add("conv2d", image, {5, 3, 3, 3}, [](auto& a, auto& b) { return ft::conv2d(a, b); });
  add("conv2d with bias", image, {5, 3, 3, 3}, [=](auto& a, auto& b) { return ft::conv2d(a, b, bias(b)); });
  add("conv_transpose2d", image, {3, 2, 2, 5}, [](auto& a, auto& b) { return ft::conv_transpose2d(a, b); });
  add("matmul", matrix, {3, 5}, [](auto& a, auto& b) { return ft::matmul(a, b); });
  add("linear", matrix, {5, 3}, [](auto& a, auto& b) { return ft::linear(a, b); });
  add("linear with bias", matrix, {5, 3}, [=](auto& a, auto& b) { return ft::linear(a, b, bias(b)); });
  add("bias_add", matrix, {3}, [](auto& a, auto& b) { return ft::bias_add(a, b); });
}

/// In the dtype that both have, f32 where they differ.
void add_arithmetic(std::vector<OpRow>& rows) {
  const auto add = [&](const char* name, Shape b, decltype(OpRow::call) call) {
    rows.push_back({name, matrix, b, f32, bf16, f32, std::move(call)});
  };
  add("add", {3}, [](auto& a, auto& b) { return a + b; });
  add("sub", {3}, [](auto& a, auto& b) { return a - b; });
  add("mul", {3}, [](auto& a, auto& b) { return a * b; });
  add("div", {3}, [](auto& a, auto& b) { return a / b; });
  add("pow", {3}, [](auto& a, auto& b) { return ft::pow(a, b); });
  add("minimum", {3}, [](auto& a, auto& b) { return ft::minimum(a, b); });
  add("maximum", {3}, [](auto& a, auto& b) { return ft::maximum(a, b); });
  add("where", {3}, [](auto& a, auto& b) { return ft::where(ft::less(a, b), a, b); });
  add("concat", matrix, [](auto& a, auto& b) { return ft::concat({a, b}, 0); });
}

/// In f32 whatever comes.
void add_losses(std::vector<OpRow>& rows) {
  rows.push_back(
      {"mse_loss", matrix, matrix, f32, f32, f32, [](auto& a, auto& b) { return ft::mse_loss(a, b); }});
  rows.push_back({"bce_with_logits", matrix, matrix, f32, f32, f32,
                  [](auto& a, auto& b) { return ft::bce_with_logits(a, b); }});
}

/// The ops of one input: in the dtype that comes, or always in f32.
void add_unary(std::vector<OpRow>& rows) {
  using Call = std::function<Tensor(const Tensor&)>;
  const auto add = [&](const char* name, Shape shape, DType of_bf16, const Call& call) {
    rows.push_back(
        {name, shape, one_input, f32, of_bf16, of_bf16, [call](auto& a, auto&) { return call(a); }});
  };
  add("relu", image, bf16, [](auto& x) { return ft::relu(x); });
  add("leaky_relu", image, bf16, [](auto& x) { return ft::leaky_relu(x); });
  add("sigmoid", image, bf16, [](auto& x) { return ft::sigmoid(x); });
  add("tanh", image, bf16, [](auto& x) { return ft::tanh(x); });
  add("gelu", image, bf16, [](auto& x) { return ft::gelu(x); });
  add("exp", image, bf16, [](auto& x) { return ft::exp(x); });
  add("times a number", image, bf16, [](auto& x) { return x * 0.5 + 1; });
  add("max_pool2d", image, bf16, [](auto& x) { return ft::max_pool2d(x); });
  add("avg_pool2d", image, bf16, [](auto& x) { return ft::avg_pool2d(x); });
  add("reshape", image, bf16, [](auto& x) { return ft::flatten(x); });
  add("transpose", image, bf16, [](auto& x) { return ft::to_nchw(x); });
  add("broadcast_to", {3}, bf16, [](auto& x) { return ft::broadcast_to(x, {4, 3}); });
  add("slice", image, bf16, [](auto& x) { return ft::slice(x, 1, 0, 2); });
  add("pad", matrix, bf16, [](auto& x) { return ft::pad(x, {{1, 1}, {0, 0}}); });
  add("dropout", image, bf16, [](auto& x) { return ft::dropout(x, 0.5); });
  add("max", image, bf16, [](auto& x) { return ft::max(x, {1, 2}); });
  add("sum", image, f32, [](auto& x) { return ft::sum(x, {1, 2}); });
  add("mean", image, f32, [](auto& x) { return ft::mean(x); });
  add("global_avg_pool", image, f32, [](auto& x) { return ft::global_avg_pool(x); });
  add("softmax", matrix, f32, [](auto& x) { return ft::softmax(x); });
  add("log_softmax", matrix, f32, [](auto& x) { return ft::log_softmax(x); });
  add("cross_entropy", matrix, f32, [](auto& x) { return ft::cross_entropy(x, ft::zeros({4}, DType::i64)); });
}

std::vector<OpRow> op_table() {
  std::vector<OpRow> rows;
  for (const auto add : {add_products, add_arithmetic, add_losses, add_unary}) add(rows);
  return rows;
}

void check_row(const OpRow& row, DType a_dtype, DType b_dtype, DType expected) {
  CAPTURE(std::string(row.name));
  CAPTURE(std::string(name_of(a_dtype)));
  CAPTURE(std::string(name_of(b_dtype)));
  const bool binary = row.b.rank() > 0;
  std::vector<Tensor> inputs = {variable(a_dtype, row.a)};
  if (binary) inputs.push_back(variable(b_dtype, row.b));
  const Tensor y = row.call(inputs[0], inputs.back());
  CHECK(y.dtype() == expected);
  const std::vector<Tensor> gradients = ft::grad({y}, inputs, {ft::ones(y.shape(), y.dtype())});
  for (std::size_t i = 0; i < inputs.size(); ++i) CHECK(gradients[i].dtype() == inputs[i].dtype());
  ft::materialize();
}

}  // namespace

TEST_CASE("every op takes and gives what the table says; gradients are of their inputs' dtypes") {
  const OnBackend backend("null");
  const Autocast cast(bf16);
  for (const OpRow& row : op_table()) {
    check_row(row, f32, f32, row.of_f32);
    check_row(row, bf16, bf16, row.of_bf16);
    check_row(row, bf16, f32, row.of_both);
  }
}

TEST_CASE("batch norm: a bf16 x beside f32 parameters and statistics") {
  const OnBackend backend("null");
  const Autocast cast(bf16);
  for (const DType dtype : {f32, bf16}) {
    const Tensor x = variable(dtype, image), gamma = variable(f32, {3}), beta = variable(f32, {3});
    const ft::BatchNormResult trained = ft::batch_norm(x, gamma, beta, ft::zeros({3}), ft::ones({3}));
    CHECK(trained.running_mean.dtype() == f32);
    CHECK(trained.running_var.dtype() == f32);
    const Tensor evaluated = ft::batch_norm_inference(x, gamma, beta, ft::zeros({3}), ft::ones({3}));
    for (const Tensor& y : {trained.y, evaluated}) {
      CHECK(y.dtype() == dtype);
      const auto gradients = ft::grad({y}, {x, gamma, beta}, {ft::ones(y.shape(), dtype)});
      CHECK(gradients[0].dtype() == dtype);
      CHECK(gradients[1].dtype() == f32);
      CHECK(gradients[2].dtype() == f32);
    }
    ft::materialize();
  }
}

TEST_CASE(
    "modules, in training and in evaluation: parameters stay f32, images and activations may be either") {
  const OnBackend backend("null");
  namespace nn = ft::nn;
  struct Row {
    std::unique_ptr<nn::Module> module;
    DType of_f32;
  };
  Row rows[] = {
      {std::make_unique<nn::Conv2d>(nn::Conv2d::Options{.in = 3, .out = 4, .kernel = 3}), bf16},
      {std::make_unique<nn::ConvTranspose2d>(nn::ConvTranspose2d::Options{.in = 3, .out = 4, .kernel = 3}),
       bf16},
      {std::make_unique<nn::Linear>(3, 4), bf16},
      {std::make_unique<nn::BatchNorm2d>(3), f32},
      {std::make_unique<nn::ReLU>(), f32},
      {std::make_unique<nn::Dropout>(0.5), f32},
      {std::make_unique<nn::MaxPool2d>(), f32},
      {std::make_unique<nn::AvgPool2d>(), f32},
      {std::make_unique<nn::Flatten>(), f32},
  };
  const Autocast cast(bf16);
  for (const Row& row : rows) {
    for (const bool training : {true, false}) {
      row.module->train(training);
      CHECK((*row.module)(variable(f32, image)).dtype() == row.of_f32);
      CHECK((*row.module)(variable(bf16, image)).dtype() == bf16);
      ft::materialize();
    }
    for (const ft::Parameter& parameter : row.module->parameters()) CHECK(parameter.dtype() == f32);
    for (const auto& [name, buffer] : row.module->named_buffers()) CHECK(buffer.dtype() == f32);
  }
}

TEST_CASE("f64, f16 and integers are left alone, and do not mix with others") {
  const OnBackend backend("null");
  const Autocast cast(bf16);
  for (const DType dtype : {DType::f64, DType::f16}) {
    const Tensor a = variable(dtype, matrix), b = variable(dtype, {3, 5});
    CHECK(ft::matmul(a, b).dtype() == dtype);
    CHECK(ft::sum(a).dtype() == dtype);
    CHECK(ft::mse_loss(a, a).dtype() == dtype);
    CHECK_THROWS_AS(ft::matmul(a, variable(f32, {3, 5})), ft::Error);
    CHECK_THROWS_AS(a + variable(bf16, matrix), ft::Error);
  }
  const Tensor whole = ft::ones({4}, DType::i64);
  CHECK((whole + whole).dtype() == DType::i64);
  CHECK(ft::sum(whole).dtype() == DType::i64);
  CHECK_THROWS_AS(whole + variable(f32, {4}), ft::Error);
}

TEST_CASE("outside, dtypes that differ are an error and nothing is cast") {
  const OnBackend backend("null");
  const Tensor x = variable(f32, image), w = variable(f32, {5, 3, 3, 3});
  CHECK_THROWS_WITH_AS(variable(bf16, matrix) + variable(f32, matrix), doctest::Contains("use cast"),
                       ft::Error);
  CHECK_THROWS_AS(ft::mse_loss(variable(bf16, matrix), variable(f32, matrix)), ft::Error);
  CHECK_THROWS_AS(ft::conv2d(x, w, variable(bf16, {5})), ft::Error);
  { const Autocast cast(bf16); }
  const Tensor y = ft::conv2d(x, w);
  CHECK(y.dtype() == f32);
  ft::materialize({y});
  CHECK(casts_in_plan() == 0);
}

TEST_CASE("scopes nest, and belong to their thread") {
  CHECK(ft::autocast_dtype() == f32);
  {
    const Autocast on(bf16);
    CHECK(ft::autocast_dtype() == bf16);
    {
      const Autocast off(f32);
      CHECK(ft::autocast_dtype() == f32);
      CHECK(ft::matmul(variable(f32, matrix), variable(f32, {3, 5})).dtype() == f32);
    }
    CHECK(ft::autocast_dtype() == bf16);
    DType elsewhere = bf16;
    std::thread([&] { elsewhere = ft::autocast_dtype(); }).join();
    CHECK(elsewhere == f32);
  }
  CHECK(ft::autocast_dtype() == f32);
}

TEST_CASE("only bf16 and f16") {
  const auto message = [](DType dtype) { return message_of([dtype] { const Autocast cast(dtype); }); };
  CHECK(message(DType::f16).empty());
  CHECK(contains(message(DType::i64), "expected bf16 or f16, or f32 for none, got i64"));
  CHECK(contains(message(DType::f64), "autocast_ops_test.cpp:"));
  CHECK(ft::autocast_dtype() == f32);
}

TEST_CASE("a mistake leaves the tape as it was, casts included") {
  const OnBackend backend("null");
  const Autocast cast(bf16);
  const Tensor x = variable(f32, image), w = variable(f32, {5, 3, 3, 2}), m = variable(f32, matrix);
  const std::size_t pending = ft::core::Tape::current().pending_nodes();
  CHECK_THROWS_AS(ft::conv2d(x, w), ft::Error);
  CHECK_THROWS_AS(ft::conv2d(x, variable(f32, {5, 3, 3, 3}), variable(f32, {4})), ft::Error);
  CHECK_THROWS_AS(ft::matmul(m, m), ft::Error);
  CHECK_THROWS_AS(ft::mse_loss(m, variable(bf16, {3, 4})), ft::Error);
  CHECK_THROWS_AS(ft::add(m, variable(bf16, {3, 4})), ft::Error);
  CHECK(ft::core::Tape::current().pending_nodes() == pending);
}

TEST_CASE("a gradient of another dtype is refused") {
  const OnBackend backend("null");
  const Tensor x = variable(bf16, matrix), y = ft::relu(x);
  CHECK_THROWS_WITH_AS(ft::grad({y}, {x}, {ft::ones(y.shape())}),
                       doctest::Contains("expected a gradient of dtype bf16, got f32"), ft::Error);
}

TEST_CASE("a gradient check in f64 does not see Autocast") {
  const Autocast cast(bf16);
  const auto loss = [](const std::vector<Tensor>& in) {
    return ft::mean(ft::relu(ft::conv2d(in[0], in[1])) * 2.0);
  };
  ft::gradcheck(loss, {variable(DType::f64, {1, 3, 3, 2}), variable(DType::f64, {2, 2, 2, 2})});
}
