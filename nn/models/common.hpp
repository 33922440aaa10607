#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/numerics/number_text.hpp"
#include "fusetape/error.hpp"
#include "fusetape/nn.hpp"

/// What the models share: their convolutions, and the bounds of their options.
namespace fusetape::nn {

inline Conv2d::Options convolution(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                   std::int64_t stride = 1) {
  return {.in = in, .out = out, .kernel = kernel, .stride = stride, .padding = kernel / 2, .bias = false};
}

/// Throws, as `op`, what is not so.
inline auto requirement(const char* op, Location at) {
  return [op, at](bool ok, const char* expected, std::int64_t got) {
    if (!ok) throw Error(op, std::string("expected ") + expected + ", got " + std::to_string(got), at);
  };
}

// Beyond these, numbers of channels and parameters could overflow; no network comes near them.
inline constexpr std::size_t most_stages = 32;
inline constexpr std::int64_t most_blocks = 10000;
inline constexpr std::int64_t most_channels = std::int64_t{1} << 24;

/// f(x); x where there is none.
inline Tensor activated(Function f, const Tensor& x, Location at) { return f != nullptr ? f({x, at}) : x; }

/// Of dropping something.
inline void check_probability(const char* op, const char* name, double p, Location at) {
  if (p >= 0 && p < 1) return;
  throw Error(op, std::string("expected ") + name + " in [0, 1), got " + core::number_text(p), at);
}

inline bool is_count_of_channels(std::int64_t count) { return count >= 1 && count <= most_channels; }

/// What enters and leaves a network.
template <class Require, class Options>
void check_ends(const Require& require, const Options& options) {
  require(is_count_of_channels(options.classes), "classes ≥ 1 and ≤ 2^24", options.classes);
  require(is_count_of_channels(options.channels), "channels ≥ 1 and ≤ 2^24", options.channels);
}

template <class Require, class Options>
void check_sizes(const Require& require, const Options& options) {
  require(is_count_of_channels(options.width), "width ≥ 1 and ≤ 2^24", options.width);
  check_ends(require, options);
}

/// Of each stage.
template <class Require>
void check_blocks(const Require& require, const std::vector<std::int64_t>& blocks) {
  require(!blocks.empty(), "at least one stage", 0);
  for (std::int64_t count : blocks) {
    require(count >= 1 && count <= most_blocks, "1 to 10000 blocks in each stage", count);
  }
  require(blocks.size() <= most_stages, "at most 32 stages", static_cast<std::int64_t>(blocks.size()));
}

}  // namespace fusetape::nn
