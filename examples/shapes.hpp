#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fusetape/fusetape.hpp>
#include <random>
#include <vector>

namespace examples {

/// Generated images of shapes on a noisy ground, and which class each pixel is: 0 ground, 1 disc, 2 square.
struct Shapes {
  fusetape::Tensor images;   ///< {count, size, size, 3} in [-1, 1]
  fusetape::Tensor classes;  ///< {count, size, size} i64
};

inline Shapes shapes(std::mt19937& random, std::int64_t count, std::int64_t size) {
  std::normal_distribution<float> noise(0, 0.2f);
  std::uniform_real_distribution<float> colour(-1, 1);
  std::uniform_int_distribution<std::int64_t> place(0, size - 1), radius_of(size / 8, size / 4);
  std::vector<float> pixels(static_cast<std::size_t>(count * size * size * 3));
  for (float& pixel : pixels) pixel = noise(random);
  std::vector<std::int64_t> classes(static_cast<std::size_t>(count * size * size));
  for (std::int64_t n = 0; n < count; ++n) {
    for (const std::int64_t kind : {1, 2}) {
      const std::int64_t cy = place(random), cx = place(random), radius = radius_of(random);
      const float added[] = {colour(random), colour(random), colour(random)};
      for (std::int64_t i = 0; i < size * size; ++i) {
        const std::int64_t dy = std::abs(i / size - cy), dx = std::abs(i % size - cx);
        if (kind == 1 ? dy * dy + dx * dx > radius * radius : std::max(dy, dx) > radius) continue;
        const auto at = static_cast<std::size_t>(n * size * size + i);
        classes[at] = kind;
        for (std::size_t c = 0; c < 3; ++c) pixels[3 * at + c] += added[c];
      }
    }
  }
  for (float& pixel : pixels) pixel = std::clamp(pixel, -1.0f, 1.0f);
  return {fusetape::from_vector(pixels, {count, size, size, 3}),
          fusetape::from_vector(classes, {count, size, size})};
}

}  // namespace examples
