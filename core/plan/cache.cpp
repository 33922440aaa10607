#include "core/plan/cache.hpp"

#include <utility>

namespace fusetape::plan {
namespace {

std::uint64_t hash_of(const PlanCache::Key& key) {
  // A round of a multiply-xorshift mix per word, in lanes that do not wait for each other.
  constexpr std::size_t lanes = 4;
  std::uint64_t hash[lanes] = {0x9e3779b97f4a7c15ULL, 0xbf58476d1ce4e5b9ULL, 0x94d049bb133111ebULL,
                               key.size()};
  const auto mix = [](std::uint64_t& state, std::uint64_t word) {
    state = (state ^ word) * 0xff51afd7ed558ccdULL;
    state ^= state >> 32;
  };
  std::size_t i = 0;
  for (; i + lanes <= key.size(); i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) mix(hash[lane], key[i + lane]);
  }
  for (; i < key.size(); ++i) mix(hash[0], key[i]);
  for (std::size_t lane = 1; lane < lanes; ++lane) mix(hash[0], hash[lane]);
  return hash[0];
}

}  // namespace

Plan* PlanCache::find(const Key& key) {
  const auto [first, last] = index_.equal_range(hash_of(key));
  for (auto it = first; it != last; ++it) {
    if (it->second->key != key) continue;
    entries_.splice(entries_.begin(), entries_, it->second);
    ++hits_;
    return it->second->plan.get();
  }
  ++misses_;
  return nullptr;
}

Plan* PlanCache::insert(const Key& key, std::unique_ptr<Plan> plan) {
  if (entries_.size() >= capacity) {
    const auto oldest = std::prev(entries_.end());
    const auto [first, last] = index_.equal_range(oldest->hash);
    for (auto it = first; it != last; ++it) {
      if (it->second == oldest) {
        index_.erase(it);
        break;
      }
    }
    entries_.erase(oldest);
  }
  const std::uint64_t hash = hash_of(key);
  entries_.push_front({key, hash, std::move(plan)});
  index_.emplace(hash, entries_.begin());
  return entries_.front().plan.get();
}

void PlanCache::clear() {
  entries_.clear();
  index_.clear();
}

CacheStats PlanCache::stats() const {
  return {.hits = hits_, .misses = misses_, .plans = static_cast<std::int64_t>(entries_.size())};
}

}  // namespace fusetape::plan
