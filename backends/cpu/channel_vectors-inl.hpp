// Vectors over the rows of a ChannelRows tensor, once for every target that foreach_target.h goes through.
#if defined(FUSETAPE_CHANNEL_VECTORS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_CHANNEL_VECTORS_INL
#undef FUSETAPE_CHANNEL_VECTORS_INL
#else
#define FUSETAPE_CHANNEL_VECTORS_INL
#endif

#include <cstring>

#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/storage.hpp"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Floats = hn::ScalableTag<float>;
using Words = hn::RebindToUnsigned<Floats>;
using Halves = hn::Rebind<std::uint16_t, Floats>;
using Vec = hn::Vec<Floats>;
using Bits = hn::Mask<Floats>;
inline constexpr std::int64_t lanes = static_cast<std::int64_t>(hn::MaxLanes(Floats()));
static_assert(lanes % 8 == 0, "a vector's mask is whole bytes");

// ---- bf16 in registers ----

HWY_INLINE Vec widened(hn::Vec<Halves> bits) {
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(hn::PromoteTo(Words(), bits)));
}

/// The nearest bf16, ties to even, in the upper halves. What is added must not carry a NaN over into the
/// sign: those of bf16 and arithmetic's own have nothing in the lower half, and patterns hold no others.
HWY_INLINE hn::Vec<Words> nearest(Vec v) {
  const Words words;
  const auto bits = hn::BitCast(words, v);
#if HWY_TARGET <= HWY_AVX3  // a mask costs one instruction
  const auto odd = hn::TestBit(bits, hn::Set(words, 0x10000));
  return hn::Add(bits, hn::IfThenElse(odd, hn::Set(words, 0x8000), hn::Set(words, 0x7fff)));
#else
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
  return hn::Add(hn::Add(bits, hn::Set(words, 0x7fff)), odd);
#endif
}
HWY_INLINE hn::Vec<Halves> narrowed(Vec v) {
  const hn::Repartition<std::uint16_t, Words> both;
  const auto bits = hn::BitCast(both, nearest(v));
  return hn::LowerHalf(Halves(), hn::ConcatOdd(both, bits, bits));
}

/// v as it is once stored as T.
template <class T>
HWY_INLINE Vec rounded(Vec v) {
  if constexpr (std::is_same_v<T, float>) return v;
  return hn::BitCast(Floats(), hn::And(nearest(v), hn::Set(Words(), 0xffff0000)));
}

// ---- memory ----

inline std::uint16_t* halves(Bf16* p) { return reinterpret_cast<std::uint16_t*>(p); }
inline const std::uint16_t* halves(const Bf16* p) { return reinterpret_cast<const std::uint16_t*>(p); }

/// Whole vectors.
struct Whole {
  static HWY_INLINE Vec load(const float* from) { return hn::LoadU(Floats(), from); }
  static HWY_INLINE Vec load(const Bf16* from) { return widened(hn::LoadU(Halves(), halves(from))); }
  static HWY_INLINE void store(Vec v, float* to) { hn::StoreU(v, Floats(), to); }
  static HWY_INLINE void store(Vec v, Bf16* to) { hn::StoreU(narrowed(v), Halves(), halves(to)); }
  static HWY_INLINE Bits load_bits(const std::uint8_t* from) { return hn::LoadMaskBits(Floats(), from); }
  static HWY_INLINE void store_bits(Bits bits, std::uint8_t* to) { hn::StoreMaskBits(Floats(), bits, to); }
};

/// The short vector at the end of a row: reads zeros beyond it, writes nothing there.
struct Tail {
  std::size_t count;
  Bits inside;
  HWY_INLINE explicit Tail(std::int64_t elements)
      : count(static_cast<std::size_t>(elements)), inside(hn::FirstN(Floats(), count)) {}

  HWY_INLINE Vec load(const float* from) const { return hn::MaskedLoad(inside, Floats(), from); }
  HWY_INLINE Vec load(const Bf16* from) const {
    alignas(64) std::uint16_t buffer[lanes] = {};
    std::memcpy(buffer, from, count * sizeof(Bf16));
    return widened(hn::Load(Halves(), buffer));
  }
  HWY_INLINE void store(Vec v, float* to) const { hn::BlendedStore(v, inside, Floats(), to); }
  HWY_INLINE void store(Vec v, Bf16* to) const {
    alignas(64) std::uint16_t buffer[lanes];
    hn::Store(narrowed(v), Halves(), buffer);
    std::memcpy(to, buffer, count * sizeof(Bf16));
  }
  HWY_INLINE Bits load_bits(const std::uint8_t* from) const {
    std::uint8_t bytes[8] = {};
    std::memcpy(bytes, from, (count + 7) / 8);
    return hn::LoadMaskBits(Floats(), bytes);
  }
  HWY_INLINE void store_bits(Bits bits, std::uint8_t* to) const {
    std::uint8_t bytes[8] = {};
    hn::StoreMaskBits(Floats(), hn::And(bits, inside), bytes);
    std::memcpy(to, bytes, (count + 7) / 8);
  }
};

