// Batch norms folded into the convolutions before them, for evaluation.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
using ft::Tensor;
using fusetape::tests::contains;
using fusetape::tests::difference;
using fusetape::tests::message_of;
using fusetape::tests::OnBackend;

namespace {

/// Parameters and statistics that no folding can get right by chance.
void disturb(nn::Module& model) {
  const auto bind = [](ft::Cell cell, double low, double high) {
    cell.set_data(nn::uniform(cell.shape(), low, high));
  };
  for (auto& [name, buffer] : model.named_buffers()) bind(buffer, name.ends_with("var") ? 0.25 : -0.5, 1.5);
  for (auto& [name, parameter] : model.named_parameters()) {
    if (parameter.shape().rank() == 1) bind(parameter, -0.5, 1.5);
  }
}

Tensor images(ft::Shape shape) { return ft::randn(shape); }

struct Checked {
  int folded = 0;
  double apart = 0;
};

/// How many were folded, and how far the outputs moved.
Checked fold_and_compare(nn::Module& model, const Tensor& x) {
  disturb(model);
  model.eval();
  const std::vector<double> before = model(x).to_vector<double>();
  const int folded = nn::fold_batch_norm(model);
  return {folded, difference(model(x).to_vector<double>(), before)};
}

bool ran(const std::string& op) {
  const auto& groups = ft::explain().groups;
  return std::any_of(groups.begin(), groups.end(),
                     [&](const auto& group) { return contains(group.name, op); });
}

}  // namespace

TEST_CASE("a folded model gives what the unfolded one gives, without batch norms") {
  for (const char* name : {"cpu", "reference"}) {
    const OnBackend backend(name);
    ft::manual_seed(5);
    const Tensor x = images({2, 8, 8, 3});
    auto resnet = nn::resnet_cifar({.depth = 8, .width = 4});
    const Checked checked = fold_and_compare(resnet, x);
    CHECK(checked.folded == 9);  // the stem, two of each block, two shortcuts
    CHECK(checked.apart < 1e-5);
    CHECK_FALSE(ran("batch_norm"));
    CHECK(ran("conv2d"));
    CHECK(nn::fold_batch_norm(resnet) == 0);

    nn::Sequential net;
    net.emplace<nn::Conv2d>({.in = 3, .out = 5, .kernel = {3, 1}, .stride = 2, .bias = true});
    net.emplace<nn::BatchNorm2d>(5, ft::BatchNormOptions{.eps = 0.1});
    net.emplace<nn::ReLU>();
    net.emplace<nn::Conv2d>({.in = 5, .out = 5, .kernel = 1, .groups = 5});
    net.emplace<nn::ReLU>();
    net.emplace<nn::BatchNorm2d>(5);  // not right behind: it stays
    const Checked small = fold_and_compare(net, x);
    CHECK(small.folded == 1);
    CHECK(small.apart < 1e-5);
    CHECK(ran("batch_norm"));
  }
}

TEST_CASE("folding wants evaluation mode, and a folded batch norm refuses to train") {
  auto model = nn::resnet_cifar({.depth = 8, .width = 4});
  const std::size_t parameters = model.parameters().size();
  const std::string text = message_of([&] { nn::fold_batch_norm(model); });
  CHECK(contains(text, "call eval() first"));
  CHECK(contains(text, "fold_test.cpp"));
  CHECK(model.parameters().size() == parameters);
  model.eval();
  CHECK(nn::fold_batch_norm(model) == 9);
  CHECK(model.parameters().size() == parameters - 9);
  model.train();
  CHECK(contains(message_of([&] { model(ft::ones({1, 8, 8, 3})); }), "after fold_batch_norm"));
  CHECK(nn::fold_batch_norm(model) == 0);
}

TEST_CASE("a convolution and a batch norm are partners once") {
  struct Twice : nn::Module {
    nn::Conv2d conv{{.in = 1, .out = 2}};
    nn::BatchNorm2d bn{2}, other{2}, wide{3};
    explicit Twice(int what) {
      if (what == 0) register_conv_norm(conv, wide);
      register_conv_norm(conv, bn);
      if (what == 1) register_conv_norm(conv, other);
    }
  };
  CHECK(contains(message_of([] { Twice(0); }), "a batch norm of 2 channels"));
  CHECK(contains(message_of([] { Twice(1); }), "without a partner"));
  CHECK(message_of([] { Twice(2); }).empty());
}

TEST_CASE("a checkpoint of a folded model fits folded models only") {
  const std::string path =
      (std::filesystem::temp_directory_path() / "fusetape_fold_test.safetensors").string();
  auto model = nn::resnet_cifar({.depth = 8, .width = 4}), same = nn::resnet_cifar({.depth = 8, .width = 4}),
       unfolded = nn::resnet_cifar({.depth = 8, .width = 4});
  disturb(model);
  model.eval(), same.eval();
  nn::fold_batch_norm(model), nn::fold_batch_norm(same);
  ft::io::save_checkpoint(path, {.model = &model});
  ft::io::load_checkpoint(path, {.model = &same});
  const Tensor x = images({1, 8, 8, 3});
  CHECK(same(x).to_vector() == model(x).to_vector());
  const std::string text = message_of([&] { ft::io::load_checkpoint(path, {.model = &unfolded}); });
  CHECK(contains(text, "missing: model.bn1.weight"));
  CHECK(contains(text, "unexpected: model.conv1.bias"));
  std::filesystem::remove(path);
}

TEST_CASE("a 7x7 convolution of stride 2 with its batch norm folded, against double") {
  const OnBackend backend("cpu");
  ft::manual_seed(11);
  nn::Sequential net;
  auto& conv =
      net.emplace<nn::Conv2d>({.in = 3, .out = 64, .kernel = 7, .stride = 2, .padding = 3, .bias = false});
  auto& bn = net.emplace<nn::BatchNorm2d>(64);
  disturb(net);
  net.eval();
  const Tensor x = images({2, 64, 64, 3});
  ft::materialize({x});
  const auto wide = [](const Tensor& t) {
    return ft::from_doubles(t.to_vector<double>(), t.shape(), ft::DType::f64);
  };
  const Tensor in = wide(x), w = wide(conv.weight().value()), gamma = wide(bn.weight().value()),
               beta = wide(bn.bias().value()), mean = wide(bn.running_mean().value()),
               variance = wide(bn.running_var().value());
  nn::fold_batch_norm(net);
  const std::vector<double> got = net(x).to_vector<double>();
  const OnBackend reference("reference");
  const Tensor y = ft::conv2d(in, w, {.stride = {2, 2}, .padding = {3, 3}});
  const double error =
      difference(got, ft::batch_norm_inference(y, gamma, beta, mean, variance).to_vector<double>());
  CAPTURE(error);
  CHECK(error <= 1e-6);  // one chain of 147 products, in an order that depends on the instructions
}
