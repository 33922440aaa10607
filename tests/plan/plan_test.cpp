// What the planner makes of small graphs: the groups' names, what they keep, what they refuse.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Tensor;
using fusetape::tests::Fusion;
using fusetape::tests::OnBackend;

namespace {

constexpr std::int64_t batch = 2, size = 8, channels = 4;

Tensor image() { return ft::variable(ft::ones({batch, size, size, channels})); }
Tensor channel_values(double value) { return ft::variable(ft::full({channels}, value)); }
Tensor filters() { return ft::variable(ft::full({channels, 3, 3, channels}, 0.1)); }
constexpr ft::Conv2dOptions same{.padding = {1, 1}};

std::vector<std::string> groups(const std::string& phase) {
  std::vector<std::string> names;
  for (const ft::GroupReport& group : ft::explain().groups) {
    if (group.phase == phase) names.push_back(group.name);
  }
  return names;
}

std::int64_t count(const std::string& name) {
  const auto& all = ft::explain().groups;
  return std::count_if(all.begin(), all.end(),
                       [&](const ft::GroupReport& group) { return group.name == name; });
}

/// Records the gradients of y by everything in `inputs` and runs, all on the null backend.
void plan_step(const Tensor& y, const std::vector<Tensor>& inputs) {
  const std::vector<Tensor> gradients = ft::grad({y}, inputs, {ft::ones(y.shape())});
  ft::materialize();
}

}  // namespace

TEST_CASE("conv+bias+relu, forward and backward") {
  const OnBackend backend("null");
  const Tensor x = image(), w = filters(), b = channel_values(0);
  plan_step(ft::relu(ft::conv2d(x, w, b, same)), {x, w, b});
  CHECK(groups("forward") == std::vector<std::string>{"conv2d+bias+relu"});
  CHECK(groups("backward") ==
        std::vector<std::string>{"relu_grad+bias_grad", "conv2d_grad_weight", "conv2d_grad_input"});
}

TEST_CASE("bn+relu, bn+add+relu and bn+bn+add+relu, forward and backward") {
  const OnBackend backend("null");
  const Tensor x = image(), z = image(), gamma = channel_values(1), beta = channel_values(0);
  const Tensor gamma2 = channel_values(1), beta2 = channel_values(0);
  struct Case {
    const char* forward;
    const char* backward;
    double passes;  ///< of both kernels, as in the design page's table
    std::function<Tensor()> y;
  };
  const Case cases[] = {
      {"batch_norm+relu", "relu_grad+batch_norm_grad", 3 + 5,
       [&] { return ft::relu(ft::batch_norm(x, gamma, beta)); }},
      {"batch_norm+add+relu", "relu_grad+batch_norm_grad", 4 + 7,
       [&] { return ft::relu(ft::batch_norm(x, gamma, beta) + z); }},
      {"batch_norm+add+relu", "relu_grad+batch_norm_grad", 4 + 7,
       [&] { return ft::relu(z + ft::batch_norm(x, gamma, beta)); }},
      {"batch_norm+batch_norm+add+relu", "relu_grad+batch_norm_grad+batch_norm_grad", 5 + 10,
       [&] { return ft::relu(ft::batch_norm(x, gamma, beta) + ft::batch_norm(z, gamma2, beta2)); }},
  };
  for (const Case& c : cases) {
    CAPTURE(c.forward);
    const bool two = std::string(c.forward).rfind("batch_norm+batch_norm", 0) == 0;
    std::vector<Tensor> inputs = {x, z, gamma, beta};
    if (two) inputs.insert(inputs.end(), {gamma2, beta2});
    plan_step(c.y(), inputs);
    CHECK(count(c.forward) == 1);
    CHECK(count(c.backward) == 1);
    CHECK(ft::explain().kernels == 2);
    CHECK(ft::explain().tensor_passes == c.passes);
  }
}

