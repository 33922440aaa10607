#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "backends/cpu/conv/winograd/winograd.hpp"

/// The shapes that every pass of Winograd is tested on, and how they are written.
namespace fusetape::tests {

using WinogradShapes = std::vector<backends::cpu::conv::winograd::Problem>;

// Of each: batch, height, width, in, out, pad. The networks' are small batches of their 3×3 layers with
// stride 1.

inline const WinogradShapes resnet20_shapes = {
    {1, 32, 32, 3, 16, 1}, {2, 32, 32, 16, 16, 1}, {3, 16, 16, 32, 32, 1}, {3, 8, 8, 64, 64, 1}};

inline const WinogradShapes resnet18_shapes = {{1, 32, 32, 3, 64, 1},
                                               {1, 32, 32, 64, 64, 1},
                                               {1, 16, 16, 128, 128, 1},
                                               {1, 8, 8, 256, 256, 1},
                                               {2, 4, 4, 512, 512, 1}};

inline const WinogradShapes odd_shapes = {
    // Images of less than a tile.
    {1, 1, 1, 1, 1, 1},
    {2, 1, 1, 1, 48, 1},
    {3, 1, 1, 24, 3, 1},
    {5, 1, 1, 65, 17, 1},
    {1, 1, 2, 3, 5, 1},
    {3, 1, 2, 33, 24, 1},
    {1, 2, 1, 5, 3, 1},
    {2, 2, 1, 48, 65, 1},
    {1, 2, 2, 3, 17, 1},
    {5, 2, 2, 17, 1, 1},
    {2, 2, 3, 24, 33, 1},
    {1, 3, 2, 65, 5, 1},
    {1, 3, 3, 5, 9, 1},
    {3, 3, 3, 33, 48, 1},
    // One tile, whole or with less than a row or a column to spare.
    {1, 4, 4, 1, 1, 1},
    {2, 4, 4, 80, 96, 1},
    {4, 4, 4, 144, 80, 1},
    {1, 4, 3, 17, 17, 1},
    {5, 3, 4, 3, 24, 1},
    {1, 4, 5, 24, 65, 1},
    {2, 5, 4, 48, 5, 1},
    {1, 5, 5, 33, 33, 1},
    // Tiles that overhang.
    {1, 5, 7, 17, 1, 1},
    {1, 5, 9, 65, 48, 1},
    {2, 5, 9, 1, 33, 1},
    {3, 7, 5, 24, 40, 1},
    {1, 7, 5, 40, 17, 1},
    {5, 7, 7, 5, 3, 1},
    {3, 9, 4, 24, 40, 1},
    {2, 9, 4, 40, 24, 1},
    {1, 6, 6, 200, 24, 1},
    {2, 6, 6, 17, 65, 1},
    {1, 13, 6, 48, 24, 1},
    {3, 13, 6, 3, 3, 1},
    {2, 11, 10, 33, 5, 1},
    {1, 15, 15, 65, 65, 1},
    {1, 33, 31, 3, 24, 1},
    {5, 9, 11, 1, 1, 1},
    // Wide and tall.
    {1, 4, 40, 16, 16, 1},
    {1, 10, 70, 5, 16, 1},
    {1, 1, 67, 17, 33, 1},
    {2, 2, 35, 24, 3, 1},
    {1, 61, 1, 48, 5, 1},
    {2, 37, 3, 3, 65, 1},
    {1, 40, 4, 33, 24, 1},
    // No padding.
    {1, 3, 3, 1, 3, 0},
    {1, 3, 3, 5, 9, 0},
    {5, 3, 3, 48, 65, 0},
    {2, 3, 4, 24, 17, 0},
    {1, 4, 3, 3, 33, 0},
    {3, 4, 4, 17, 48, 0},
    {1, 5, 9, 33, 5, 0},
    {3, 5, 7, 17, 24, 0},
    {2, 7, 5, 65, 1, 0},
    {1, 6, 6, 1, 1, 0},
    {3, 6, 8, 16, 32, 0},
    {1, 9, 4, 40, 3, 0},
    {2, 13, 6, 5, 24, 0},
    {1, 33, 31, 17, 16, 0},
    {1, 3, 50, 24, 33, 0},
    {1, 51, 3, 65, 17, 0},
};

/// Those of a list of tables, in their order.
inline WinogradShapes all_of(std::initializer_list<WinogradShapes> tables) {
  WinogradShapes all;
  for (const WinogradShapes& table : tables) all.insert(all.end(), table.begin(), table.end());
  return all;
}
inline WinogradShapes small_winograd_shapes() { return all_of({resnet20_shapes, odd_shapes}); }
inline WinogradShapes winograd_shapes() { return all_of({resnet20_shapes, resnet18_shapes, odd_shapes}); }

inline std::string text(const backends::cpu::conv::winograd::Problem& p) {
  const auto s = [](std::int64_t i) { return std::to_string(i); };
  return s(p.batch) + "x" + s(p.height) + "x" + s(p.width) + ", " + s(p.in) + " to " + s(p.out) + ", pad " +
         s(p.pad);
}

}  // namespace fusetape::tests
