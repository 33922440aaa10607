#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fusetape/fusetape.hpp>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/machine_speed.hpp"
#include "benchmarks/statistics.hpp"
#include "benchmarks/subjects.hpp"
#include "benchmarks/timed_steps.hpp"

/// compare_fusion --profile: every kernel of a step beside the least time that its bytes and operations need.
namespace benchmarks {

/// The least time for what a kernel moves and multiplies, one beside the other.
struct Floor {
  double memory_ms = 0, arithmetic_ms = 0;
  double ms() const { return std::max(memory_ms, arithmetic_ms); }
};

inline Floor floor_of(const ft::GroupReport& group, const MachineSpeed& machine) {
  const bool half = group.kernel_dtype == ft::DType::bf16;
  return {.memory_ms = 1e3 * static_cast<double>(group.bytes) / machine.bytes,
          .arithmetic_ms = 1e3 * group.kernel_flops / (half ? machine.half_flops : machine.flops)};
}

/// The kernels of a step that differ in nothing but their place.
struct KernelRow {
  ft::GroupReport first;
  int count = 0;
  double ms = 0;  ///< of all together, as the floor
  Floor floor;

  double above_floor() const { return ms - floor.ms(); }
  bool holds(const ft::GroupReport& group) const {
    return group.name == first.name && group.kernel == first.kernel && group.shape == first.shape &&
           group.dtype == first.dtype && group.bytes == first.bytes && group.flops == first.flops;
  }
};

/// Where a step's time goes beside its kernels. Medians over the steps.
struct OutsideKernels {
  double recording_ms = 0;  ///< the loop's own code, and letting go of the tape
  double key_ms = 0;        ///< finding the plan and binding memory, up to the first kernel
  double gaps_ms = 0;       ///< from the end of one kernel to the start of the next
  double sum() const { return recording_ms + key_ms + gaps_ms; }
};

struct Profile {
  MachineSpeed machine;
  ft::Report report;            ///< its times are those of the step in the middle
  std::vector<KernelRow> rows;  ///< of the kernels' medians; the longest first
  std::vector<double> step_ms, unprofiled_ms;
  OutsideKernels outside;

  template <class Field>
  double total(Field field) const {
    return std::accumulate(rows.begin(), rows.end(), 0.0,
                           [&](double sum, const KernelRow& row) { return sum + field(row); });
  }
  double kernels_ms() const {
    return total([](const KernelRow& row) { return row.ms; });
  }
  double floors_ms() const {
    return total([](const KernelRow& row) { return row.floor.ms(); });
  }
};

// ---- the measurement

inline std::vector<KernelRow> merge_kernels(const ft::Report& report, const std::vector<double>& kernel_ms,
                                            const MachineSpeed& machine) {
  std::vector<KernelRow> rows;
  for (std::size_t i = 0; i < report.groups.size(); ++i) {
    const ft::GroupReport& group = report.groups[i];
    auto row = std::find_if(rows.begin(), rows.end(), [&](const KernelRow& r) { return r.holds(group); });
    if (row == rows.end()) row = rows.insert(row, {.first = group});
    const Floor floor = floor_of(group, machine);
    ++row->count;
    row->ms += kernel_ms[i];
    row->floor.memory_ms += floor.memory_ms;
    row->floor.arithmetic_ms += floor.arithmetic_ms;
  }
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.ms > b.ms; });
  return rows;
}

/// One kernel in one step.
struct Span {
  double start_ms = 0, ms = 0;
  double end_ms() const { return start_ms + ms; }
};

/// The kernels of the step that has just run, in order.
inline std::vector<Span> last_spans() {
  std::vector<Span> spans;
  for (const ft::GroupReport& group : ft::explain().groups)
    spans.push_back({group.start_ms, group.milliseconds});
  return spans;
}

inline OutsideKernels outside_kernels(const std::vector<std::vector<Span>>& steps,
                                      const std::vector<double>& step_ms) {
  std::vector<double> recording, key, gaps;
  for (std::size_t s = 0; s < steps.size(); ++s) {
    const std::vector<Span>& spans = steps[s];
    double inside = 0;
    for (const Span& span : spans) inside += span.ms;
    recording.push_back(step_ms[s] - spans.back().end_ms());
    key.push_back(spans.front().start_ms);
    gaps.push_back(spans.back().end_ms() - spans.front().start_ms - inside);
  }
  return {median(recording), median(key), median(gaps)};
}

