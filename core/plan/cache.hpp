#pragma once
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "core/plan/plan.hpp"

namespace fusetape::plan {

/// Plans by structural key, compared in full, one for each; the least recently used goes when it is full.
class PlanCache {
 public:
  static constexpr std::size_t capacity = 64;

  using Key = std::vector<std::uint64_t>;
  /// nullptr: a miss. `fits`: whether a plan of this structure can be run with the numbers at hand.
  Plan* find(const Key& key, const std::function<bool(const Plan&)>& fits);
  /// The plan of this structure, whether it fits or not; nullptr: there is none.
  const Plan* known(const Key& key) const;
  /// In the place of a plan of this structure, where there is one.
  Plan* insert(const Key& key, std::unique_ptr<Plan> plan);
  /// The word in which alone so many keys differ from this one; nothing: there is none.
  std::optional<std::size_t> only_difference(const Key& key, int others) const;
  void clear();
  CacheStats stats() const;

 private:
  struct Entry {
    Key key;
    std::uint64_t hash;
    std::unique_ptr<Plan> plan;
  };
  using Place = std::list<Entry>::const_iterator;
  Place place_of(const Key& key) const;  ///< entries_.end(): nowhere
  void erase(Place place);

  std::list<Entry> entries_;  ///< most recently used first
  std::unordered_multimap<std::uint64_t, Place> index_;
  std::int64_t hits_ = 0, misses_ = 0;
};

}  // namespace fusetape::plan
