#pragma once
#include "backends/cuda/kernels/elements.hpp"
#include "backends/cuda/phases.hpp"
#include "core/numerics/philox.hpp"

/// rand, randn and dropout: every number is core/numerics/philox.hpp's of its element, whatever the thread.
namespace fusetape::backends::cuda {

enum class Draw : std::uint8_t { uniform, normal, dropout };

template <class T>
struct RandomDraw {
  struct Args {
    const std::int64_t *seed, *counter;
    const T* x;  ///< of dropout; y may lie there
    T* y;
    std::int64_t count;
    const double* p;  ///< of dropout
    double steps;     ///< of T below 1
    Draw draw;
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return std::string("random_draw<") + type_name<T> + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    const std::int64_t seed = *args.seed, counter = *args.counter;
    for_eights<threads>(thread, args.count, [&](std::int64_t at, int count) {
      store_eight(args.y + at,
                  args.draw == Draw::normal ? normals(seed, counter + at, count)
                                            : uniforms(args, seed, counter + at, at, count),
                  count);
    });
  }

 private:
  // Loops of eight, of which some do nothing at the end, keep the eight in registers.

  FUSETAPE_HD static Eight normals(std::int64_t seed, std::int64_t first, int count) {
    Eight out{};
    for (int i = 0; i < 8; ++i) {
      if (i < count) out.at[i] = static_cast<float>(core::philox_normal(seed, first, i));
    }
    return out;
  }

  FUSETAPE_HD static std::uint32_t word_of(const core::PhiloxBlock& block, std::uint64_t place) {
    const std::uint32_t low = place % 2 == 0 ? block[0] : block[1];
    const std::uint32_t high = place % 2 == 0 ? block[2] : block[3];
    return place % 4 < 2 ? low : high;
  }

  /// Those of one Philox block are drawn together.
  FUSETAPE_HD static Eight uniforms(const Args& args, std::int64_t seed, std::int64_t first, std::int64_t at,
                                    int count) {
    Eight out = args.draw == Draw::dropout ? load_eight(args.x + at, count) : Eight{};
    const double p = args.draw == Draw::dropout ? *args.p : 0, scale = 1 / (1 - p);
    core::PhiloxBlock block{};
    for (int i = 0; i < 8; ++i) {
      const auto place = static_cast<std::uint64_t>(first + i);
      if (i == 0 || place % 4 == 0) block = core::philox_block(static_cast<std::uint64_t>(seed), place / 4);
      const double u = core::philox_uniform(word_of(block, place));
      if (args.draw == Draw::uniform) {
        out.at[i] = static_cast<float>(core::cut_uniform(u, args.steps));
      } else {
        out.at[i] = u < p ? 0.0f : static_cast<float>(static_cast<double>(out.at[i]) * scale);
      }
    }
    return out;
  }
};

}  // namespace fusetape::backends::cuda
