// Mixed precision: what each op takes and gives under Autocast, where the casts are, and how near bf16 comes.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/tape.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using Numbers = std::vector<double>;
using ft::Autocast;
using ft::DType;
using ft::Shape;
using ft::Tensor;

namespace {

constexpr DType f32 = DType::f32, bf16 = DType::bf16;

/// A variable whose elements are neither 0 nor equal.
Tensor variable(DType dtype, const Shape& shape) {
  Numbers data(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<double>((i * 37) % 61 + 1) / 64;
  return ft::variable(ft::from_doubles(data, shape, dtype));
}

std::int64_t casts_in_plan() {
  const auto& groups = ft::explain().groups;
  return std::count_if(groups.begin(), groups.end(), [](const ft::GroupReport& group) {
    return group.name.find("cast") == 0 || group.name.find("+cast") != std::string::npos;
  });
}

// ---- what each op takes and gives ----

struct OpRow {
  const char* name;
  Shape a, b;  ///< b: {} where the op has one input
  std::function<Tensor(const Tensor& a, const Tensor& b)> call;
  /// What comes of two f32 inputs, of two bf16, and of a bf16 a beside an f32 b.
  DType of_f32, of_bf16, of_both;
};

const Shape image{2, 4, 4, 3}, matrix{4, 3}, one_input{};

/// The binary ops, all alike.
void add_arithmetic(std::vector<OpRow>& rows) {
  using Call = Tensor (*)(ft::Operand, ft::Operand);
  const std::pair<const char*, Call> ops[] = {
      {"add", ft::add}, {"sub", ft::sub},         {"mul", ft::mul},        {"div", ft::div},
      {"pow", ft::pow}, {"minimum", ft::minimum}, {"maximum", ft::maximum}};
  for (const auto& [name, call] : ops) {
    rows.push_back(
        {name, matrix, {3}, [call = call](auto& a, auto& b) { return call(a, b); }, f32, bf16, f32});
  }
  rows.push_back({"where",
                  matrix,
                  {3},
                  [](auto& a, auto& b) { return ft::where(ft::less(a, b), a, b); },
                  f32,
                  bf16,
                  f32});
  rows.push_back({"concat", matrix, matrix,
                  [](auto& a, auto& b) {
                    return ft::concat({a, b}, 0);
                  },
                  f32, bf16, f32});
}

/// The ops of one input: in the dtype that comes, or always in f32.
void add_unary(std::vector<OpRow>& rows) {
  using Call = std::function<Tensor(const Tensor&)>;
  const auto add = [&](const char* name, Shape shape, const Call& call, DType of_bf16) {
    rows.push_back(
        {name, shape, one_input, [call](auto& a, auto&) { return call(a); }, f32, of_bf16, of_bf16});
  };
  add(
      "relu", image, [](auto& x) { return ft::relu(x); }, bf16);
  add(
      "leaky_relu", image, [](auto& x) { return ft::leaky_relu(x); }, bf16);
  add(
      "sigmoid", image, [](auto& x) { return ft::sigmoid(x); }, bf16);
  add(
      "tanh", image, [](auto& x) { return ft::tanh(x); }, bf16);
  add(
      "gelu", image, [](auto& x) { return ft::gelu(x); }, bf16);
  add(
      "exp", image, [](auto& x) { return ft::exp(x); }, bf16);
  add(
      "times a number", image, [](auto& x) { return x * 0.5 + 1; }, bf16);
  add(
      "max_pool2d", image, [](auto& x) { return ft::max_pool2d(x); }, bf16);
  add(
      "avg_pool2d", image, [](auto& x) { return ft::avg_pool2d(x); }, bf16);
  add(
      "reshape", image, [](auto& x) { return ft::flatten(x); }, bf16);
  add(
      "transpose", image, [](auto& x) { return ft::to_nchw(x); }, bf16);
  add(
      "broadcast_to", {3},
      [](auto& x) {
        return ft::broadcast_to(x, {4, 3});
      },
      bf16);
  add(
      "slice", image, [](auto& x) { return ft::slice(x, 1, 0, 2); }, bf16);
  add(
      "pad", matrix,
      [](auto& x) {
        return ft::pad(x, {{1, 1}, {0, 0}});
      },
      bf16);
  add(
      "dropout", image, [](auto& x) { return ft::dropout(x, 0.5); }, bf16);
  add(
      "max", image,
      [](auto& x) {
        return ft::max(x, {1, 2});
      },
      bf16);
  add(
      "sum", image,
      [](auto& x) {
        return ft::sum(x, {1, 2});
      },
      f32);
  add(
      "mean", image, [](auto& x) { return ft::mean(x); }, f32);
  add(
      "global_avg_pool", image, [](auto& x) { return ft::global_avg_pool(x); }, f32);
  add(
      "softmax", matrix, [](auto& x) { return ft::softmax(x); }, f32);
  add(
      "log_softmax", matrix, [](auto& x) { return ft::log_softmax(x); }, f32);
  add(
      "cross_entropy", matrix, [](auto& x) { return ft::cross_entropy(x, ft::zeros({4}, DType::i64)); }, f32);
}

std::vector<OpRow> op_table() {
  std::vector<OpRow> rows = {
      {"conv2d", image, {5, 3, 3, 3}, [](auto& a, auto& b) { return ft::conv2d(a, b); }, bf16, bf16, bf16},
      {"conv2d with bias",
       image,
       {5, 3, 3, 3},
       [](auto& a, auto& b) { return ft::conv2d(a, b, variable(b.dtype(), {5})); },
       bf16,
       bf16,
       bf16},
      {"conv_transpose2d",
       image,
       {3, 2, 2, 5},
       [](auto& a, auto& b) { return ft::conv_transpose2d(a, b); },
       bf16,
       bf16,
       bf16},
      {"matmul", matrix, {3, 5}, [](auto& a, auto& b) { return ft::matmul(a, b); }, bf16, bf16, bf16},
      {"linear", matrix, {5, 3}, [](auto& a, auto& b) { return ft::linear(a, b); }, bf16, bf16, bf16},
      {"linear with bias",
       matrix,
       {5, 3},
       [](auto& a, auto& b) { return ft::linear(a, b, variable(b.dtype(), {5})); },
       bf16,
       bf16,
       bf16},
      {"bias_add", matrix, {3}, [](auto& a, auto& b) { return ft::bias_add(a, b); }, bf16, bf16, bf16},
      {"mse_loss", matrix, matrix, [](auto& a, auto& b) { return ft::mse_loss(a, b); }, f32, f32, f32},
      {"bce_with_logits", matrix, matrix, [](auto& a, auto& b) { return ft::bce_with_logits(a, b); }, f32,
       f32, f32},
  };
  add_arithmetic(rows);
  add_unary(rows);
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

// ---- a small network ----

/// One of everything that a residual network has.
struct Net : ft::nn::Module {
  ft::nn::Conv2d conv{{.in = 3, .out = 8, .kernel = 3, .padding = 1, .bias = false}};
  ft::nn::BatchNorm2d bn{8};
  ft::nn::Conv2d conv2{{.in = 8, .out = 8, .kernel = 3, .padding = 1}};
  ft::nn::Linear fc{8, 5};
  DType trunk = f32, logits = f32;  ///< as last seen

  Net() {
    register_child("conv", conv), register_child("bn", bn);
    register_child("conv2", conv2), register_child("fc", fc);
  }
  Tensor forward(const Tensor& x) override {
    const Tensor y = ft::max_pool2d(ft::relu(bn(conv(x))));
    const Tensor z = ft::relu(conv2(y) + y), out = fc(ft::global_avg_pool(z));
    trunk = z.dtype(), logits = out.dtype();
    return out;
  }
};

struct Run {
  bool item_first = false, backward_inside = false, checkpointed = false;
};

/// Loss, gradients, and parameters and running statistics after the step.
std::vector<Numbers> step(DType precision, Run how = {}) {
  ft::manual_seed(7);
  Net net;
  ft::optim::SGD sgd(net.parameters(), {.lr = 0.1, .momentum = 0.9});
  const Tensor images = ft::randn({3, 7, 5, 3});
  Tensor loss;
  {
    const Autocast cast(precision);
    const Tensor logits =
        how.checkpointed ? ft::checkpoint([&](const Tensor& x) { return net(x); }, images) : net(images);
    loss = ft::cross_entropy(logits, ft::from_vector<std::int64_t>({0, 4, 2}, {3}));
    CHECK(loss.dtype() == f32);
    CHECK(net.trunk == precision);
    CHECK(net.logits == precision);
    if (how.item_first) loss.item();
    if (how.backward_inside) loss.backward();
  }
  if (!how.backward_inside) loss.backward();
  std::vector<Tensor> gradients;
  for (const ft::Parameter& parameter : net.parameters()) gradients.push_back(parameter.grad());
  sgd.step();
  std::vector<Numbers> numbers = {loss.to_vector<double>()};
  for (const Tensor& gradient : gradients) {
    CHECK(gradient.dtype() == f32);
    numbers.push_back(gradient.to_vector<double>());
  }
  for (const ft::Parameter& parameter : net.parameters()) {
    CHECK(parameter.dtype() == f32);
    numbers.push_back(parameter.value().to_vector<double>());
  }
  for (const auto& [name, buffer] : net.named_buffers()) {
    CHECK(buffer.dtype() == f32);
    numbers.push_back(buffer.value().to_vector<double>());
  }
  return numbers;
}

/// ‖got − expected‖ / ‖expected‖ of the tensor where it is largest.
double distance(const std::vector<Numbers>& got, const std::vector<Numbers>& expected) {
  REQUIRE(got.size() == expected.size());
  double worst = 0;
  for (std::size_t t = 0; t < got.size(); ++t) {
    REQUIRE(got[t].size() == expected[t].size());
    double apart = 0, size = 0;
    for (std::size_t i = 0; i < got[t].size(); ++i) {
      apart += std::pow(got[t][i] - expected[t][i], 2);
      size += std::pow(expected[t][i], 2);
    }
    if (apart != 0) worst = std::max(worst, std::sqrt(apart / size));
    if (std::isnan(apart)) return HUGE_VAL;
  }
  return worst;
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

TEST_CASE("only bf16") {
  const auto message = [](DType dtype) { return message_of([dtype] { const Autocast cast(dtype); }); };
  CHECK(contains(message(DType::f16), "only bf16 (f16 needs loss scaling)"));
  CHECK(contains(message(DType::i64), "expected bf16, or f32 for none, got i64"));
  CHECK(contains(message(DType::f64), "autocast_test.cpp:"));
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

TEST_CASE("a parameter that is used twice is cast once, and backward reads the same cast") {
  const OnBackend backend("null");
  const Fusion off(false);
  const Tensor x = variable(f32, image), w = variable(f32, {3, 3, 3, 3});
  Tensor y;
  {
    const Autocast cast(bf16);
    const ft::Conv2dOptions same{.padding = {1, 1}};
    y = ft::conv2d(ft::conv2d(x, w, same), w, same);
  }
  const std::vector<Tensor> gradients = ft::grad({std::exchange(y, {})}, {x, w}, {ft::ones(image, bf16)});
  ft::materialize();
  std::vector<std::string> casts;
  for (const ft::GroupReport& group : ft::explain().groups) {
    if (group.name == "cast") casts.push_back(group.phase);
  }
  // Of x and w; of x's gradient, and of w's from each of its uses.
  CHECK(std::count(casts.begin(), casts.end(), "forward") == 2);
  CHECK(std::count(casts.begin(), casts.end(), "backward") == 3);
}

TEST_CASE("a step in bf16 is near the one in f32; fused, unfused up to skipped roundings") {
  const std::vector<Numbers> exact = step(f32), fused = step(bf16);
  CHECK(distance(fused, exact) < 0.02);
  CHECK(distance(fused, exact) > 1e-3);  // or it was no bf16
  const Fusion off(false);
  CHECK(distance(fused, step(bf16)) < 0.02);
}

TEST_CASE("op by op, bf16 is the reference's: sums are rounded once; eager is unfused to the bit") {
  const Fusion off(false);
  const std::vector<Numbers> unfused = step(bf16);
  {
    const OnBackend backend("reference");
    CHECK(distance(unfused, step(bf16)) < 0.004);
  }
  const Eager eager(true);
  CHECK(distance(step(bf16), unfused) == 0);
}

TEST_CASE(
    "reading the loss first, backward inside the scope, or a checkpoint: nothing changes but rounding") {
  const std::vector<Numbers> plain = step(bf16);
  CHECK(distance(step(bf16, {.backward_inside = true}), plain) == 0);
  CHECK(distance(step(bf16, {.item_first = true}), plain) < 0.02);
  const Fusion off(false);
  CHECK(distance(step(bf16, {.checkpointed = true}), step(bf16)) == 0);
}

TEST_CASE("a gradient check in f64 does not see Autocast") {
  const Autocast cast(bf16);
  const auto loss = [](const std::vector<Tensor>& in) {
    return ft::mean(ft::relu(ft::conv2d(in[0], in[1])) * 2.0);
  };
  ft::gradcheck(loss, {variable(DType::f64, {1, 3, 3, 2}), variable(DType::f64, {2, 2, 2, 2})});
}

TEST_CASE("a loader's images stay f32") {
  const Autocast cast(bf16);
  ft::data::DataLoader loader(ft::data::synthetic_images({.count = 4}),
                              {.batch = 2, .crop = 4, .flip = true});
  for (const auto& [images, labels] : loader) CHECK(images.dtype() == f32);
}

TEST_CASE("a step of ResNet-20 in bf16 has a kernel for everything") {
  const OnBackend backend("cpu");
  auto model = ft::nn::resnet20();
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 5e-4});
  const Tensor images = ft::randn({1, 16, 16, 3});
  ft::materialize({images});
  {
    const Autocast cast(bf16);
    ft::cross_entropy(model(images), ft::zeros({1}, DType::i64)).backward();
  }
  sgd.step();
  for (const ft::GroupReport& group : ft::explain().groups) {
    CHECK_MESSAGE(group.why.empty(), group.name << " at " << group.module_path << ": " << group.why);
  }
}