/// The times of the step that took neither long nor short.
inline void take_middle_step(const std::vector<std::vector<Span>>& steps, const std::vector<double>& step_ms,
                             ft::Report& report) {
  std::vector<std::size_t> order(steps.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return step_ms[a] < step_ms[b]; });
  const std::vector<Span>& middle = steps[order[order.size() / 2]];
  for (std::size_t i = 0; i < middle.size(); ++i) {
    report.groups[i].start_ms = middle[i].start_ms;
    report.groups[i].milliseconds = middle[i].ms;
  }
}

inline std::vector<double> median_kernels(const std::vector<std::vector<Span>>& steps) {
  std::vector<double> medians;
  for (std::size_t kernel = 0; kernel < steps[0].size(); ++kernel) {
    std::vector<double> ms;
    for (const std::vector<Span>& spans : steps) ms.push_back(spans[kernel].ms);
    medians.push_back(median(std::move(ms)));
  }
  return medians;
}

/// Steps with every kernel timed, each followed by one without. A subject's step must be one run of a plan
/// that stays the same.
inline Profile profile_steps(Subject& subject, const Mode& mode, int count, const MachineSpeed& machine) {
  std::vector<std::vector<Span>> steps;
  Profile profile{.machine = machine};
  std::size_t index = 0;
  for (; index < 2; ++index) timed_step(subject, mode, index);
  const ft::CacheStats before = ft::plan_cache_stats();
  while (static_cast<int>(steps.size()) < count) {
    ft::set_profiling(true);
    profile.step_ms.push_back(timed_step(subject, mode, index++));
    ft::set_profiling(false);
    steps.push_back(last_spans());
    profile.unprofiled_ms.push_back(timed_step(subject, mode, index++));
  }
  profile.report = ft::explain();
  const ft::CacheStats cache = ft::plan_cache_stats();
  if (cache.misses != before.misses || cache.hits != before.hits + 2 * count)
    throw std::runtime_error("--profile: a step is not one run of one plan");
  take_middle_step(steps, profile.step_ms, profile.report);
  profile.rows = merge_kernels(profile.report, median_kernels(steps), machine);
  if (profile.kernels_ms() == 0) throw std::runtime_error("--profile: the backend runs no kernels");
  profile.outside = outside_kernels(steps, profile.step_ms);
  return profile;
}

// ---- the report

inline std::string label_of(const ft::GroupReport& group) {
  constexpr std::size_t longest = 96, shown = 60;
  std::string label = group.name;
  if (label.size() > longest)
    label = label.substr(0, label.rfind('+', shown)) + "+... (" + std::to_string(group.ops) + " ops)";
  return label + " " + ft::to_string(group.shape) + " " + std::string(ft::name_of(group.dtype));
}

inline void print_row(const KernelRow& row) {
  const ft::GroupReport& group = row.first;
  const double mega = static_cast<double>(row.count) / 1e6, giga = static_cast<double>(row.count) / 1e9;
  std::printf("%9.3f%7d%10.1f", row.ms, row.count, mega * static_cast<double>(group.bytes));
  std::printf("%9.3f%9.3f", giga * group.kernel_flops, giga * group.flops);
  std::printf("%10.3f%8.2f  %-10s", row.floor.ms(), row.floor.ms() > 0 ? row.ms / row.floor.ms() : 0.0,
              row.floor.memory_ms >= row.floor.arithmetic_ms ? "memory" : "arithmetic");
  std::printf("  %-8s  %s  [%s]\n", group.phase.c_str(), label_of(group).c_str(), group.kernel.c_str());
}

inline void print_kernels(const Profile& profile) {
  std::printf("measured here (%s):\n  %.1f GB/s, f32 %.1f GFLOP/s", profile.machine.how.c_str(),
              profile.machine.bytes / 1e9, profile.machine.flops / 1e9);
  if (profile.machine.half_flops > profile.machine.flops)
    std::printf(", bf16 %.1f GFLOP/s", profile.machine.half_flops / 1e9);
  std::printf("\n\n%9s%7s%10s%9s%9s%10s%8s  %-10s  %-8s  %s\n", "ms", "count", "MB", "GFLOP", "direct",
              "floor ms", "ratio", "bound by", "phase", "kernel");
  for (const KernelRow& row : profile.rows) print_row(row);
  std::printf(
      "(floor: bytes at the bandwidth or operations at the peak, whichever takes longer; below 1: from the\n"
      "caches. Winograd: GFLOP of its products, without the transforms; direct: of the same convolution)\n");
}

