// What the planner must make of ResNet-20's training step. Few assertions, and only of what matters.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using fusetape::tests::ConvBy;
using fusetape::tests::OnBackend;

namespace {

ft::Report resnet20_step(ft::DType precision) {
  ft::nn::ResNet model = ft::nn::resnet20({.classes = 10});
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 5e-4});
  const ft::Autocast cast(precision);
  ft::cross_entropy(model(ft::zeros({2, 32, 32, 3})), ft::zeros({2}, ft::DType::i64)).backward();
  sgd.step();
  return ft::explain();
}

/// Groups of a phase whose name has `part` in it.
std::int64_t count(const ft::Report& report, const std::string& phase, const std::string& part) {
  return std::count_if(report.groups.begin(), report.groups.end(), [&](const ft::GroupReport& group) {
    return group.phase == phase && group.name.find(part) != std::string::npos;
  });
}

}  // namespace

TEST_CASE("ResNet-20's blocks count as fused, whichever kernels their parts ride in") {
  for (const char* name : {"cpu", "null"}) {
    for (const ft::ConvAlgorithm algorithm : {ft::ConvAlgorithm::direct, ft::ConvAlgorithm::automatic}) {
      CAPTURE(name);
      const OnBackend backend(name);
      const ConvBy how(algorithm);
      const ft::Report report = resnet20_step(ft::DType::f32);
      for (const auto& [ops, times] : {std::pair{"batch_norm+add+relu", 9},
                                       {"batch_norm+batch_norm+add+relu", 2},
                                       {"batch_norm+relu", 10},
                                       {"relu_grad+batch_norm_grad", 19},
                                       {"add+relu_grad+batch_norm_grad", 9}}) {
        CHECK_NOTHROW(report.require_fused(ops, times));
        CHECK_THROWS(report.require_fused(ops, times + 1));  // what is computed again does not count
      }
    }
  }
}

TEST_CASE("ResNet-20's training step: every norm fused both ways, one update, no pre-activation kept") {
  for (const char* name : {"cpu", "null"}) {
    for (const ft::DType precision : {ft::DType::f32, ft::DType::bf16}) {
      CAPTURE(name);
      CAPTURE(ft::name_of(precision));
      const OnBackend backend(name);
      const ft::Report report = resnet20_step(precision);
      report.require_fused("batch_norm+relu", 10);  // the stem's, and the first of each block
      CHECK(count(report, "forward", "batch_norm+add+relu") == 9);
      CHECK(count(report, "forward", "batch_norm+batch_norm+add+relu") == 2);
      CHECK(count(report, "forward", "batch_norm") == 19);
      CHECK(count(report, "backward", "relu_grad+batch_norm_grad") == 19);
      CHECK(count(report, "backward", "batch_norm_grad+batch_norm_grad") == 2);
      CHECK(count(report, "backward", "batch_norm_grad") == 19);
      CHECK(count(report, "update", "") == 1);
      CHECK(count(report, "update", "sgd_update") == 1);
      CHECK(report.refusals.empty());
      for (const ft::KeptReport& kept : report.kept) {
        const bool pre_activation = (kept.op == "batch_norm" || kept.op == "add") && kept.shape.rank() == 4;
        CHECK_MESSAGE(!pre_activation, kept.op << " of " << kept.module_path << " is kept");
      }
    }
  }
}

TEST_CASE("deeper nets are planned alike: each block costs the same kernels") {
  const OnBackend backend("null");
  const auto kernels = [](std::int64_t depth) {
    ft::nn::ResNet model = ft::nn::resnet_cifar({.depth = depth, .classes = 10});
    ft::optim::SGD sgd(model.parameters(), {.lr = 0.1});
    ft::cross_entropy(model(ft::zeros({2, 32, 32, 3})), ft::zeros({2}, ft::DType::i64)).backward();
    sgd.step();
    return ft::explain().kernels;
  };
  const int a = kernels(20), b = kernels(38), c = kernels(56);
  CHECK(c - b == b - a);
}
