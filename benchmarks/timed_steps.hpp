#pragma once
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "benchmarks/statistics.hpp"
#include "benchmarks/subjects.hpp"

/// A training step under some of the fusion rules, its time and its plan.
namespace benchmarks {

/// With what a step is planned.
struct Mode {
  std::vector<std::string> rules = {"all"};  ///< as ft::set_fusion_rules takes them
  ft::Retention retention = ft::retention();
};

/// The best of every op by itself.
inline Mode unfused() { return {.rules = {"share in place"}}; }

inline double timed_step(Subject& subject, const Mode& mode, std::size_t index) {
  using Clock = std::chrono::steady_clock;
  ft::set_fusion(true);
  ft::set_fusion_rules(mode.rules);
  ft::set_retention(mode.retention);
  const Clock::time_point start = Clock::now();
  subject.step(index);
  ft::synchronize();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// "batch_norm,conv2d+bias" as names of rules and families. Some rules have a comma in their names: the
/// longest name that fits is taken.
inline std::vector<std::string> parse_rules(const std::string& list) {
  std::vector<std::string> known = {"all"};
  for (const ft::FusionRule& rule : ft::fusion_rules()) known.insert(known.end(), {rule.name, rule.family});
  std::sort(known.begin(), known.end(), [](auto& a, auto& b) { return a.size() > b.size(); });

  std::vector<std::string> rules;
  for (std::size_t at = 0; at <= list.size(); at += rules.back().size() + 1) {
    const auto found = std::find_if(known.begin(), known.end(), [&](const std::string& name) {
      const std::size_t end = at + name.size();
      return list.compare(at, name.size(), name) == 0 && (end == list.size() || list[end] == ',');
    });
    if (found == known.end()) {
      throw std::runtime_error("--rules: no rule and no family is named '" + list.substr(at) + "'");
    }
    rules.push_back(*found);
  }
  return rules;
}

// ---- in reports

/// Moved by all kernels of a step.
inline std::int64_t bytes_moved(const ft::Report& report) {
  std::int64_t bytes = 0;
  for (const ft::GroupReport& group : report.groups) bytes += group.bytes;
  return bytes;
}

inline double megabytes(std::int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

inline nlohmann::ordered_json step_json(const std::vector<double>& ms) {
  return {{"median", median(ms)}, {"p10", quantile(ms, 0.1)}, {"p90", quantile(ms, 0.9)}, {"samples", ms}};
}

/// What a plan says of itself.
inline nlohmann::ordered_json plan_json(const ft::Report& report) {
  return {{"kernels", report.kernels},       {"tensor_passes", report.tensor_passes},
          {"bytes", bytes_moved(report)},    {"kept_bytes", report.kept_bytes},
          {"peak_bytes", report.peak_bytes}, {"replay", report.replay}};
}

inline const char* name_of(ft::Retention retention) {
  switch (retention) {
    case ft::Retention::fastest:
      return "fastest";
    case ft::Retention::balanced:
      return "balanced";
    case ft::Retention::smallest:
      return "smallest";
  }
  return "?";
}

}  // namespace benchmarks