/// What stands between the step and the sum of the floors.
inline void print_differences(const Profile& profile) {
  const double step = median(profile.step_ms), floors = profile.floors_ms(), kernels = profile.kernels_ms();
  const OutsideKernels& outside = profile.outside;
  std::printf("\nstep, median of %zu   %9.3f ms (%.3f ms with no kernel timed)\n", profile.step_ms.size(),
              step, median(profile.unprofiled_ms));
  std::printf("its kernels         %9.3f ms, %d of them\n", kernels, profile.report.kernels);
  std::printf("sum of the floors   %9.3f ms\n", floors);
  std::printf("outside kernels     %9.3f ms: recording %.3f, planning key and memory %.3f, gaps %.3f\n",
              outside.sum(), outside.recording_ms, outside.key_ms, outside.gaps_ms);
  std::printf(
      "between the step and the floors stand %.3f ms: %.3f in kernels, %.3f outside, %.3f in the spread\n"
      "of steps; the most in\n",
      step - floors, kernels - floors, outside.sum(), step - kernels - outside.sum());
  std::vector<KernelRow> rows = profile.rows;
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.above_floor() > b.above_floor(); });
  rows.resize(std::min<std::size_t>(rows.size(), 3));
  for (const KernelRow& row : rows)
    std::printf("%+9.3f ms  %s ×%d\n", row.above_floor(), label_of(row.first).c_str(), row.count);
}

inline nlohmann::ordered_json to_json(const KernelRow& row) {
  const ft::GroupReport& group = row.first;
  return {{"name", group.name},
          {"phase", group.phase},
          {"kernel", group.kernel},
          {"shape", std::vector<std::int64_t>(group.shape.begin(), group.shape.end())},
          {"dtype", ft::name_of(group.dtype)},
          {"count", row.count},
          {"ms", row.ms},
          {"bytes", row.count * group.bytes},
          {"flops", row.count * group.flops},
          {"kernel_flops", row.count * group.kernel_flops},
          {"floor_ms", row.floor.ms()},
          {"memory_ms", row.floor.memory_ms},
          {"arithmetic_ms", row.floor.arithmetic_ms}};
}

inline nlohmann::ordered_json to_json(const Profile& profile) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const KernelRow& row : profile.rows) rows.push_back(to_json(row));
  return {{"machine",
           {{"bytes_per_second", profile.machine.bytes},
            {"f32_flops_per_second", profile.machine.flops},
            {"bf16_flops_per_second", profile.machine.half_flops},
            {"how", profile.machine.how}}},
          {"step_ms", step_json(profile.step_ms)},
          {"unprofiled_step_ms", step_json(profile.unprofiled_ms)},
          {"kernels_ms", profile.kernels_ms()},
          {"floors_ms", profile.floors_ms()},
          {"outside_ms",
           {{"recording", profile.outside.recording_ms},
            {"key_and_memory", profile.outside.key_ms},
            {"gaps", profile.outside.gaps_ms}}},
          {"kernels", rows}};
}

/// One step's kernels as complete events ("X", microseconds) of Chrome's trace format, which chrome://tracing
/// and Perfetto open.
inline nlohmann::ordered_json chrome_trace(const ft::Report& report) {
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  for (const ft::GroupReport& group : report.groups) {
    events.push_back({{"name", group.name},
                      {"cat", group.phase},
                      {"ph", "X"},
                      {"ts", 1e3 * group.start_ms},
                      {"dur", 1e3 * group.milliseconds},
                      {"pid", 1},
                      {"tid", 1},
                      {"args",
                       {{"phase", group.phase},
                        {"kernel", group.kernel},
                        {"module_path", group.module_path},
                        {"source", group.source},
                        {"shape", ft::to_string(group.shape)},
                        {"bytes", group.bytes},
                        {"flops", group.flops},
                        {"kernel_flops", group.kernel_flops}}}});
  }
  return {{"traceEvents", std::move(events)}, {"displayTimeUnit", "ms"}};
}

}  // namespace benchmarks
