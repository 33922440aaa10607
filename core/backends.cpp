#include "core/backends.hpp"

#include <mutex>
#include <vector>

#include "core/check.hpp"
#include "core/tape/memory.hpp"

namespace fusetape::core {
namespace {

/// Grows at its end: what was given out stays where it is.
struct Backends {
  Backends() {
    for (const char* name : {"cpu", "reference", "null"}) add(make_backend(name));
  }

  plan::Backend* add(std::unique_ptr<plan::Backend> backend) {
    const std::lock_guard lock(mutex);
    if (!backend->on_host() || pools.empty()) pools.push_back(std::make_unique<Pool>(*backend));
    return all.emplace_back(std::move(backend)).get();
  }
  plan::Backend* find(std::string_view name) {
    const std::lock_guard lock(mutex);
    for (const auto& backend : all) {
      if (backend->name() == name) return backend.get();
    }
    return nullptr;
  }

  std::mutex mutex;
  std::vector<std::unique_ptr<plan::Backend>> all;
  std::vector<std::unique_ptr<Pool>> pools;  ///< the host's first
};

/// Never destroyed: values in static storage may be freed after everything else.
Backends& all_backends() {
  static Backends& backends = *new Backends;
  return backends;
}

}  // namespace

Pool& host_pool() {
  static Pool& pool = *all_backends().pools.front();
  return pool;
}

Pool& pool_of(plan::Backend& backend) {
  if (backend.on_host()) return host_pool();
  Backends& all = all_backends();
  const std::lock_guard lock(all.mutex);
  for (const auto& pool : all.pools) {
    if (&pool->backend() == &backend) return *pool;
  }
  assertion_failed("a device's backend has a pool", __FILE__, __LINE__);
}

void add_backend(std::unique_ptr<plan::Backend> backend) { all_backends().add(std::move(backend)); }

plan::Backend* backend_named(std::string_view name) {
  Backends& all = all_backends();
  if (plan::Backend* known = all.find(name)) return known;
  if (name != "cuda") return nullptr;
  static plan::Backend* cuda = all.add(make_backend("cuda"));  // once; again after an error
  return cuda;
}

}  // namespace fusetape::core
