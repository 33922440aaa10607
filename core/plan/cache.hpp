#pragma once
#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/plan/plan.hpp"

namespace fusetape::plan {

/// Plans by structural key, compared in full; the least recently used goes when it is full.
class PlanCache {
 public:
  static constexpr std::size_t capacity = 64;

  using Key = std::vector<std::uint64_t>;
  /// nullptr: a miss.
  Plan* find(const Key& key);
  Plan* insert(const Key& key, std::unique_ptr<Plan> plan);
  void clear();
  CacheStats stats() const;

 private:
  struct Entry {
    Key key;
    std::uint64_t hash;
    std::unique_ptr<Plan> plan;
  };
  std::list<Entry> entries_;  ///< most recently used first
  std::unordered_multimap<std::uint64_t, std::list<Entry>::iterator> index_;
  std::int64_t hits_ = 0, misses_ = 0;
};

}  // namespace fusetape::plan
