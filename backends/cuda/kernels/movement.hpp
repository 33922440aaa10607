#pragma once
#include "backends/cuda/kernels/lines.hpp"

/// Copies from place to place, of elements of which only the size matters.
namespace fusetape::backends::cuda {

/// As many neighbours as one access moves.
struct alignas(16) SixteenBytes {
  std::uint64_t words[2];
};

/// to[to_at(i)] = from[start · start_stride + from_at(i)].
template <class Element>
struct StridedCopy {
  struct Args {
    const Element* from;
    Element* to;
    Axes from_at, to_at;
    std::int64_t count;
    const std::int64_t* start;  ///< null: 0
    std::int64_t start_stride;
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return "strided_copy<" + std::to_string(sizeof(Element)) + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    const Element* const from = args.from + (args.start != nullptr ? *args.start * args.start_stride : 0);
    for_share<threads>(thread, args.count,
                       [&](std::int64_t i) { args.to[args.to_at.offset(i)] = from[args.from_at.offset(i)]; });
  }
};

/// An axis of a tensor that has another inside: at `before` + start · `per_start`, then every `step`
/// elements, `part` of them.
struct EmbeddedAxis {
  std::int64_t extent, before, per_start, step, part;
  std::int64_t stride;  ///< of the part
};

/// y is x where it lies, else one value.
template <class Element>
struct Embed {
  struct Args {
    const Element* x;
    Element* y;
    EmbeddedAxis axes[8];
    int rank;
    std::int64_t count;
    const std::int64_t* start;  ///< null: 0
    const Element* otherwise;   ///< null: zero
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return "embed<" + std::to_string(sizeof(Element)) + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    const std::int64_t start = args.start != nullptr ? *args.start : 0;
    const Element otherwise = args.otherwise != nullptr ? *args.otherwise : Element{};
    for_share<threads>(thread, args.count, [&](std::int64_t i) {
      const std::int64_t from = place(args, start, i);
      args.y[i] = from < 0 ? otherwise : args.x[from];
    });
  }

 private:
  /// In x; −1: not there.
  FUSETAPE_HD static std::int64_t place(const Args& args, std::int64_t start, std::int64_t i) {
    std::int64_t place = 0;
    for (int a = args.rank - 1; a >= 0; --a) {
      const EmbeddedAxis& axis = args.axes[a];
      const Quotient index = divided(i, axis.extent);
      i = index.whole;
      const std::int64_t before = axis.before + start * axis.per_start;
      if (index.rest < before) return -1;
      const Quotient inside = divided(index.rest - before, axis.step);
      if (inside.rest != 0 || inside.whole >= axis.part) return -1;
      place += inside.whole * axis.stride;
    }
    return place;
  }
};

/// y {columns, rows} of x {rows, columns}, through tiles, so that reads and writes are of neighbours.
template <class Element>
struct TransposeTiles {
  static constexpr unsigned side = 32, threads = 256;
  struct Args {
    const Element* x;
    Element* y;
    std::int64_t rows, columns;
    std::int64_t x_stride;  ///< from matrix to matrix
  };
  struct Shared {
    Element tile[side][side + 1];  // so that a column is in different banks
  };
  using Local = Nothing;
  static std::string name() { return "transpose_tiles<" + std::to_string(sizeof(Element)) + ">"; }
  static constexpr int phases = 2;

  static std::int64_t blocks(std::int64_t matrices, std::int64_t rows, std::int64_t columns) {
    return matrices * ((rows + side - 1) / side) * ((columns + side - 1) / side);
  }

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    const std::int64_t down = (args.rows + side - 1) / side, beside = (args.columns + side - 1) / side;
    const std::int64_t tile = thread.block_x % (down * beside), matrix = thread.block_x / (down * beside);
    const std::int64_t row = tile / beside * side, column = tile % beside * side;
    const unsigned lane = thread.index % side;
    for (unsigned line = thread.index / side; line < side; line += threads / side) {
      if (phase == 0) {
        if (row + line < args.rows && column + lane < args.columns) {
          shared.tile[line][lane] =
              args.x[matrix * args.x_stride + (row + line) * args.columns + column + lane];
        }
      } else if (column + line < args.columns && row + lane < args.rows) {
        args.y[matrix * args.rows * args.columns + (column + line) * args.rows + row + lane] =
            shared.tile[lane][line];
      }
    }
  }
};

}  // namespace fusetape::backends::cuda
