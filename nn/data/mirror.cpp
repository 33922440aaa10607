#include <algorithm>

#include "fusetape/data.hpp"
#include "fusetape/error.hpp"
#include "nn/data/checks.hpp"

namespace fusetape::data {

Dataset mirrored(Dataset dataset, Location at) {
  require_images("mirrored", dataset, at);
  const std::int64_t width = dataset.width, channels = dataset.channels;
  const std::int64_t rows = dataset.count() * dataset.height;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::uint8_t* left = dataset.images.data() + row * width * channels;
    for (std::uint8_t* right = left + (width - 1) * channels; left < right;
         left += channels, right -= channels) {
      std::swap_ranges(left, left + channels, right);
    }
  }
  return dataset;
}

}  // namespace fusetape::data
