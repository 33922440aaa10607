#include "fusetape/runtime.hpp"

#include <array>
#include <mutex>
#include <vector>

#include "core/backends.hpp"
#include "core/check.hpp"
#include "core/tape/fork.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/autograd.hpp"

namespace fusetape {

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

void synchronize() { Tape::current().settings.backend->synchronize(); }

void set_backend(std::string_view name, Location at) {
  plan::Backend* backend = nullptr;
  try {
    backend = core::backend_named(name);
  } catch (const Error& error) {
    throw Error("set_backend", error.message(), at);
  }
  if (backend == nullptr) {
    throw Error("set_backend", "expected cpu, cuda, reference or null, got '" + std::string(name) + "'", at);
  }
  Tape& tape = Tape::current();
  tape.flush(at);
  tape.settings.backend = backend;
  backend->set_threads(tape.settings.threads);
}

std::string_view backend_name() { return Tape::current().settings.backend->name(); }

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

void set_retention(Retention retention, Location at) {
  if (retention > Retention::smallest) {
    throw Error("set_retention", "expected a Retention, got " + std::to_string(static_cast<int>(retention)),
                at);
  }
  Tape::current().settings.retention = retention;
}
Retention retention() { return Tape::current().settings.retention; }

void set_conv_algorithm(ConvAlgorithm algorithm, Location at) {
  if (algorithm > ConvAlgorithm::winograd) {
    throw Error("set_conv_algorithm",
                "expected a ConvAlgorithm, got " + std::to_string(static_cast<int>(algorithm)), at);
  }
  Tape::current().settings.conv_algorithm = algorithm;
}
ConvAlgorithm conv_algorithm() { return Tape::current().settings.conv_algorithm; }

std::vector<KernelChoice> kernel_choices() {
  std::vector<KernelChoice> choices;
  for (const auto& [work, taken] : Tape::current().executor.taken_kernels)
    choices.push_back({work, taken.kernel->kernel, taken.kernel->blocking, taken.kernel->why});
  return choices;
}

void set_kernel_choices(const std::vector<KernelChoice>& choices) {
  if (choices == kernel_choices()) return;
  core::Executor& executor = Tape::current().executor;
  executor.cache.clear();  // those plans took others
  executor.taken_kernels.clear();
  for (const auto& [work, kernel, blocking, why] : choices) {
    const plan::TunedKernel chosen{.kernel = kernel, .blocking = blocking, .why = why};
    executor.taken_kernels[work] = {.kernel = std::make_shared<const plan::TunedKernel>(chosen),
                                    .restored = true};
  }
}

DetectAnomaly::~DetectAnomaly() {
  if (Tape* tape = Tape::alive()) tape->settings.anomaly = before_;
}

void set_eager(bool on, Location at) {
  if (on) Tape::current().flush(at);
  Tape::current().settings.eager = on;
}
bool eager_enabled() { return Tape::current().settings.eager; }

void set_pending_limit(std::int64_t bytes, Location at) {
  if (bytes < 0) throw Error("set_pending_limit", "expected at least 0, got " + std::to_string(bytes), at);
  Tape::current().settings.pending_limit = bytes;
}
std::int64_t pending_limit() { return Tape::current().settings.pending_limit; }

void set_profiling(bool on) { Tape::current().settings.profiling = on; }

void set_threads(int threads, Location at) {
  if (threads < 1 || threads > max_threads) {
    throw Error("set_threads",
                "expected 1 to " + std::to_string(max_threads) + " threads, got " + std::to_string(threads),
                at);
  }
  if (!core::threads_lost()) Tape::current().flush(at);  // else it could not run yet
  Tape::current().settings.threads = threads;
  Tape::current().settings.backend->set_threads(threads);
}
int threads() { return Tape::current().settings.threads; }

const Report& explain() {
  static const Report nothing;
  const core::Executor& executor = Tape::current().executor;
  return executor.last_report != nullptr ? *executor.last_report : nothing;
}

CacheStats plan_cache_stats() { return Tape::current().executor.cache.stats(); }
void clear_plan_cache() { Tape::current().executor.cache.clear(); }

MemoryStats memory_stats() {
  const core::Pool& memory = core::pool_of(*Tape::current().settings.backend);
  const core::PoolStats pool = memory.stats();
  const std::int64_t arena = Tape::current().executor.arena_bytes(memory);
  return {.pool_bytes = pool.used_bytes - arena,
          .cached_bytes = pool.cached_bytes,
          .arena_bytes = arena,
          .system_allocations = pool.system_allocations};
}

}  // namespace fusetape
