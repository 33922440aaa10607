#pragma once
#include <algorithm>
#include <span>

#include "backends/cpu/conv/winograd/tiles.hpp"

/// While one block of tiles is multiplied, the pixels of the next are fetched into the cache.
namespace fusetape::backends::cpu::conv::winograd {

struct GradientSources {
  const Source& x;
  const Source& dy;
};

/// Memory that one product fetches, a step for each tile.
struct Fetch {
  const std::byte* at = nullptr;
  std::ptrdiff_t step = 0;
};

/// Memory that is fetched while other is worked on: no product fetches more than a line for each tile.
class Ahead {
 public:
  using Stretch = std::span<const std::byte>;
  static constexpr std::int64_t line = 64;
  Ahead() = default;
  explicit Ahead(std::span<const Stretch> stretches) : left_(stretches) {}

  /// Evenly over so many products, each over so many tiles.
  void spread(std::int64_t products, std::int64_t tiles) {
    std::int64_t bytes = 0;
    for (const Stretch& s : left_) bytes += std::ssize(s);
    step_ = std::min(line, divided_up(divided_up(bytes, products), tiles));
    quota_ = step_ * tiles;
  }
  std::int64_t step() const { return step_; }  ///< bytes for each tile of a product
  Fetch next() {
    if (left_.empty()) return {};
    const Stretch& whole = left_.front();
    const Fetch fetch = {whole.data() + at_, step_};
    at_ += quota_;
    if (at_ >= std::ssize(whole)) {
      left_ = left_.subspan(1);
      at_ = 0;
    }
    return fetch;
  }

 private:
  std::span<const Stretch> left_;
  std::int64_t at_ = 0;  ///< of the first stretch
  std::int64_t step_ = 0, quota_ = 0;
};
struct BothAhead {
  Ahead x, dy;
};

/// What the tiles from `begin` to before `end` will read, as far as there is room to list it.
BothAhead pixels_ahead(const Problem& problem, const GradientSources& from, std::int64_t begin,
                       std::int64_t end, std::span<Ahead::Stretch> room);

}  // namespace fusetape::backends::cpu::conv::winograd
