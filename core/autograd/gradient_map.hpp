#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "fusetape/tensor.hpp"

namespace fusetape::core {

/// Gradients by value, with open addressing. Keeps its memory when cleared: the backward passes of a training
/// loop are alike, and none but the first should allocate.
class GradientMap {
 public:
  /// nullptr where none is known.
  const Tensor* find(const Value* value) const {
    if (slots_.empty()) return nullptr;
    const std::int32_t entry = slots_[slot_of(value)];
    return entry >= 0 ? &entries_[static_cast<std::size_t>(entry)].second : nullptr;
  }

  /// Undefined at first. Valid until the next call.
  Tensor& operator[](const Value* value) {
    if (2 * entries_.size() >= slots_.size()) grow();
    std::int32_t& entry = slots_[slot_of(value)];
    if (entry < 0) {
      entry = static_cast<std::int32_t>(entries_.size());
      entries_.emplace_back(value, Tensor());
    }
    return entries_[static_cast<std::size_t>(entry)].second;
  }

  void clear() {
    std::fill(slots_.begin(), slots_.end(), -1);
    entries_.clear();
  }

 private:
  /// Where the value is, or would be.
  std::size_t slot_of(const Value* value) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = (reinterpret_cast<std::uintptr_t>(value) >> 4) * 0x9e3779b97f4a7c15ULL >> 20 & mask;
    while (slots_[slot] >= 0 && entries_[static_cast<std::size_t>(slots_[slot])].first != value)
      slot = (slot + 1) & mask;
    return slot;
  }
  void grow() {
    slots_.assign(slots_.empty() ? 64 : 2 * slots_.size(), -1);
    for (std::size_t i = 0; i < entries_.size(); ++i)
      slots_[slot_of(entries_[i].first)] = static_cast<std::int32_t>(i);
  }

  std::vector<std::pair<const Value*, Tensor>> entries_;
  std::vector<std::int32_t> slots_;  ///< entries, or -1; a power of two of them
};

}  // namespace fusetape::core
