#include <nlohmann/json.hpp>

#include "fusetape/report.hpp"

/// Report::to_json: everything, under the names of the fields.
namespace fusetape {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::int64_t> extents(const Shape& shape) { return {shape.begin(), shape.end()}; }

Json json_of(const GroupReport& group) {
  return {{"name", group.name},
          {"recorded", group.recorded},
          {"rule", group.rule},
          {"kernel", group.kernel},
          {"why", group.why},
          {"module_path", group.module_path},
          {"source", group.source},
          {"phase", group.phase},
          {"ops", group.ops},
          {"tensor_passes", group.tensor_passes},
          {"unfused_passes", group.unfused_passes},
          {"bytes", group.bytes},
          {"unfused_bytes", group.unfused_bytes},
          {"shape", extents(group.shape)},
          {"dtype", name_of(group.dtype)},
          {"flops", group.flops},
          {"kernel_flops", group.kernel_flops},
          {"kernel_dtype", name_of(group.kernel_dtype)},
          {"kept_bytes", group.kept_bytes},
          {"reads_from", group.reads_from},
          {"start_ms", group.start_ms},
          {"milliseconds", group.milliseconds}};
}

Json json_of(const RefusalReport& refusal) {
  return {{"rule", refusal.rule},
          {"reason", refusal.reason},
          {"source", refusal.source},
          {"module_path", refusal.module_path},
          {"value_source", refusal.value_source},
          {"value_module_path", refusal.value_module_path},
          {"group", refusal.group}};
}

Json json_of(const OpReport& op) {
  return {{"op", op.op},          {"module_path", op.module_path}, {"source", op.source},
          {"phase", op.phase},    {"kernels", op.kernels},         {"bytes", op.bytes},
          {"written", op.written}};
}

Json json_of(const KeptReport& kept) {
  return {{"op", kept.op},
          {"module_path", kept.module_path},
          {"source", kept.source},
          {"shape", extents(kept.shape)},
          {"dtype", name_of(kept.dtype)},
          {"bytes", kept.bytes}};
}

Json json_of(const ArenaBlockReport& block) {
  return {{"offset", block.offset},       {"bytes", block.bytes}, {"first_step", block.first_step},
          {"last_step", block.last_step}, {"op", block.op},       {"module_path", block.module_path}};
}

template <class T>
Json list_of(const std::vector<T>& items) {
  Json list = Json::array();
  for (const T& item : items) list.push_back(json_of(item));
  return list;
}

}  // namespace

std::string Report::to_json() const {
  Json times = Json::object();
  for (const auto& [pass, ms] : pass_ms) times[pass] = times.value(pass, 0.0) + ms;
  const Json json = {{"backend", backend},
                     {"fusion", fusion},
                     {"retention", retention},
                     {"deterministic", deterministic},
                     {"threads", threads},
                     {"kernels", kernels},
                     {"tensor_passes", tensor_passes},
                     {"unfused_passes", unfused_passes},
                     {"bytes", bytes},
                     {"unfused_bytes", unfused_bytes},
                     {"kept_bytes", kept_bytes},
                     {"unfused_kept_bytes", unfused_kept_bytes},
                     {"peak_bytes", peak_bytes},
                     {"arena_bytes", arena_bytes},
                     {"scratch_bytes", scratch_bytes},
                     {"arena_lower_bound", arena_lower_bound},
                     {"versions", versions},
                     {"instructions", instructions},
                     {"tuning", tuning},
                     {"replay", replay},
                     {"planning_ms", planning_ms},
                     {"pass_ms", times},
                     {"cache_hits", cache_hits},
                     {"cache_misses", cache_misses},
                     {"groups", list_of(groups)},
                     {"ops", list_of(ops)},
                     {"refusals", list_of(refusals)},
                     {"kept", list_of(kept)},
                     {"arena", list_of(arena)}};
  // A file name or module path may be any bytes; JSON is UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace fusetape