TEST_CASE("a residual's two gradients are added inside the batch norm's gradient") {
  const OnBackend backend("null");
  const Tensor x = image(), w = filters(), gamma = channel_values(1), beta = channel_values(0);
  const Tensor trunk = ft::relu(ft::batch_norm(ft::conv2d(x, w, same), gamma, beta));
  const Tensor y = ft::relu(ft::conv2d(trunk, w, same) + trunk);
  plan_step(y, {x, w, gamma, beta});
  CHECK(count("add+relu_grad+batch_norm_grad") == 1);
  CHECK(count("add") == 1);  // of w's two gradients
}

TEST_CASE("temporaries of one expression are no handles on what is inside a group") {
  const OnBackend backend("cpu");
  CHECK(ft::sum(ft::relu(ft::conv2d(image(), filters(), channel_values(0), same) * 2.0)).item() > 0);
  CHECK(ft::explain().refusals.empty());
  CHECK(count("conv2d+bias") == 1);
  CHECK(count("mul+relu+sum") == 1);
}

TEST_CASE("pointwise chains, and one kernel for all updates") {
  const OnBackend backend("null");
  const Tensor a = ft::ones({4, 5}), b = ft::ones({5});
  const Tensor y = ft::exp(a * b + 1.0) * 0.5;
  ft::materialize({y});
  CHECK(groups("forward") == std::vector<std::string>{"mul+add+exp+mul"});

  ft::nn::Linear fc{3, 2};
  for (const bool adam : {false, true}) {
    std::unique_ptr<ft::optim::Optimizer> optimizer;
    if (adam) {
      optimizer = std::make_unique<ft::optim::AdamW>(fc.parameters(), ft::optim::AdamWOptions{});
    } else {
      optimizer = std::make_unique<ft::optim::SGD>(fc.parameters(),
                                                   ft::optim::SGDOptions{.lr = 0.1, .momentum = 0.9});
    }
    optimizer->zero_grad();
    ft::sum(fc(ft::ones({4, 3}))).backward();
    optimizer->step();
    CHECK(groups("update") == std::vector<std::string>{adam ? "adam_update" : "sgd_update"});
  }
}

TEST_CASE("linear layers, forward and backward; clipping and all updates in one kernel") {
  const OnBackend backend("cpu");
  ft::nn::Linear first{3, 8}, second{8, 5}, third({.in = 5, .out = 2, .bias = false});
  std::vector<ft::Parameter> parameters;
  for (const auto* layer : {&first, &second, &third}) {
    for (const ft::Parameter& p : layer->parameters()) parameters.push_back(p);
  }
  const auto backward = [&] {
    for (ft::Parameter& p : parameters) p.zero_grad();
    const Tensor hidden = ft::gelu(second(ft::relu(first(ft::ones({4, 3})))));
    ft::sum(ft::relu(third(hidden))).backward();
  };
  const std::vector<std::string> forward = {"matmul+bias+relu", "matmul+bias+gelu", "matmul+relu"};

  ft::optim::SGD sgd(parameters, {.lr = 0.1, .momentum = 0.9, .max_grad_norm = 1});
  backward();
  sgd.step();
  CHECK(groups("forward") == forward);
  CHECK(groups("update") == std::vector<std::string>{"grad_norm", "add+div+minimum", "clip+sgd_update"});
  const double without_gradients = ft::explain().groups.back().tensor_passes;

  ft::optim::AdamW adam(parameters, {});
  backward();
  ft::optim::clip_grad_norm(parameters, 1);
  adam.step();
  CHECK(groups("update") == std::vector<std::string>{"grad_norm", "add+div+minimum", "clip+adam_update"});
  CHECK(without_gradients == 5);
  CHECK(ft::explain().groups.back().tensor_passes == 8);  // p.grad() is the clipped one: written, too
}

TEST_CASE("max pooling behind a ReLU: its gradient has the mask inside") {
  const OnBackend backend("null");
  const Tensor x = image(), w = filters(), b = channel_values(0);
  plan_step(ft::max_pool2d(ft::relu(ft::conv2d(x, w, same))), {x, w});
  CHECK(count("max_pool2d_grad+relu_grad") == 1);
  plan_step(ft::max_pool2d(ft::relu(ft::conv2d(x, w, b, same))), {x, w, b});
  CHECK(count("max_pool2d_grad+relu_grad") == 0);
  CHECK(count("relu_grad+bias_grad") == 1);
}

