// Switches that the environment turns: what each variable takes, and that it takes nothing else in silence.
#include <doctest/doctest.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <thread>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;

namespace {

/// What `body` gives, or throws, on a thread of its own that finds the variable so.
std::string with(const char* variable, const std::string& value, const std::function<std::string()>& body) {
  const char* const set = std::getenv(variable);
  const std::string before = set != nullptr ? set : "";
  ::setenv(variable, value.c_str(), 1);
  std::string said;
  std::thread([&] {
    try {
      said = body();
    } catch (const ft::Error& error) {
      said = error.what();
    }
  }).join();
  set != nullptr ? ::setenv(variable, before.c_str(), 1) : ::unsetenv(variable);
  return said;
}

struct OnOff {
  const char* variable;
  bool (*enabled)();
  bool otherwise;
};
constexpr OnOff on_off[] = {
    {"FUSETAPE_FUSE", ft::fusion_enabled, true},
    {"FUSETAPE_DETERMINISTIC", ft::deterministic, false},
    {"FUSETAPE_TUNE", ft::tuning_enabled, true},
    {"FUSETAPE_TF32", ft::tf32_enabled, false},
    {"FUSETAPE_ANOMALY", ft::anomaly_detection_enabled, false},
    {"FUSETAPE_FLUSH_DENORMALS", ft::flush_denormals, false},
    {"FUSETAPE_CAPTURE", ft::graph_capture_enabled, true},
    {"FUSETAPE_EAGER", ft::eager_enabled, false},
};

}  // namespace

TEST_CASE("a switch that is on or off takes three words for each, in every variable") {
  for (const OnOff& row : on_off) {
    CAPTURE(row.variable);
    const auto state = [&] { return std::string(row.enabled() ? "on" : "off"); };
    for (const char* on : {"on", "1", "true"}) CHECK(with(row.variable, on, state) == "on");
    for (const char* off : {"off", "0", "false"}) CHECK(with(row.variable, off, state) == "off");
    CHECK(with(row.variable, "", state) == (row.otherwise ? "on" : "off"));
  }
}

TEST_CASE("a value that a variable does not know is an error that lists what it knows") {
  struct Row {
    const char* variable;
    const char* value;
    const char* expected;
  };
  std::vector<Row> rows = {
      {"FUSETAPE_RETENTION", "Fastest", "expected fastest, balanced or smallest, got 'Fastest'"},
      {"FUSETAPE_CONV", "fft", "expected automatic, direct or winograd, got 'fft'"},
      {"FUSETAPE_PENDING_LIMIT", "256M", "expected bytes, at least 0, got '256M'"},
      {"FUSETAPE_PENDING_LIMIT", "-1", "expected bytes, at least 0, got '-1'"},
      {"FUSETAPE_BACKEND", "gpu", "expected cpu, cuda, reference or null, got 'gpu'"},
  };
  for (const OnOff& row : on_off)
    rows.push_back({row.variable, "no", "expected on, off, 1, 0, true or false, got 'no'"});
  for (const Row& row : rows) {
    CAPTURE(row.variable);
    const std::string said = with(row.variable, row.value, [] { return std::string(ft::backend_name()); });
    CHECK(contains(said, "[" + std::string(row.variable) + "] " + row.expected));
  }
}

TEST_CASE("a switch that plans depend on makes another plan, the others do not") {
  std::thread([] {
    const OnBackend backend("cpu");
    const ft::Tensor x = ft::ones({8, 4});
    ft::materialize({x});
    const auto misses_of = [&](const std::function<void()>& turn) {
      ft::relu(x * 2).to_vector();
      const std::int64_t before = ft::plan_cache_stats().misses;
      turn();
      ft::relu(x * 2).to_vector();
      return ft::plan_cache_stats().misses - before;
    };
    struct Row {
      const char* name;
      std::function<void()> turn;
      bool keyed;
    };
    const Row rows[] = {
        {"fusion", [] { ft::set_fusion(!ft::fusion_enabled()); }, true},
        {"deterministic", [] { ft::set_deterministic(!ft::deterministic()); }, true},
        {"tuning", [] { ft::set_tuning(!ft::tuning_enabled()); }, true},
        {"tf32", [] { ft::set_tf32(!ft::tf32_enabled()); }, true},
        {"anomaly", [] { ft::set_anomaly_detection(!ft::anomaly_detection_enabled()); }, true},
        {"retention", [] { ft::set_retention(ft::Retention::smallest); }, true},
        {"conv", [] { ft::set_conv_algorithm(ft::ConvAlgorithm::winograd); }, true},
        {"threads", [] { ft::set_threads(ft::threads() == 1 ? most_threads : 1); }, most_threads > 1},
        {"denormals", [] { ft::set_flush_denormals(!ft::flush_denormals()); }, false},
        {"capture", [] { ft::set_graph_capture(!ft::graph_capture_enabled()); }, false},
        {"pending limit", [] { ft::set_pending_limit(1 << 20); }, false},
    };
    for (const Row& row : rows) CHECK_MESSAGE((misses_of(row.turn) == (row.keyed ? 1 : 0)), row.name);
  }).join();
}
