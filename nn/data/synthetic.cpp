#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "fusetape/data.hpp"
#include "nn/data/checks.hpp"
#include "nn/data/normalisation.hpp"
#include "nn/data/random.hpp"

namespace fusetape::data {
namespace {

using Colour = std::array<double, 3>;

/// The look of a class: a slope, a number of waves and a tint. Mirroring an image keeps its class: the
/// grating leans either way.
struct Look {
  double angle;  ///< of the grating, from 0 to a right angle
  double waves;  ///< across the image
  double hue;    ///< in turns
};

Look look_of(std::int64_t label, std::int64_t classes) {
  constexpr std::int64_t slopes = 5;
  return {std::numbers::pi / 2 * static_cast<double>(label % slopes) / (slopes - 1),
          3.0 * std::pow(1.8, std::floor(static_cast<double>(label) / static_cast<double>(slopes))),
          static_cast<double>(label * 3 % classes) / static_cast<double>(classes)};
}

Colour colour_of(double hue, double strength) {
  Colour colour{};
  for (std::size_t c = 0; c < 3; ++c) {
    colour[c] = 0.5 + strength * std::cos(2 * std::numbers::pi * (hue - static_cast<double>(c) / 3));
  }
  return colour;
}

/// Something in front of the grating that has nothing to do with the class.
struct Disc {
  double x, y, radius;
  Colour colour;
  bool covers(double px, double py) const {
    return (px - x) * (px - x) + (py - y) * (py - y) < radius * radius;
  }
};

void paint(const Look& look, std::int64_t size, std::uint64_t key, std::uint8_t* image) {
  Stream random(key);
  const auto extent = static_cast<double>(size);
  const double lean = random.uniform() < 0.5 ? -1 : 1;
  const double angle = lean * (look.angle + random.uniform(-0.12, 0.12));
  const double waves = look.waves * random.uniform(0.88, 1.12) * 2 * std::numbers::pi / extent;
  const double wave_x = waves * std::cos(angle), wave_y = waves * std::sin(angle);
  const double phase = random.uniform(0, 2 * std::numbers::pi);
  const double contrast = random.uniform(0.35, 0.8);
  const Colour tint = colour_of(look.hue + random.uniform(-0.3, 0.3), random.uniform(0.05, 0.25));
  const Colour other = colour_of(random.uniform(), random.uniform(0.05, 0.35));
  const Disc disc{random.uniform(0, extent), random.uniform(0, extent), extent * random.uniform(0.1, 0.22),
                  colour_of(random.uniform(), 0.4)};

  for (std::int64_t y = 0; y < size; ++y) {
    for (std::int64_t x = 0; x < size; ++x) {
      const auto px = static_cast<double>(x), py = static_cast<double>(y);
      const double wave = 0.5 + 0.5 * contrast * std::cos(wave_x * px + wave_y * py + phase);
      const bool covered = disc.covers(px, py);
      const std::uint32_t noise = random.word();
      for (std::size_t c = 0; c < 3; ++c) {
        const double clean = covered ? disc.colour[c] : tint[c] * wave + other[c] * (1 - wave);
        const double grain = static_cast<double>((noise >> (10 * c)) & 1023u) / 1023 - 0.5;
        *image++ = static_cast<std::uint8_t>(std::clamp(255 * (clean + 0.25 * grain) + 0.5, 0.0, 255.0));
      }
    }
  }
}

}  // namespace

Dataset synthetic_images(SyntheticOptions options, Location at) {
  const auto require = [at](bool ok, const char* expected, std::int64_t got) {
    if (!ok) {
      throw Error("synthetic_images", std::string("expected ") + expected + ", got " + std::to_string(got),
                  at);
    }
  };
  require(options.classes >= 2 && options.classes <= 20, "from 2 to 20 classes", options.classes);
  require(options.count >= 1, "count ≥ 1", options.count);
  require(options.size >= 8, "size ≥ 8", options.size);
  const core::Checked bytes = core::Checked(options.count) * options.size * options.size * 3;
  const std::string what =
      std::to_string(options.count) + " images of " + to_string(Shape{options.size, options.size, 3});
  if (!bytes.fits()) throw Error("synthetic_images", "there is no memory for " + what, at);

  Dataset dataset;
  dataset.height = dataset.width = options.size;
  dataset.classes = options.classes;
  const Normalisation by = cifar10_normalisation();
  dataset.mean = by.mean;
  dataset.stddev = by.stddev;
  within_memory("synthetic_images", what, at, [&] {
    dataset.images.resize(static_cast<std::size_t>(bytes.value()));
    dataset.labels.reserve(static_cast<std::size_t>(options.count));
  });
  for (std::int64_t i = 0; i < options.count; ++i) {
    dataset.labels.push_back(static_cast<std::uint8_t>(i % options.classes));
  }
  shuffle(dataset.labels, derive(options.seed, 0));
  const std::uint64_t key = derive(options.seed, 1);
  for (std::int64_t i = 0; i < options.count; ++i) {
    const Look look = look_of(dataset.labels[static_cast<std::size_t>(i)], options.classes);
    paint(look, options.size, derive(key, static_cast<std::uint64_t>(i)),
          dataset.images.data() + i * dataset.image_bytes());
  }
  return dataset;
}

}  // namespace fusetape::data
