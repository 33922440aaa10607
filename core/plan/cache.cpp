#include "core/plan/cache.hpp"

#include <algorithm>
#include <map>
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

PlanCache::Place PlanCache::place_of(const Key& key) const {
  const auto [first, last] = index_.equal_range(hash_of(key));
  const auto found = std::find_if(first, last, [&](const auto& entry) { return entry.second->key == key; });
  return found != last ? found->second : entries_.end();
}

Plan* PlanCache::find(const Key& key, const std::function<bool(const Plan&)>& fits) {
  const Place place = place_of(key);
  if (place == entries_.end() || !fits(*place->plan)) {
    ++misses_;
    return nullptr;
  }
  entries_.splice(entries_.begin(), entries_, place);
  ++hits_;
  return place->plan.get();
}

const Plan* PlanCache::known(const Key& key) const {
  const Place place = place_of(key);
  return place != entries_.end() ? place->plan.get() : nullptr;
}

Plan* PlanCache::insert(const Key& key, std::unique_ptr<Plan> plan) {
  const Place before = place_of(key);
  if (before != entries_.end()) {
    erase(before);
  } else if (entries_.size() >= capacity) {
    erase(std::prev(entries_.end()));
  }
  const std::uint64_t hash = hash_of(key);
  entries_.push_front({key, hash, std::move(plan)});
  index_.emplace(hash, entries_.begin());
  return entries_.front().plan.get();
}

std::optional<std::size_t> PlanCache::only_difference(const Key& key, int others) const {
  std::map<std::size_t, int> found;
  for (const Entry& entry : entries_) {
    if (entry.key.size() != key.size()) continue;
    const auto [mine, theirs] = std::mismatch(key.begin(), key.end(), entry.key.begin());
    if (mine == key.end() || !std::equal(mine + 1, key.end(), theirs + 1)) continue;
    const auto word = static_cast<std::size_t>(mine - key.begin());
    if (++found[word] == others) return word;
  }
  return std::nullopt;
}

void PlanCache::erase(Place place) {
  const auto [first, last] = index_.equal_range(place->hash);
  index_.erase(std::find_if(first, last, [&](const auto& entry) { return entry.second == place; }));
  entries_.erase(place);
}

void PlanCache::clear() {
  entries_.clear();
  index_.clear();
}

CacheStats PlanCache::stats() const {
  return {.hits = hits_, .misses = misses_, .plans = static_cast<std::int64_t>(entries_.size())};
}

}  // namespace fusetape::plan