TEST_CASE("a ReLU's output that only a mask computed from x would need is not written") {
  struct Case {
    const char* what;
    std::vector<std::string> rules;
    std::vector<std::string> forward;
    double passes;  ///< of the last of them
  };
  const Case cases[] = {
      // x twice, the pooled image, its index
      {"pooled", {"all"}, {"batch_norm+relu+max_pool2d"}, 4},
      // and y, written and read
      {"pooled, the mask from y", {"batch_norm+relu+max_pool2d"}, {"batch_norm+relu+max_pool2d"}, 6},
      // nothing but the statistics, since nobody asks for y: its sum is dead
      {"summed", {"batch_norm"}, {"batch_norm+relu"}, 1},
  };
  for (const char* const name : {"cpu", "null"}) {
    const OnBackend backend(name);
    for (const Case& c : cases) {
      CAPTURE(name);
      CAPTURE(c.what);
      ft::set_fusion_rules(c.rules);
      const Tensor x = image(), gamma = channel_values(1), beta = channel_values(0);
      Tensor y = ft::relu(ft::batch_norm(x, gamma, beta));
      y = c.what == std::string("summed") ? ft::sum(y) : ft::max_pool2d(y);
      const std::vector<Tensor> gradients = ft::grad({y}, {x, gamma, beta}, {ft::ones(y.shape())});
      y = Tensor();
      ft::materialize();
      ft::set_fusion_rules({"all"});
      CHECK(groups("forward") == c.forward);
      CHECK(ft::explain().groups[0].tensor_passes == c.passes);
    }
  }
}

TEST_CASE("an activation rides with its norm, and backward keeps neither's output") {
  struct Case {
    const char* name;
    Tensor (*of)(ft::Operand);
    double passes;  ///< backward: g and x twice, dx; of a dear gradient g, x and g', then g', x and dx
  };
  const OnBackend backend("cpu");
  for (const Case& c : {Case{"relu6", ft::relu6, 5}, Case{"hardswish", ft::hardswish, 5},
                        Case{"silu", ft::silu, 6}, Case{"sigmoid", ft::sigmoid, 6}}) {
    CAPTURE(c.name);
    const Tensor x = image(), gamma = channel_values(1), beta = channel_values(0);
    const Tensor y = ft::sum(c.of(ft::batch_norm(x, gamma, beta)));
    const std::vector<Tensor> gradients = ft::grad({y}, {x, gamma, beta});
    ft::materialize();
    const std::string norm = std::string("batch_norm+") + c.name;
    CHECK(groups("forward") == std::vector<std::string>{norm, "sum"});
    CHECK(groups("backward").back() == std::string(c.name) + "_grad+batch_norm_grad");
    CHECK(ft::explain().groups[0].tensor_passes == 3);
    CHECK(ft::explain().groups.back().tensor_passes == c.passes);
    CHECK(ft::explain().kept_bytes < 1024);  // the statistics
  }
}

TEST_CASE("an activation rides with a group norm at every retention, and backward keeps neither's output") {
  const OnBackend backend("cpu");
  const ft::Retention before = ft::retention();
  for (const ft::Retention retention :
       {ft::Retention::fastest, ft::Retention::balanced, ft::Retention::smallest}) {
    ft::set_retention(retention);
    for (Tensor (*const of)(ft::Operand) : {ft::relu, ft::sigmoid, ft::gelu}) {
      const Tensor x = ft::variable(ft::ones({2, 6, 6, 16})), gamma = ft::variable(ft::full({16}, 1)),
                   beta = ft::variable(ft::full({16}, 0));
      const Tensor y = ft::sum(of(ft::group_norm(x, 4, gamma, beta)));
      const std::vector<Tensor> gradients = ft::grad({y}, {x, gamma, beta});
      ft::materialize();
      CHECK(groups("forward")[0].starts_with("group_norm+"));
      CHECK(groups("backward").back().ends_with("_grad+group_norm_grad"));
      CHECK(ft::explain().kept_bytes < 1024);  // the statistics
    }
  }
  ft::set_retention(before);
}

