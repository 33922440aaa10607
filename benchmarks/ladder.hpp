#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fusetape/fusetape.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/statistics.hpp"
#include "benchmarks/subjects.hpp"
#include "benchmarks/timed_steps.hpp"

/// compare_fusion --ladder: the fusion rules switched on family by family, each rung measured against the one
/// below it.
namespace benchmarks {

struct Rung {
  std::string name;
  Mode mode;
  std::vector<double> step_ms = {};
  Ratio gain = {};  ///< time of the rung below over this one's; none for the first
  ft::Report report = {};
};

/// From every op by itself to all rules with balanced retention. A family without rules is no rung.
inline std::vector<Rung> rungs() {
  const std::string in_place = unfused().rules[0];
  std::vector<Rung> ladder = {{"per op", {unfused().rules, ft::Retention::fastest}}};
  for (const std::string family :
       {"pointwise", "convolution", "batch_norm", "residual", "optimizer", "transform", "memory"}) {
    Mode mode = ladder.back().mode;
    for (const ft::FusionRule& rule : ft::fusion_rules()) {
      if (rule.family == family && rule.name != in_place) mode.rules.push_back(rule.name);
    }
    if (mode.rules.size() == ladder.back().mode.rules.size()) continue;
    if (family == "memory") mode.retention = ft::Retention::balanced;
    ladder.push_back({(family == "memory" ? "+memory, balanced" : "+" + family), std::move(mode)});
  }
  return ladder;
}

/// Steps of two rungs in pairs, each pair in a random order, from the same state and on the same data.
inline void measure_pairs(SubjectFactory& factory, Rung& below, Rung& rung, int pairs, std::uint64_t seed) {
  struct Turn {
    Rung& rung;
    std::unique_ptr<Subject> subject;
    std::vector<double> ms = {};
  };
  std::array<Turn, 2> turns{{{below, factory.make()}, {rung, factory.make()}}};
  for (Turn& turn : turns) {
    for (const std::size_t index : {0u, 1u}) timed_step(*turn.subject, turn.rung.mode, index);
    turn.rung.report = ft::explain();
  }
  std::mt19937_64 random(seed);
  std::array<std::size_t, 2> order{0, 1};
  for (int pair = 0; pair < pairs; ++pair) {
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t i : order) {
      const auto index = static_cast<std::size_t>(pair) + 2;
      turns[i].ms.push_back(timed_step(*turns[i].subject, turns[i].rung.mode, index));
    }
  }
  rung.gain = paired_ratio(turns[0].ms, turns[1].ms, seed);
  rung.step_ms = std::move(turns[1].ms);
  if (below.step_ms.empty()) below.step_ms = std::move(turns[0].ms);
}

inline std::vector<Rung> climb(SubjectFactory& factory, int pairs, std::uint64_t seed) {
  std::vector<Rung> ladder = rungs();
  for (std::size_t i = 1; i < ladder.size(); ++i) {
    measure_pairs(factory, ladder[i - 1], ladder[i], pairs, seed);
  }
  return ladder;
}

inline void print_ladder(const std::vector<Rung>& ladder, int pairs) {
  std::printf("%-19s%10s%29s%9s%8s%10s%9s%9s\n", "", "median ms", "against the rung below", "kernels",
              "passes", "MB moved", "MB kept", "MB peak");
  for (const Rung& rung : ladder) {
    char gain[64] = "";
    if (&rung != &ladder.front()) {
      std::snprintf(gain, sizeof gain, "%.3fx [%.3f, %.3f]", rung.gain.median, rung.gain.ci95.low,
                    rung.gain.ci95.high);
    }
    const ft::Report& report = rung.report;
    std::printf("%-19s%10.2f%29s%9d%8.0f%10.1f%9.2f%9.2f\n", rung.name.c_str(), median(rung.step_ms), gain,
                report.kernels, report.tensor_passes, megabytes(bytes_moved(report)),
                megabytes(report.kept_bytes), megabytes(report.peak_bytes));
  }
  std::printf("\nmedians of %d pairs in random order, 95 %% intervals\n", pairs);
}

inline nlohmann::ordered_json to_json(const Rung& rung, bool first) {
  nlohmann::ordered_json json = {{"name", rung.name},
                                 {"rules", rung.mode.rules},
                                 {"retention", name_of(rung.mode.retention)},
                                 {"step_ms", step_json(rung.step_ms)}};
  if (!first) {
    json["speedup"] = rung.gain.median;
    json["speedup_ci95"] = {rung.gain.ci95.low, rung.gain.ci95.high};
  }
  json.update(plan_json(rung.report));
  return json;
}

inline nlohmann::ordered_json to_json(const std::vector<Rung>& ladder) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const Rung& rung : ladder) json.push_back(to_json(rung, json.empty()));
  return json;
}

}  // namespace benchmarks
