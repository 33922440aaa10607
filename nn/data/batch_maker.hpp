#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "fusetape/data.hpp"

namespace fusetape::data {

/// A batch before it is tensors.
struct RawBatch {
  std::int64_t count = 0;
  std::vector<float> images;
  std::vector<std::int64_t> labels;
};

/// Makes batches of one epoch: order, crop, mirror, normalise, cut out. Plain loops on one core: it runs
/// beside the training.
class BatchMaker {
 public:
  /// `options` with mean and stddev filled in.
  BatchMaker(std::shared_ptr<const Dataset> dataset, const DataLoaderOptions& options, std::int64_t epoch);
  /// Batch `position` of the epoch into `batch`, whose storage is reused.
  void make(std::int64_t position, RawBatch& batch);

 private:
  void make_image(std::int64_t index, float* out);
  bool is_mirrored(std::int64_t index, std::uint32_t random) const;
  /// Row y of the image from column `right` on, as wide as the image: in the image itself, or in row_.
  const std::uint8_t* window_row(const std::uint8_t* image, std::int64_t y, std::int64_t right);
  void cut_out(std::uint32_t random, float* image) const;

  std::shared_ptr<const Dataset> dataset_;
  DataLoaderOptions options_;
  std::uint64_t augmentation_key_;
  std::int64_t epoch_;
  std::vector<std::int64_t> order_;
  std::vector<float> scale_, shift_;  ///< of a row: pixel·scale + shift
  std::vector<std::uint8_t> row_, mirrored_;
};

}  // namespace fusetape::data