TEST_CASE("a norm's gradient by its own x does not lie over x while that is read") {
  const OnBackend backend("cpu");
  std::vector<std::vector<float>> found[2];
  for (const bool fused : {true, false}) {
    const Fusion mode(fused);
    ft::manual_seed(3);
    const Tensor a = ft::variable(ft::randn({2, 4, 4, 6})), gamma = ft::variable(ft::rand({6}) + 0.5),
                 beta = ft::variable(ft::randn({6}));
    const auto gradients = [&] {
      const Tensor x = a * 2.0;
      return ft::grad({ft::relu(ft::group_norm(x, 2, gamma, beta))}, {a, gamma, beta}, {x});
    };
    for (const Tensor& g : gradients()) found[fused ? 1 : 0].push_back(g.to_vector());
  }
  CHECK(found[0] == found[1]);
}

TEST_CASE("a pre-activation that somebody holds is written without the activation that nobody asks for") {
  const OnBackend backend("cpu");
  for (Tensor (*const of)(ft::Operand) : {ft::relu, ft::relu6, ft::sigmoid, ft::silu}) {
    const Tensor x = ft::variable(ft::randn({2, 5, 6, 7})), gamma = ft::variable(ft::rand({7}) + 0.5);
    const Tensor beta = ft::variable(ft::randn({7}));
    const Tensor normed = ft::batch_norm(x, gamma, beta), detached = ft::relu(normed.detach());
    std::vector<Tensor> gradients = ft::grad({ft::sum(of(normed))}, {x, gamma, beta});
    ft::materialize();
    const Tensor again = ft::batch_norm(x, gamma, beta), both = ft::relu(again);
    ft::materialize();
    CHECK(normed.to_vector() == again.to_vector());
    CHECK(detached.to_vector() == both.to_vector());
  }
}

TEST_CASE("16-bit products: a weight gradient's cast is inside, and nothing runs on the reference") {
  const OnBackend backend("cpu");
  for (const ft::DType dtype : {ft::DType::bf16, ft::DType::f16}) {
    const auto weights = [&](ft::Shape shape) { return ft::variable(ft::full(shape, 0.125)); };
    const Tensor w1 = weights({16, 4}), b1 = weights({16}), w2 = weights({3, 16});
    const auto half = [&](const Tensor& x) { return ft::cast(x, dtype); };
    const Tensor image = half(ft::randn({4, 4, 4, 4}));
    const Tensor x = ft::avg_pool2d(ft::max_pool2d(ft::relu(image))).reshape({4, 4});
    const Tensor hidden = ft::dropout(ft::gelu(ft::linear(x, half(w1), half(b1))), 0.5);
    const Tensor logits = ft::linear(hidden, half(w2));
    const Tensor loss =
        ft::cross_entropy(logits, ft::zeros({4}, ft::DType::i64)) + ft::mean(ft::softmax(logits));
    const std::vector<Tensor> gradients = ft::grad({loss}, {w1, b1, w2});
    ft::materialize();
    CHECK(count("matmul+cast") == 2);
    CHECK(count("matmul+bias+gelu") == 1);
    for (const ft::GroupReport& group : ft::explain().groups) {
      CAPTURE(group.name);
      CHECK(group.kernel != "reference");
    }
    const std::string& kernel =
        std::find_if(ft::explain().groups.begin(), ft::explain().groups.end(), [](const auto& g) {
          return g.name == "matmul+cast";
        })->kernel;
    CHECK((dtype == ft::DType::bf16 || kernel.find(", through f32") != std::string::npos));
  }
}

TEST_CASE("fusion off: one op a kernel, and the switch makes its own plans") {
  const OnBackend backend("null");
  const auto run = [] {
    const Tensor x = image(), gamma = channel_values(1), beta = channel_values(0);
    plan_step(ft::relu(ft::batch_norm(x, gamma, beta) + x), {x, gamma, beta});
    return ft::explain().kernels;
  };
  {
    const Fusion off(false);
    CHECK(run() == 6);  // batch_norm, add, relu; relu_grad, batch_norm_grad, add
    for (const ft::GroupReport& group : ft::explain().groups) CHECK(group.ops == 1);
  }
  CHECK(run() < 6);
}

