// nn::summary: counts that are known, and a model that is as before.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
using namespace fusetape::tests;
using ft::Tensor;

namespace {

std::vector<float> all_cells(const nn::Module& model) {
  std::vector<float> all;
  const auto add = [&](const ft::Cell& cell) {
    for (const float x : cell.value().to_vector()) all.push_back(x);
  };
  for (const auto& [name, parameter] : model.named_parameters()) add(parameter);
  for (const auto& [name, buffer] : model.named_buffers()) add(buffer);
  return all;
}

}  // namespace

TEST_CASE("a summary counts parameters, operations and what is kept, and changes nothing") {
  ft::manual_seed(2);
  nn::Sequential net(nn::Conv2d({.in = 3, .out = 8, .kernel = 3, .padding = 1, .bias = false}),
                     nn::BatchNorm2d(8), nn::ReLU(), nn::GlobalAvgPool(), nn::Linear(8, 10), nn::Dropout());
  const Tensor x = ft::randn({4, 16, 16, 3});
  const Tensor probe = net(x);
  ft::materialize({probe});
  const std::string before_report = ft::explain().to_json();
  const std::vector<float> before = all_cells(net);
  const ft::GeneratorState generator = ft::generator_state();
  const nn::Summary summary = nn::summary(net, x);
  CHECK(all_cells(net) == before);
  CHECK(ft::explain().to_json() == before_report);
  CHECK(ft::generator_state().counter == generator.counter);
  CHECK(ft::backend_name() == "cpu");
  for (const ft::Parameter& p : net.parameters()) CHECK_FALSE(p.grad().defined());

  REQUIRE(summary.rows.size() == 7);
  CHECK(summary.rows[0].type == "Sequential");
  CHECK(summary.rows[0].output == ft::Shape{4, 10});
  const nn::SummaryRow& conv = summary.rows[1];
  CHECK(conv.path == "0");
  CHECK(conv.type == "Conv2d");
  CHECK(conv.output == ft::Shape{4, 16, 16, 8});
  CHECK(conv.parameters == 216);
  CHECK(conv.flops == 2.0 * 4 * 16 * 16 * 8 * 27);
  CHECK(conv.kept_bytes == 4 * 16 * 16 * 8 * 4);  // y of the convolution, which the norm's gradient reads
  CHECK(summary.rows[2].parameters == 16);
  CHECK(summary.rows[5].flops == 2.0 * 4 * 8 * 10);
  CHECK(summary.parameters == 216 + 16 + 90);
  CHECK(summary.trainable == summary.parameters);
  CHECK(summary.flops == conv.flops + summary.rows[5].flops);
  CHECK(summary.kept_bytes >= conv.kept_bytes);
  std::int64_t kept = 0;
  for (const nn::SummaryRow& row : summary.rows) kept += row.kept_bytes;
  CHECK(kept == summary.kept_bytes);

  const std::string text = summary.to_string();
  CHECK(contains(text, "0 (Conv2d)"));
  CHECK(contains(text, "{4, 16, 16, 8}"));
  net.child("0").set_requires_grad(false);
  CHECK(contains(nn::summary(net, x).to_string(), "trainable"));
  CHECK(nn::summary(net.child("4"), ft::ones({2, 8})).rows[0].flops == 2.0 * 2 * 8 * 10);
}

TEST_CASE("a summary changes nothing in eager mode, nor where it throws behind the forward pass") {
  ft::manual_seed(2);
  nn::Sequential net{nn::Conv2d({.in = 3, .out = 4, .kernel = 1}), nn::BatchNorm2d(4), nn::GlobalAvgPool()};
  const Tensor x = ft::randn({2, 4, 4, 3});
  net(x);
  const std::vector<float> before = all_cells(net);
  {
    const ft::With eager({.eager = true});
    CHECK(nn::summary(net, x).flops == 2.0 * 2 * 4 * 4 * 4 * 3);
  }
  CHECK(all_cells(net) == before);
  ft::HookHandle hook = net.parameter("0.weight").register_hook([](const Tensor& g) {
    g.sum().item();
    return Tensor();
  });
  CHECK(contains(message_of([&] { nn::summary(net, x); }), "null"));
  hook.remove();
  CHECK(all_cells(net) == before);
  CHECK(ft::backend_name() == "cpu");

  // The caller's graph is not touched; what records nothing has no operations.
  const Tensor features = net(x);
  CHECK(nn::summary(net.child("2"), x).flops == 0);
  nn::Identity nothing;
  const nn::Summary empty = nn::summary(nothing, features);
  CHECK(empty.kept_bytes == 0);
  CHECK(empty.flops == 0);
  features.sum().backward();
  CHECK(net.parameter("0.weight").grad().defined());
}

TEST_CASE("a summary of the paper's ResNet-20 has its known counts; one that fails changes nothing") {
  auto net = nn::resnet20();
  net.eval();
  const nn::Summary summary = nn::summary(net, ft::zeros({1, 32, 32, 3}));
  CHECK(summary.parameters == 272474);
  CHECK(summary.flops ==
        doctest::Approx(81.6e6).epsilon(0.01));  // 40.8 million multiply-adds, with projections
  CHECK(contains(message_of([&] { nn::summary(net, ft::zeros({1, 32, 32, 4})); }), "[conv2d]"));
  CHECK(ft::backend_name() == "cpu");
  CHECK(net(ft::zeros({1, 32, 32, 3})).shape() == ft::Shape{1, 10});
}
