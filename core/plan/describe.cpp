#include <algorithm>
#include <cstdio>
#include <sstream>

#include "core/check.hpp"
#include "core/plan/passes.hpp"

namespace fusetape::plan {
namespace {

const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::forward:
      return "forward";
    case Phase::backward:
      return "backward";
    case Phase::update:
      return "update";
  }
  return "?";
}

/// Bytes that a kernel's passes move: the mean size of its whole-tensor operands times their number.
std::int64_t bytes_moved(const Graph& graph, const Group& group, double passes) {
  std::int64_t largest = 0;
  for (int value : group.inputs) largest = std::max(largest, graph.value(value).bytes());
  for (int value : group.outputs) largest = std::max(largest, graph.value(value).bytes());
  return static_cast<std::int64_t>(passes * static_cast<double>(largest));
}

/// The step before which everything is forward; the number of steps where there is no backward.
int first_backward_step(const Plan& plan) {
  for (std::size_t s = 0; s < plan.steps.size(); ++s) {
    const int last = plan.groups[static_cast<std::size_t>(plan.steps[s].group)].nodes.back();
    if (plan.graph.node(last).phase != Phase::forward) return static_cast<int>(s);
  }
  return static_cast<int>(plan.steps.size());
}

/// When each value's bytes are last read: by step, or beyond the end where the value is kept.
std::vector<int> last_uses(const Plan& plan) {
  const Graph& graph = plan.graph;
  std::vector<int> last(graph.values.size(), -1);
  const auto use = [&](int value, int step) {
    int& at = last[static_cast<std::size_t>(root_of(graph, value))];
    at = std::max(at, step);
  };
  for (std::size_t s = 0; s < plan.steps.size(); ++s) {
    for (int input : plan.groups[static_cast<std::size_t>(plan.steps[s].group)].inputs)
      use(input, static_cast<int>(s));
  }
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    const GraphValue& value = graph.values[v];
    const bool computed = value.producer >= 0 && !graph.node(value.producer).dead;
    if (value.keep && computed) use(static_cast<int>(v), static_cast<int>(plan.steps.size()));
  }
  return last;
}

/// Of the values that the step writes, the bytes still needed when backward begins.
std::int64_t kept_by(const Plan& plan, const Group& group, const std::vector<int>& last, int boundary) {
  std::int64_t bytes = 0;
  for (int output : group.outputs) {
    const int root = root_of(plan.graph, output);
    if (root == output && last[static_cast<std::size_t>(root)] >= boundary)
      bytes += plan.graph.value(output).bytes();
  }
  return bytes;
}

}  // namespace

std::string place_of(const GraphNode& node) {
  const std::string_view file = node.at.file_name();
  return std::string(file.substr(file.find_last_of('/') + 1)) + ":" + std::to_string(node.at.line());
}

void describe(Plan& plan) {
  Report& report = *plan.report;
  const int boundary = first_backward_step(plan);
  const std::vector<int> last = last_uses(plan);
  for (std::size_t s = 0; s < plan.steps.size(); ++s) {
    const Group& group = plan.groups[static_cast<std::size_t>(plan.steps[s].group)];
    const GraphNode& node = plan.graph.node(group.nodes.back());
    const backends::Kernel& kernel = *plan.steps[s].kernel;
    GroupReport out;
    out.name = group.name;
    out.kernel = kernel.name;
    out.why = kernel.why;
    out.module_path = node.module_path != nullptr ? *node.module_path : "";
    out.source = place_of(node);
    out.phase = name_of(node.phase);
    out.ops = static_cast<int>(group.nodes.size());
    out.tensor_passes = kernel.tensor_passes;
    out.bytes = bytes_moved(plan.graph, group, kernel.tensor_passes);
    if (static_cast<int>(s) < boundary) out.kept_bytes = kept_by(plan, group, last, boundary);
    report.tensor_passes += out.tensor_passes;
    report.kept_bytes += out.kept_bytes;
    report.groups.push_back(std::move(out));
  }
  report.kernels = static_cast<int>(plan.steps.size());
  report.arena_bytes = static_cast<std::int64_t>(plan.arena_bytes + plan.scratch_bytes);
  report.peak_bytes = report.arena_bytes;
  for (std::int64_t bytes : plan.pooled_bytes) report.peak_bytes += bytes;
}

void verify(const Plan& plan) {
  const Graph& graph = plan.graph;
  std::vector<bool> written(graph.values.size(), false);
  for (int input : graph.inputs) written[static_cast<std::size_t>(input)] = true;
  for (const Step& step : plan.steps) {
    const Group& group = plan.groups[static_cast<std::size_t>(step.group)];
    for (int input : group.inputs) {
      FUSETAPE_ASSERT(written[static_cast<std::size_t>(root_of(graph, input))]);
      FUSETAPE_ASSERT(plan.storage[static_cast<std::size_t>(input)].kind != Storage::Kind::none);
    }
    for (int output : group.outputs) {
      FUSETAPE_ASSERT(plan.storage[static_cast<std::size_t>(output)].kind != Storage::Kind::none);
      written[static_cast<std::size_t>(output)] = true;
    }
  }
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    const GraphValue& value = graph.values[v];
    if (!value.keep || value.producer < 0) continue;
    FUSETAPE_ASSERT(written[static_cast<std::size_t>(root_of(graph, static_cast<int>(v)))]);
    FUSETAPE_ASSERT(plan.storage[v].kind != Storage::Kind::arena);
  }
}

}  // namespace fusetape::plan

namespace fusetape {

namespace {

/// At least `width` wide, longer where the text is; then two spaces.
std::string column(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text + "  ";
}

std::string number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string megabytes(std::int64_t bytes) { return number(static_cast<double>(bytes) / 1e6, "%.3f MB"); }

}  // namespace

std::string Report::to_string() const {
  std::ostringstream out;
  out << "plan on " << backend << ", fusion " << (fusion ? "on" : "off") << ": " << kernels << " kernels, "
      << number(tensor_passes, "%.0f") << " tensor passes, kept " << megabytes(kept_bytes) << ", peak "
      << megabytes(peak_bytes) << '\n';
  for (const GroupReport& group : groups) {
    out << "  " << column(group.phase, 8) << column(group.name, 40) << column(group.kernel, 32)
        << column(number(group.tensor_passes, "%.0f passes"), 9) << column(megabytes(group.bytes), 11)
        << column("kept " + megabytes(group.kept_bytes), 16);
    if (group.milliseconds > 0) out << column(number(group.milliseconds, "%.3f ms"), 10);
    if (!group.module_path.empty()) out << group.module_path << "  ";
    out << group.source;
    if (!group.why.empty()) out << "  (" << group.why << ')';
    out << '\n';
  }
  for (const RefusalReport& refusal : refusals) {
    out << "  not fused: " << refusal.rule << " at " << refusal.source << ": " << refusal.reason << '\n';
  }
  return out.str();
}

std::ostream& operator<<(std::ostream& out, const Report& report) { return out << report.to_string(); }

}  // namespace fusetape
