#include "backends/cpu/conv/winograd/both_gradients.hpp"

#include "backends/cpu/conv/winograd/convolve_part.hpp"
#include "backends/cpu/conv/winograd/forms.hpp"
#include "core/check.hpp"

namespace fusetape::backends::cpu::conv::winograd {
namespace {

/// Adds the products of each block of tiles to sums of the thread that has it.
class WeightSums final : public Companion {
 public:
  WeightSums(const Problem& problem, const Source& x, const Blocking& blocking, int threads,
             ScratchCarver& carver)
      : cut_(problem, {.tiles = blocking.tiles}),
        x_tiles_(problem.mirrored()),
        x_(x),
        shares_(problem.mirrored(), blocking, threads),
        writers_(static_cast<int>(std::min<std::int64_t>(threads, cut_.all_channels().pairs()))),
        totals_(carver.take_rooms<float>(writers_, chunk_sums)),
        rooms_(carver.take_rooms<std::byte>(shares_.parts(),
                                            static_cast<std::int64_t>(Workplace(*this, nullptr).bytes))) {
    for (int part = 0; part < shares_.parts(); ++part) sums_count_ += slots_of(part);
    sums_ = carver.take<const float*>(sums_count_);
  }

  const Source& source() const override { return x_; }

  void take(int part, std::int64_t begin, std::int64_t end, const Operand& transformed) override {
    const Workplace at(*this, rooms_[part]);
    const std::int64_t block = (begin - shares_.tile_begin(part)) / shares_.block_tiles;
    float* const sums = at.sums + block / most_blocks_in_part * sums_size();
    spread_tiles(cut_.problem, x_tiles_, x_, begin, end, at.x, at.rows);
    multiply_tiles(whole_pass, {.x = at.x, .dy = transformed}, end - begin, cut_.all_channels(),
                   block % most_blocks_in_part > 0, sums, {});
  }

  void write(const WeightGradient& weights) const {
    int slot = 0;
    for (int part = 0; part < shares_.parts(); ++part) {
      const Workplace at(*this, rooms_[part]);
      for (int i = 0; i < slots_of(part); ++i) sums_[slot++] = at.sums + i * sums_size();
    }
    join_parts(cut_, {sums_, static_cast<std::size_t>(sums_count_)}, writers_, true, totals_, weights.dw,
               weights.dtype);
  }

 private:
  struct Workplace {
    Operand x;
    float *rows, *sums;
    std::size_t bytes;
    Workplace(const WeightSums& of, std::byte* room) {
      ScratchCarver carver(room);
      x = GradientCut::take_operand(positions, of.cut_.in_chunks, of.shares_.block_tiles, carver);
      rows = carver.take<float>(pixel_scratch);
      sums = carver.take<float>(of.most_slots() * of.sums_size());
      bytes = carver.used();
    }
  };

  std::int64_t sums_size() const { return cut_.all_channels().sums_size(); }
  /// Sums over so many blocks stand for themselves.
  std::int64_t slots(std::int64_t tiles) const {
    return divided_up(divided_up(tiles, shares_.block_tiles), most_blocks_in_part);
  }
  std::int64_t slots_of(int part) const {
    return slots(shares_.tile_begin(part + 1) - shares_.tile_begin(part));
  }
  std::int64_t most_slots() const {
    return slots(divided_up(divided_up(shares_.tiles, 4), shares_.tile_parts) * 4);
  }

  const GradientCut cut_;
  const Tiles x_tiles_;
  const Source& x_;
  const Shares shares_;
  int writers_;
  std::int64_t sums_count_ = 0;
  Rooms<float> totals_;
  Rooms<std::byte> rooms_;
  const float** sums_ = nullptr;
};

std::int64_t convolve_bytes(const Problem& problem, const Blocking& blocking, int threads) {
  return static_cast<std::int64_t>(convolve_scratch_bytes(problem.mirrored(), blocking, threads));
}

}  // namespace

std::size_t both_gradients_scratch_bytes(const Problem& problem, const Blocking& blocking, int threads) {
  ScratchCarver counter(nullptr);
  counter.take<std::byte>(convolve_bytes(problem, blocking, threads));
  const Source none;
  const WeightSums counted(problem, none, blocking, threads, counter);
  return counter.used();
}

void both_gradients(const Problem& problem, const Source& x, const Source& dy, const float* u, const Sink& dx,
                    const WeightGradient& weights, const Blocking& blocking, int threads,
                    std::byte* scratch) {
  FUSETAPE_ASSERT(is_offered(x) && blocking.out_parts == 1);
  ScratchCarver carver(scratch);
  std::byte* const work = carver.take<std::byte>(convolve_bytes(problem, blocking, threads));
  WeightSums sums(problem, x, blocking, threads, carver);
  convolve_with(&sums, problem.mirrored(), dy, u, dx, blocking, threads, work);
  sums.write(weights);
}

}  // namespace fusetape::backends::cpu::conv::winograd
