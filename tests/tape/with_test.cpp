// Scopes for switches.
#include <doctest/doctest.h>

#include <optional>
#include <string>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;

namespace {

/// All switches that have a getter, as text.
std::string state() {
  return std::string(ft::backend_name()) + " " + std::to_string(ft::threads()) +
         std::to_string(ft::fusion_enabled()) + std::to_string(ft::deterministic()) +
         std::to_string(ft::tuning_enabled()) + std::to_string(ft::tf32_enabled()) +
         std::to_string(ft::anomaly_detection_enabled()) + std::to_string(ft::flush_denormals()) +
         std::to_string(ft::graph_capture_enabled()) + std::to_string(ft::eager_enabled()) +
         std::to_string(static_cast<int>(ft::retention())) +
         std::to_string(static_cast<int>(ft::conv_algorithm())) + std::to_string(ft::pending_limit());
}

}  // namespace

TEST_CASE("every switch holds for a scope, and the others stay") {
  const std::string before = state();
  const ft::Switches cases[] = {
      {.fusion = !ft::fusion_enabled()},
      {.deterministic = !ft::deterministic()},
      {.tuning = !ft::tuning_enabled()},
      {.tf32 = !ft::tf32_enabled()},
      {.anomaly_detection = true},
      {.flush_denormals = true},
      {.graph_capture = false},
      {.eager = true},
      {.retention = ft::Retention::smallest},
      {.conv_algorithm = ft::conv_algorithm() == ft::ConvAlgorithm::direct ? ft::ConvAlgorithm::winograd
                                                                           : ft::ConvAlgorithm::direct},
      {.pending_limit = 12345},
      {.threads = ft::threads() + 1},
      {.backend = "reference"},
  };
  for (const ft::Switches& switches : cases) {
    CAPTURE(&switches - cases);
    {
      const ft::With with(switches);
      const std::string now = state();
      CHECK(now != before);
      const ft::With same(switches);
      CHECK(state() == now);
    }
    CHECK(state() == before);
  }
}

TEST_CASE("a scope of switches: rules, history and wrong values") {
  const ft::Tensor x = ft::ones({8});
  const auto kernels = [&] {
    ft::materialize({ft::relu(x * 2.0 + 1.0)});
    return ft::explain().kernels;
  };
  CHECK(kernels() == 1);
  {
    const ft::With with({.fusion_rules = {{"optimizer"}}});
    CHECK(kernels() == 3);
  }
  CHECK(kernels() == 1);
  // Scopes that begin inside and live longer, and setters of other switches, are not undone.
  std::optional<ft::NoGrad> no_history;
  std::optional<ft::Autocast> cast;
  std::optional<ft::DetectAnomaly> search;
  {
    const ft::With with({.fusion = false});
    no_history.emplace();
    cast.emplace(ft::DType::bf16);
    search.emplace();
  }
  CHECK_FALSE(ft::grad_enabled());
  CHECK(ft::autocast_dtype() == ft::DType::bf16);
  CHECK(ft::anomaly_detection_enabled());
  search.reset();
  cast.reset();
  no_history.reset();
  CHECK(ft::grad_enabled());
  const std::string before = state();
  CHECK(contains(message_of([] { ft::With({.backend = "cup"}); }), "expected cpu, cuda, reference or null"));
  CHECK(contains(
      message_of([] { ft::With({.conv_algorithm = ft::ConvAlgorithm::direct, .pending_limit = -1}); }),
      "[set_pending_limit] expected at least 0"));
  CHECK(state() == before);
}
