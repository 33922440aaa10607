#include "backends/cpu/conv/rows/products.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/conv/rows/products_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/channel_vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

using rows::Products;

/// Vectors of a panel, and rows of a, whose products stand in registers together: 24 of 32 with AVX-512, 12
/// of 16 with AVX2.
constexpr int panel_vectors = lanes == 16 ? 4 : 2;
constexpr int sums_at_once = lanes == 16 ? 24 : 12;
constexpr int rows_of(int vectors) { return sums_at_once / vectors > 12 ? 12 : sums_at_once / vectors; }
/// So much of a panel stays in L1 while all rows of a pass it.
constexpr std::int64_t most_in_sum = 256;

/// A tile of c in registers. `Last` is the last vector's access to memory: the others are whole.
template <int Rows, int Vectors, class Last>
struct Tile {
  Vec sum[Rows][Vectors];

  HWY_INLINE void clear() {
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[i][v] = hn::Zero(Floats());
    }
  }
  HWY_INLINE void add(const float* a, std::int64_t a_row, const float* b, const Last& last) {
    Vec right[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v + 1 < Vectors; ++v) right[v] = Whole::load(b + v * lanes);
    right[Vectors - 1] = last.load(b + (Vectors - 1) * lanes);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
      const Vec left = hn::Set(Floats(), a[i * a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[i][v] = hn::MulAdd(left, right[v], sum[i][v]);
    }
  }
  template <bool Adds>
  HWY_INLINE void store(float* c, std::int64_t c_row, const Last& last) const {
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i, c += c_row) {
#pragma GCC unroll 4
      for (int v = 0; v + 1 < Vectors; ++v) put<Adds>(sum[i][v], c + v * lanes, Whole{});
      put<Adds>(sum[i][Vectors - 1], c + (Vectors - 1) * lanes, last);
    }
  }
  template <bool Adds, class Access>
  static HWY_INLINE void put(Vec v, float* to, const Access& access) {
    access.store(Adds ? hn::Add(access.load(to), v) : v, to);
  }
};

template <int Rows, int Vectors, class Last>
HWY_NOINLINE void multiply_tile(const float* HWY_RESTRICT a, std::int64_t a_row, std::int64_t a_column,
                                const float* HWY_RESTRICT b, std::int64_t b_row, std::int64_t k,
                                float* HWY_RESTRICT c, std::int64_t c_row, bool adds, const Last last) {
  Tile<Rows, Vectors, Last> tile;
  tile.clear();
  for (; k > 0; --k, a += a_column, b += b_row) tile.add(a, a_row, b, last);
  adds ? tile.template store<true>(c, c_row, last) : tile.template store<false>(c, c_row, last);
}

/// A panel of c, from row to row.
template <int Vectors, class Last>
void multiply_panel(const Products& p, const float* b, float* c, const Last& last) {
  constexpr int most = rows_of(Vectors), some = 2;
  for (std::int64_t first = 0; first < p.k; first += most_in_sum) {
    const std::int64_t k = std::min(most_in_sum, p.k - first);
    const bool adds = p.adds || first > 0;
    const float* a = p.a + first * p.a_column;
    const float* right = b + first * p.b_row;
    float* to = c;
    std::int64_t left = p.m;
    const auto go = [&](auto multiply, std::int64_t rows) {
      for (; left >= rows; left -= rows, a += rows * p.a_row, to += rows * p.c_row) {
        if (p.ahead != nullptr) p.ahead->fetch();
        multiply(a, p.a_row, p.a_column, right, p.b_row, k, to, p.c_row, adds, last);
      }
    };
    go(multiply_tile<most, Vectors, Last>, most);
    go(multiply_tile<some, Vectors, Last>, some);
    go(multiply_tile<1, Vectors, Last>, 1);
  }
}

template <int Vectors>
void multiply_columns(const Products& p, const float* b, float* c, std::int64_t columns) {
  const std::int64_t rest = columns - (Vectors - 1) * lanes;
  rest == lanes ? multiply_panel<Vectors>(p, b, c, Whole{}) : multiply_panel<Vectors>(p, b, c, Tail(rest));
}

/// Tiles of whole size, as if all panels were whole, too.
std::int64_t tiles_of(const Products& p) {
  const auto divided_up = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  return divided_up(p.n, panel_vectors * lanes) * divided_up(p.k, most_in_sum) *
         std::max<std::int64_t>(1, p.m / rows_of(panel_vectors));
}

void Multiply(const Products& p) {
  constexpr std::int64_t width = panel_vectors * lanes;
  if (p.ahead != nullptr) p.ahead->spread(tiles_of(p));
  const float* b = p.b;
  for (std::int64_t j = 0; j < p.n; j += width, b += p.b_panel) {
    const std::int64_t columns = std::min(width, p.n - j);
    switch ((columns + lanes - 1) / lanes) {
      case 1:
        multiply_columns<1>(p, b, p.c + j, columns);
        break;
      case 2:
        multiply_columns<2>(p, b, p.c + j, columns);
        break;
      case 3:
        multiply_columns<3>(p, b, p.c + j, columns);
        break;
      default:
        multiply_columns<panel_vectors>(p, b, p.c + j, columns);
        break;
    }
  }
}

std::int64_t PanelWidth() { return panel_vectors * lanes; }

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::conv {

HWY_EXPORT(Multiply);
HWY_EXPORT(PanelWidth);

void rows::multiply(const Products& products) { HWY_DYNAMIC_DISPATCH(Multiply)(products); }
std::int64_t rows::panel_width() { return HWY_DYNAMIC_DISPATCH(PanelWidth)(); }

std::int64_t rows::packed_size(std::int64_t k, std::int64_t n) {
  const std::int64_t width = panel_width();
  return (n + width - 1) / width * width * k;
}

void rows::pack(const float* b, std::int64_t k, std::int64_t n, std::int64_t row, std::int64_t column,
                float* packed, std::int64_t panel_floats, int threads) {
  const std::int64_t width = panel_width(), panels = (n + width - 1) / width;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t panel = 0; panel < panels; ++panel) {
    const std::int64_t first = panel * width, columns = std::min(width, n - first);
    float* to = packed + panel * panel_floats;
    for (std::int64_t i = 0; i < k; ++i, to += width) {
      const float* from = b + i * row + first * column;
      for (std::int64_t j = 0; j < columns; ++j) to[j] = from[j * column];
      std::fill(to + columns, to + width, 0.0f);
    }
  }
}

}  // namespace fusetape::backends::cpu::conv
#endif  // HWY_ONCE
