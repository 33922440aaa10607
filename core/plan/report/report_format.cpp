#include "core/plan/report/report_format.hpp"

#include <algorithm>

namespace fusetape::plan {

std::string short_name(const GroupReport& group) {
  constexpr std::size_t longest = 60, shown = 40;
  const std::size_t cut = group.name.rfind('+', shown);
  if (group.name.size() <= longest || cut == std::string::npos) return group.name;
  return group.name.substr(0, cut) + "+... (" + std::to_string(group.ops) + " ops)";
}

std::vector<CountedRefusal> count_refusals(const std::vector<RefusalReport>& refusals) {
  std::vector<CountedRefusal> counted;
  for (const RefusalReport& refusal : refusals) {
    const auto same = std::find_if(counted.begin(), counted.end(), [&](const CountedRefusal& other) {
      return other.refusal.rule == refusal.rule && other.refusal.reason == refusal.reason &&
             other.refusal.source == refusal.source;
    });
    if (same != counted.end()) {
      ++same->count;
    } else {
      counted.push_back({refusal, 1});
    }
  }
  return counted;
}

std::string describe(const CountedRefusal& counted) {
  const RefusalReport& refusal = counted.refusal;
  std::string text = refusal.rule + " at " + refusal.source;
  if (!refusal.module_path.empty()) text += " (" + refusal.module_path + ")";
  text += ": " + refusal.reason;
  if (!refusal.value_source.empty()) {
    text += " (" + refusal.value_source;
    if (!refusal.value_module_path.empty()) text += ", " + refusal.value_module_path;
    text += ")";
  }
  if (counted.count > 1) text += ", " + std::to_string(counted.count) + " times";
  return text;
}

std::string unwritten_text(const Report& report) {
  struct Ops {
    std::string_view name;
    int unwritten = 0, count = 0;
  };
  std::vector<Ops> ops;
  for (const OpReport& recorded : report.ops) {
    auto op =
        std::find_if(ops.begin(), ops.end(), [&](const Ops& other) { return other.name == recorded.op; });
    if (op == ops.end()) op = ops.insert(op, {.name = recorded.op});
    ++op->count;
    op->unwritten += recorded.written ? 0 : 1;
  }
  std::stable_sort(ops.begin(), ops.end(),
                   [](const Ops& a, const Ops& b) { return a.unwritten > b.unwritten; });
  std::string text;
  for (const Ops& op : ops) {
    if (op.unwritten == 0) break;
    text += (text.empty() ? "" : ", ") + std::string(op.name) + " " + std::to_string(op.unwritten) + " of " +
            std::to_string(op.count);
  }
  return text;
}

std::vector<KeptByOp> kept_by_op(const Report& report) {
  std::vector<KeptByOp> ops;
  for (const KeptReport& kept : report.kept) {
    auto op =
        std::find_if(ops.begin(), ops.end(), [&](const KeptByOp& other) { return other.op == kept.op; });
    if (op == ops.end()) op = ops.insert(op, {.op = kept.op});
    ++op->values;
    op->bytes += kept.bytes;
  }
  std::stable_sort(ops.begin(), ops.end(),
                   [](const KeptByOp& a, const KeptByOp& b) { return a.bytes > b.bytes; });
  return ops;
}

}  // namespace fusetape::plan