// A pattern has room behind it: no tail needed.
HWY_INLINE Vec pattern(const float* row, std::int64_t column) { return hn::LoadU(Floats(), row + column); }

// ---- normalisation ----

/// (x − mean)·a + β, as core::normalised has it.
HWY_INLINE Vec normalised(Vec x, Vec mean, Vec a, Vec beta) { return hn::MulAdd(a, hn::Sub(x, mean), beta); }

// ---- ReLU ----

/// v where !(v ≤ 0), else 0: a NaN stays. The maximum of x86 is its second operand where one is a NaN, and is
/// one instruction for two; that of other processors is not so certain.
HWY_INLINE Vec relu(Vec v) {
#if HWY_ARCH_X86
  return hn::Max(hn::Zero(Floats()), v);
#else
  return hn::IfThenZeroElse(hn::Le(v, hn::Zero(Floats())), v);
#endif
}
/// Where the ReLU of v, stored as T, lets no gradient pass.
template <class T>
HWY_INLINE Bits blocked(Vec v) {
  return hn::Le(v, hn::Set(Floats(), largest_zero<T>));
}

// ---- blocks ----

/// Runs a block, strictly in the order of memory: anything else costs half of the bandwidth. A `Column` is
/// one vector of columns: it loads its patterns and sums when made, handles a row, and stores its sums at the
/// end. Where four columns are a whole wide row, as for up to 64 channels, they stay in registers; else
/// patterns and sums stay in L1.
template <class Column, class Task>
HWY_INLINE void run_block(const RowBlock block, const Task task) {
  const std::int64_t end = block.offset + block.rows * block.width;
  if (block.width == 4 * lanes) {
    Column c0(task, 0), c1(task, lanes), c2(task, 2 * lanes), c3(task, 3 * lanes);
    for (std::int64_t at = block.offset; at < end; at += 4 * lanes) {
      c0.row(task, Whole{}, at);
      c1.row(task, Whole{}, at + lanes);
      c2.row(task, Whole{}, at + 2 * lanes);
      c3.row(task, Whole{}, at + 3 * lanes);
    }
    c0.finish(task, Whole{}, 0);
    c1.finish(task, Whole{}, lanes);
    c2.finish(task, Whole{}, 2 * lanes);
    c3.finish(task, Whole{}, 3 * lanes);
    return;
  }
  const std::int64_t whole = block.width / lanes * lanes;
  const Tail tail(block.width - whole);
  for (std::int64_t row = block.offset; row < end; row += block.width) {
    for (std::int64_t column = 0; column < whole; column += lanes) {
      Column c(task, column);
      c.row(task, Whole{}, row + column);
      c.finish(task, Whole{}, column);
    }
    if (whole == block.width) continue;
    Column c(task, whole);
    c.row(task, tail, row + whole);
    c.finish(task, tail, whole);
  }
}

// ---- sums ----

/// A wide row of sums: few rows are added in f32, in `chain`, and then to the total. A long chain of equal
/// numbers would lose one digit more each time it becomes ten times as long.
struct ChainSum {
  static constexpr std::int64_t rows = RowBlock::chain_rows;
  float* chain;  ///< 0 before and after a block
  double* total;

  HWY_INLINE void end_chain(std::int64_t width) const {
    for (std::int64_t j = 0; j < width; ++j) {
      total[j] += static_cast<double>(chain[j]);
      chain[j] = 0;
    }
  }
};

/// run_block for a Column that adds to the chains of `sums`.
template <class Column, std::size_t Count, class Task>
HWY_INLINE void run_chains(const RowBlock& block, const Task& task, const ChainSum (&sums)[Count]) {
  for (std::int64_t row = 0; row < block.rows; row += ChainSum::rows) {
    const RowBlock chain{.offset = block.offset + row * block.width,
                         .rows = std::min(ChainSum::rows, block.rows - row),
                         .width = block.width};
    run_block<Column>(chain, task);
    for (const ChainSum& sum : sums) sum.end_chain(block.width);
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_CHANNEL_VECTORS_INL
