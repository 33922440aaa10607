#pragma once
#include <algorithm>
#include <cstdint>

/// Memory that is fetched into L2 while something else is computed.
namespace fusetape::backends::cpu::conv::rows {

/// Stretches of tensors, one after the other, some lines at a time. What is fetched twice or in vain costs
/// little, what a kernel waits for costs much: most of these kernels move more than they compute.
class Ahead {
 public:
  void add(const void* at, std::int64_t bytes) {
    if (at == nullptr || bytes <= 0 || count_ == most) return;
    stretches_[count_++] = {static_cast<const char*>(at), bytes / line};
    left_ += bytes / line;
  }
  /// Spreads what is left over so many calls of `fetch`.
  void spread(std::int64_t calls) {
    if (count_ == 0) return;
    at_once_ = (left_ + calls - 1) / std::max<std::int64_t>(1, calls);
    next_stretch();
  }

  void fetch() {
    for (std::int64_t lines = at_once_; lines > 0; --lines) {
      __builtin_prefetch(at_, 0, 2);
      at_ += line;
      if (at_ >= end_) next_stretch();
    }
  }

 private:
  struct Stretch {
    const char* at;
    std::int64_t lines;
  };
  static constexpr int most = 8;
  static constexpr std::int64_t line = 64;

  void next_stretch() {
    if (current_ == count_) {
      at_once_ = 0;
      return;
    }
    at_ = stretches_[current_].at;
    end_ = at_ + stretches_[current_++].lines * line;
  }

  Stretch stretches_[most] = {};
  int count_ = 0, current_ = 0;
  std::int64_t left_ = 0, at_once_ = 0;
  const char *at_ = nullptr, *end_ = nullptr;
};

}  // namespace fusetape::backends::cpu::conv::rows
