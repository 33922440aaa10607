#include "fusetape/runtime.hpp"

#include <array>
#include <mutex>

#include "core/tape.hpp"
#include "fusetape/autograd.hpp"

namespace fusetape {
namespace core {
namespace {

struct Backends {
  std::unique_ptr<backends::Backend> cpu = backends::make_cpu_backend();
  std::unique_ptr<backends::Backend> reference = backends::make_reference_backend();
  std::unique_ptr<backends::Backend> null = backends::make_null_backend();
  Pool pool{*cpu};
};

/// Never destroyed: values in static storage may be freed after everything else.
Backends& all_backends() {
  static Backends& backends = *new Backends;
  return backends;
}

}  // namespace

Pool& host_pool() { return all_backends().pool; }

backends::Backend* backend_named(std::string_view name) {
  Backends& all = all_backends();
  for (backends::Backend* backend : {all.cpu.get(), all.reference.get(), all.null.get()}) {
    if (backend->name() == name) return backend;
  }
  return nullptr;
}

}  // namespace core

using core::Tape;

void materialize(std::initializer_list<Tensor> values, Location at) {
  for (const Tensor& value : values) {
    if (!value.defined()) throw Error("materialize", "a tensor is undefined", at);
    if (value.pending() && value.value()->node->tape != &Tape::current()) {
      throw Error("materialize", "a tensor is pending on another thread", at);
    }
  }
  Tape::current().flush(at);
}

void set_backend(std::string_view name, Location at) {
  backends::Backend* backend = core::backend_named(name);
  if (backend == nullptr) {
    throw Error("set_backend", "expected cpu, reference or null, got '" + std::string(name) + "'", at);
  }
  Tape& tape = Tape::current();
  tape.flush(at);
  tape.settings.backend = backend;
  backend->set_threads(tape.settings.threads);
}

std::string_view backend_name() { return Tape::current().settings.backend->name(); }
void set_fusion(bool on) { Tape::current().settings.fusion = on; }
bool fusion_enabled() { return Tape::current().settings.fusion; }

std::vector<FusionRule> fusion_rules() {
  std::vector<FusionRule> rules;
  for (const plan::Rule& rule : plan::fusion_rules()) {
    rules.push_back({std::string(rule.name), std::string(plan::name_of(rule.family))});
  }
  return rules;
}

void set_fusion_rules(const std::vector<std::string>& names, Location at) {
  plan::RuleSet set = 0;
  for (const std::string& name : names) {
    const plan::RuleSet found = name == "all" ? plan::all_rules : plan::rules_named(name);
    if (found == 0) {
      throw Error("set_fusion_rules", "expected a rule's or a family's name, got '" + name + "'", at);
    }
    set |= found;
  }
  Tape::current().settings.rules = set;
}

void set_retention(Retention retention) { Tape::current().settings.retention = retention; }
Retention retention() { return Tape::current().settings.retention; }

void set_conv_algorithm(ConvAlgorithm algorithm) { Tape::current().settings.conv_algorithm = algorithm; }
ConvAlgorithm conv_algorithm() { return Tape::current().settings.conv_algorithm; }

void set_deterministic(bool on) { Tape::current().settings.deterministic = on; }
bool deterministic() { return Tape::current().settings.deterministic; }

void set_tuning(bool on) { Tape::current().settings.tuning = on; }
bool tuning_enabled() { return Tape::current().settings.tuning; }

void set_anomaly_detection(bool on) { Tape::current().settings.anomaly = on; }
bool anomaly_detection_enabled() { return Tape::current().settings.anomaly; }

void set_eager(bool on) {
  if (on) Tape::current().flush(Location::current());
  Tape::current().settings.eager = on;
}
bool eager_enabled() { return Tape::current().settings.eager; }

void set_profiling(bool on) { Tape::current().settings.profiling = on; }

void set_threads(int threads, Location at) {
  if (threads < 1) throw Error("set_threads", "expected at least 1, got " + std::to_string(threads), at);
  Tape::current().flush(at);
  Tape::current().settings.threads = threads;
  Tape::current().settings.backend->set_threads(threads);
}
int threads() { return Tape::current().settings.threads; }

const Report& explain() {
  static const Report nothing;
  const Tape& tape = Tape::current();
  return tape.last_report != nullptr ? *tape.last_report : nothing;
}

CacheStats plan_cache_stats() { return Tape::current().cache.stats(); }
void clear_plan_cache() { Tape::current().cache.clear(); }

MemoryStats memory_stats() {
  const core::PoolStats pool = core::host_pool().stats();
  const std::int64_t arena = Tape::current().arena_bytes();
  return {.pool_bytes = pool.used_bytes - arena,
          .cached_bytes = pool.cached_bytes,
          .arena_bytes = arena,
          .system_allocations = pool.system_allocations};
}

}  // namespace fusetape
