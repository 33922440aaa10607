#pragma once
#include <string>

#include "core/numerics/checked.hpp"
#include "fusetape/data.hpp"
#include "fusetape/error.hpp"
#include "nn/within_memory.hpp"

/// What the data pipeline asks of sizes before it counts with them.
namespace fusetape::data {

/// The images are as many bytes as extents and labels say.
inline void require_images(const char* op, const Dataset& dataset, Location at) {
  const Shape image{dataset.height, dataset.width, dataset.channels};
  if (dataset.height < 1 || dataset.width < 1 || dataset.channels < 1) {
    throw Error(op, "expected images with height, width, channels ≥ 1, got " + to_string(image), at);
  }
  const core::Checked bytes =
      core::Checked(dataset.height) * dataset.width * dataset.channels * dataset.labels.size();
  if (!bytes.fits() || bytes.value() != static_cast<std::int64_t>(dataset.images.size())) {
    throw Error(op,
                "expected " + (bytes.fits() ? std::to_string(bytes.value()) : "more than 2^63") +
                    " bytes of images for " + std::to_string(dataset.count()) + " labels and images of " +
                    to_string(image) + ", got " + std::to_string(dataset.images.size()),
                at);
  }
}

}  // namespace fusetape::data
