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
             plan::Rooms rooms)
      : cut_(problem, {.tiles = blocking.tiles}),
        x_tiles_(problem.mirrored()),
        x_(x),
        shares_(problem.mirrored(), blocking, threads),
        convolve_bytes_(convolve_room_bytes(problem.mirrored(), blocking, threads)),
        rooms_(rooms) {}

  GradientMemory memory() const {
    int sums = 0;
    for (int part = 0; part < shares_.parts(); ++part) sums += static_cast<int>(slots_of(part));
    return {static_cast<std::size_t>(sums) * sizeof(const float*), Workplace(*this, nullptr).room_bytes};
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

  /// `sums`: of memory().scratch bytes.
  void write(const WeightGradient& weights, int threads, const float** sums) const {
    std::size_t count = 0;
    for (int part = 0; part < shares_.parts(); ++part) {
      const Workplace at(*this, rooms_[part]);
      for (std::int64_t i = 0; i < slots_of(part); ++i) sums[count++] = at.sums + i * sums_size();
    }
    join_parts(cut_, {sums, count}, true, weights, threads, rooms_);
  }

 private:
  /// In a thread's room, behind what convolve has there; when that is done, join_parts has its place.
  struct Workplace {
    Operand x;
    float *rows, *sums;
    std::size_t room_bytes;
    Workplace(const WeightSums& of, std::byte* room) {
      ScratchCarver carver(room);
      const auto before = static_cast<std::int64_t>(of.convolve_bytes_);
      carver.take<std::byte>(std::max<std::int64_t>(before, chunk_sums * std::int64_t{sizeof(float)}));
      x = GradientCut::take_operand(positions, of.cut_.in_chunks, of.shares_.block_tiles, carver);
      rows = carver.take<float>(pixel_scratch);
      sums = carver.take<float>(of.most_slots() * of.sums_size());
      room_bytes = carver.used();
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
    return slots(divided_up(divided_up(shares_.tiles, tile_group), shares_.tile_parts) * tile_group);
  }

  const GradientCut cut_;
  const Tiles x_tiles_;
  const Source& x_;
  const Shares shares_;
  std::size_t convolve_bytes_;
  plan::Rooms rooms_;
};

}  // namespace

GradientMemory both_gradients_memory(const Problem& problem, const Blocking& blocking, int threads) {
  return WeightSums(problem, {}, blocking, threads, {}).memory();
}

void both_gradients(const Problem& problem, const Source& x, const Source& dy, const float* u, const Sink& dx,
                    const WeightGradient& weights, const Blocking& blocking, int threads, std::byte* scratch,
                    plan::Rooms rooms) {
  FUSETAPE_ASSERT(is_offered(x) && blocking.out_parts == 1);
  WeightSums sums(problem, x, blocking, threads, rooms);
  convolve_with(&sums, problem.mirrored(), dy, u, dx, blocking, threads, rooms);
  sums.write(weights, threads, reinterpret_cast<const float**>(scratch));
}

}  // namespace fusetape::backends::cpu::conv::winograd
