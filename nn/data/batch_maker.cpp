#include "nn/data/batch_maker.hpp"

#include <algorithm>
#include <numeric>

#include "nn/data/random.hpp"

namespace fusetape::data {
namespace {

/// Where the place i of an extent is, mirrored at its first and last place: −1 is 1. |i| < 2·extent − 1.
std::int64_t reflected(std::int64_t i, std::int64_t extent) {
  const std::int64_t from_first = i < 0 ? -i : i;
  return from_first < extent ? from_first : 2 * (extent - 1) - from_first;
}

}  // namespace

BatchMaker::BatchMaker(std::shared_ptr<const Dataset> dataset, const DataLoaderOptions& options,
                       std::int64_t epoch)
    : dataset_(std::move(dataset)),
      options_(options),
      augmentation_key_(derive(derive(options.seed, 1), static_cast<std::uint64_t>(epoch))),
      epoch_(epoch),
      order_(static_cast<std::size_t>(dataset_->count())) {
  std::iota(order_.begin(), order_.end(), 0);
  if (options_.shuffle) shuffle(order_, derive(derive(options_.seed, 0), static_cast<std::uint64_t>(epoch)));

  const auto row = static_cast<std::size_t>(dataset_->width * dataset_->channels);
  const auto channels = static_cast<std::size_t>(dataset_->channels);
  for (std::size_t i = 0; i < row; ++i) {
    const double mean = options_.mean[i % channels], deviation = options_.stddev[i % channels];
    scale_.push_back(static_cast<float>(1 / (255 * deviation)));
    shift_.push_back(static_cast<float>(-mean / deviation));
  }
  row_.resize(row);
  mirrored_.resize(row);
}

void BatchMaker::make(std::int64_t position, RawBatch& batch) {
  const std::int64_t first = position * options_.batch;
  batch.count = std::min(options_.batch, dataset_->count() - first);
  batch.images.resize(static_cast<std::size_t>(batch.count * dataset_->image_bytes()));
  batch.labels.resize(static_cast<std::size_t>(batch.count));
  for (std::int64_t i = 0; i < batch.count; ++i) {
    const std::int64_t index = order_[static_cast<std::size_t>(first + i)];
    batch.labels[static_cast<std::size_t>(i)] = dataset_->labels[static_cast<std::size_t>(index)];
    make_image(index, batch.images.data() + i * dataset_->image_bytes());
  }
}

bool BatchMaker::is_mirrored(std::int64_t index, std::uint32_t random) const {
  if (!options_.flip) return false;
  if (!options_.alternate) return (random & 1u) != 0;
  const std::uint32_t first =
      core::philox_block(derive(options_.seed, 2), static_cast<std::uint64_t>(index))[0] & 1u;
  return first != static_cast<std::uint32_t>(epoch_ & 1);
}

const std::uint8_t* BatchMaker::window_row(const std::uint8_t* image, std::int64_t y, std::int64_t right) {
  const std::int64_t height = dataset_->height, width = dataset_->width, channels = dataset_->channels;
  if (options_.reflect) {
    const std::uint8_t* source = image + reflected(y, height) * width * channels;
    if (right == 0) return source;
    for (std::int64_t x = 0; x < width; ++x) {
      std::copy_n(source + reflected(x + right, width) * channels, channels, row_.data() + x * channels);
    }
    return row_.data();
  }
  const bool inside = y >= 0 && y < height;
  const std::uint8_t* source = inside ? image + y * width * channels : row_.data();
  if (inside && right == 0) return source;
  // The window sees the pixels [from, to) of this row, the rest is black.
  const std::int64_t from = std::clamp<std::int64_t>(right, 0, width);
  const std::int64_t to = std::clamp<std::int64_t>(right + width, 0, width);
  std::fill(row_.begin(), row_.end(), std::uint8_t{0});
  if (inside && to > from) {
    std::copy_n(source + from * channels, (to - from) * channels, row_.data() + (from - right) * channels);
  }
  return row_.data();
}

void BatchMaker::make_image(std::int64_t index, float* out) {
  const std::int64_t width = dataset_->width, channels = dataset_->channels;
  const core::PhiloxBlock random = core::philox_block(augmentation_key_, static_cast<std::uint64_t>(index));
  const std::int64_t down = below(random[0], 2 * options_.crop + 1) - options_.crop;
  const std::int64_t right = below(random[1], 2 * options_.crop + 1) - options_.crop;
  const bool mirror = is_mirrored(index, random[2]);

  const std::uint8_t* image = dataset_->images.data() + index * dataset_->image_bytes();
  const std::size_t row_bytes = row_.size();
  float* const made = out;
  for (std::int64_t y = 0; y < dataset_->height; ++y, out += row_bytes) {
    const std::uint8_t* source = window_row(image, y + down, right);
    if (mirror) {
      for (std::int64_t x = 0; x < width; ++x) {
        for (std::int64_t c = 0; c < channels; ++c) {
          mirrored_[static_cast<std::size_t>((width - 1 - x) * channels + c)] = source[x * channels + c];
        }
      }
      source = mirrored_.data();
    }
    const float* const scale = scale_.data();
    const float* const shift = shift_.data();
    for (std::size_t i = 0; i < row_bytes; ++i) out[i] = static_cast<float>(source[i]) * scale[i] + shift[i];
  }
  if (options_.cutout > 0) cut_out(random[3], made);
}

/// The square's middle is any pixel of the image.
void BatchMaker::cut_out(std::uint32_t random, float* image) const {
  const std::int64_t height = dataset_->height, width = dataset_->width, channels = dataset_->channels;
  const std::int64_t middle = below(random, height * width);
  const std::int64_t top = middle / width - options_.cutout / 2;
  const std::int64_t left = middle % width - options_.cutout / 2;
  const std::int64_t first = std::max<std::int64_t>(left, 0), last = std::min(left + options_.cutout, width);
  const std::int64_t end = std::min(top + options_.cutout, height);
  for (std::int64_t y = std::max<std::int64_t>(top, 0); y < end; ++y) {
    std::fill(image + (y * width + first) * channels, image + (y * width + last) * channels, 0.0f);
  }
}

}  // namespace fusetape::data