TEST_CASE("kept for backward: the conv's output, y and the statistics, never the pre-activation") {
  const OnBackend backend("null");
  const Tensor x = image(), w = filters(), gamma = channel_values(1), beta = channel_values(0);
  const std::int64_t tensor = 4 * batch * size * size * channels, statistics = 2 * 4 * channels;
  plan_step(ft::relu(ft::batch_norm(ft::conv2d(x, w, same), gamma, beta) + x), {x, w, gamma, beta});
  CHECK(ft::explain().kept_bytes == 2 * tensor + statistics);

  plan_step(ft::relu(ft::conv2d(x, w, channel_values(0), same)), {x, w});
  CHECK(ft::explain().kept_bytes == tensor);
}

TEST_CASE("a live handle on a value inside a group is one more output, and priced") {
  const OnBackend backend("null");
  const Tensor x = image(), z = image(), normal = ft::batch_norm(x, channel_values(1), channel_values(0));
  ft::Tensor y = ft::relu(normal);
  ft::materialize();
  CHECK(count("batch_norm+relu") == 1);
  CHECK(ft::explain().refusals.empty());
  CHECK(ft::explain().tensor_passes == 3 + 1);

  const Tensor sum = ft::batch_norm(x, channel_values(1), channel_values(0)) + z;
  y = ft::relu(sum);
  ft::materialize();
  CHECK(count("batch_norm+add+relu") == 1);
  CHECK(ft::explain().tensor_passes == 4 + 1);
}

TEST_CASE("a live handle on a value that a kernel cannot write is a refusal with a reason and a line") {
  const OnBackend backend("null");
  const Tensor x = image(), before = ft::conv2d(x, filters(), same);
  const Tensor y = ft::relu(ft::bias_add(before, channel_values(0)));
  ft::materialize({y});
  CHECK(count("conv2d+bias+relu") == 0);
  const auto& refusals = ft::explain().refusals;
  const auto refusal = std::find_if(refusals.begin(), refusals.end(),
                                    [](const ft::RefusalReport& r) { return r.rule == "conv2d+bias+relu"; });
  REQUIRE(refusal != refusals.end());
  CHECK(refusal->reason.find("live handle") != std::string::npos);
  CHECK(refusal->source.rfind("plan_test.cpp:", 0) == 0);
  CHECK(ft::explain().to_string().find("not fused: conv2d+bias+relu") != std::string::npos);
}

TEST_CASE("equal ops are computed once, dead ones not at all") {
  const OnBackend backend("null");
  const Tensor x = ft::ones({3});
  const Fusion off(false);
  const Tensor y = ft::exp(x) + ft::exp(x);
  { const Tensor unused = ft::log(x); }
  ft::materialize({y});
  CHECK(groups("forward") == std::vector<std::string>{"exp", "add"});
}

TEST_CASE("a group that would wait for its own result is not made") {
  const OnBackend backend("cpu");
  // z depends on the batch norm's output by way of a sum: batch_norm+add+relu cannot be one kernel.
  const Tensor x = image(), gamma = channel_values(1), beta = channel_values(0.5);
  const Tensor mask = ft::exp(x),
               scaled = mask * ft::sum(mask);  // exp → sum → mul: the chain must not close over the sum
  CHECK(scaled.to_vector()[0] ==
        doctest::Approx(std::exp(1.0) * std::exp(1.0) * batch * size * size * channels));
  const Tensor normal = ft::batch_norm(x, gamma, beta);
  CHECK(ft::relu(normal + ft::mean(normal)).to_vector()[0] == doctest::Approx(1.0));
}

TEST_CASE("the null backend plans and computes nothing") {
  const OnBackend backend("null");
  const Tensor y = ft::ones({2}) + 1.0;
  CHECK_THROWS_WITH_AS(y.to_vector(), doctest::Contains("null"), ft::Error);
  ft::materialize({y});
  CHECK_THROWS_WITH_AS(y.to_vector(), doctest::Contains("null"), ft::Error);
}
