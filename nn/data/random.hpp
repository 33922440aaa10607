#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "core/numerics/philox.hpp"

/// Random numbers of the data pipeline: pure functions of keys, whatever the order they are asked in.
namespace fusetape::data {

/// The key of stream `index` under `key`.
inline std::uint64_t derive(std::uint64_t key, std::uint64_t index) {
  const core::PhiloxBlock words = core::philox_block(key, index);
  return std::uint64_t{words[0]} | std::uint64_t{words[1]} << 32;
}

/// 0 … limit−1 from one word; the bias is below limit·2⁻³².
inline std::int64_t below(std::uint32_t word, std::int64_t limit) {
  return static_cast<std::int64_t>(std::uint64_t{word} * static_cast<std::uint64_t>(limit) >> 32);
}

/// The words of one key, one after the other.
class Stream {
 public:
  explicit Stream(std::uint64_t key) : key_(key) {}
  std::uint32_t word() {
    if (used_ == 4) {
      block_ = core::philox_block(key_, next_++);
      used_ = 0;
    }
    return block_[used_++];
  }
  double uniform() { return core::philox_uniform(word()); }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }

 private:
  std::uint64_t key_, next_ = 0;
  core::PhiloxBlock block_{};
  std::size_t used_ = 4;
};

/// Fisher and Yates.
template <class T>
void shuffle(std::vector<T>& items, std::uint64_t key) {
  Stream stream(key);
  for (std::size_t i = items.size(); i > 1; --i) {
    std::swap(items[i - 1],
              items[static_cast<std::size_t>(below(stream.word(), static_cast<std::int64_t>(i)))]);
  }
}

}  // namespace fusetape::data
