#pragma once
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fusetape/tensor.hpp"

/// Images and labels, and batches of them.
namespace fusetape::data {

/// u8 images {count, height, width, channels}, a label each, and what loaders normalise the pixels by.
struct Dataset {
  std::vector<std::uint8_t> images;
  std::vector<std::uint8_t> labels;
  std::int64_t height = 32, width = 32, channels = 3;
  std::int64_t classes = 10;
  std::vector<double> mean{};    ///< per channel, of pixels in [0, 1]; empty: 0
  std::vector<double> stddev{};  ///< likewise; empty: 1

  std::int64_t count() const { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t image_bytes() const { return height * width * channels; }
};

enum class Split : std::uint8_t { train, test };

/// data_batch_1.bin … data_batch_5.bin or test_batch.bin of a folder (or of cifar-10-batches-bin in it), with
/// the mean and deviation of the training images. Any mistake in a file throws an Error that names the file,
/// the byte and what was expected there.
Dataset cifar10(const std::string& folder, Split split = Split::train, Location at = Location::current());
/// train.bin or test.bin of a folder (or of cifar-100-binary in it); the fine labels.
Dataset cifar100(const std::string& folder, Split split = Split::train, Location at = Location::current());
/// One file of CIFAR-10 records with any number of images, or exactly `expected` of them where that is not 0.
Dataset cifar10_file(const std::string& path, std::int64_t expected = 0, Location at = Location::current());
Dataset cifar100_file(const std::string& path, std::int64_t expected = 0, Location at = Location::current());

/// Images of one channel from a pair of IDX files: u8 {count, rows, columns} and u8 {count}, not compressed.
/// Errors as above. The mean and deviation are left empty: what these images are, only the caller knows.
Dataset idx_files(const std::string& images, const std::string& labels, std::int64_t classes = 10,
                  Location at = Location::current());
/// train-images-idx3-ubyte and train-labels-idx1-ubyte of a folder, or t10k-… for the test images, with the
/// mean and deviation of the training images.
Dataset mnist(const std::string& folder, Split split = Split::train, Location at = Location::current());
/// The same files of the set of clothes.
Dataset fashion_mnist(const std::string& folder, Split split = Split::train,
                      Location at = Location::current());

struct SyntheticOptions {
  std::int64_t classes = 10;
  std::int64_t count = 10'000;
  std::int64_t size = 32;
  std::uint64_t seed = 0;
};
/// Generated colour images, the classes in equal parts and in random order: coloured gratings whose
/// orientation tells the class, under shifting colours, a random disc and noise. The seed says which images;
/// classes look the same for every seed. They stand in for CIFAR-10, and have its mean and deviation.
Dataset synthetic_images(SyntheticOptions options = {}, Location at = Location::current());

/// Every image with left and right exchanged; all else stays. Averaging a model's logits over a test set and
/// its mirror is the usual test-time augmentation beside `flip` in training.
Dataset mirrored(Dataset dataset, Location at = Location::current());

struct DataLoaderOptions {
  std::int64_t batch = 128;
  bool shuffle = true;
  bool drop_last = true;  ///< leave out a last batch that is not full (it would need a plan of its own)
  std::int64_t crop = 0;  ///< pad by this many black pixels and cut out at random; 4 is usual for CIFAR
  bool reflect = false;   ///< crop's border is the image's mirror image, not black; crop < height, width
  bool flip = false;      ///< mirror every other image, at random
  /// With flip: mirror each image in every other epoch; only in which of the first two is random (Jordan,
  /// "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024).
  bool alternate = false;
  /// Side of a square at a random place, which may overhang the image: its pixels become the mean, 0 once
  /// normalised ("Improved Regularization of Convolutional Neural Networks with Cutout", DeVries and Taylor).
  std::int64_t cutout = 0;
  std::vector<double> mean{};    ///< per channel, of pixels in [0, 1]; empty: the data set's
  std::vector<double> stddev{};  ///< likewise
  bool prefetch = true;          ///< a thread prepares the next batches; begun anew in a child of fork()
  std::uint64_t seed = 0;

  /// For judging a model: every image once, as it is, in the data set's order.
  static DataLoaderOptions evaluation(std::int64_t batch = 500) {
    return {.batch = batch, .shuffle = false, .drop_last = false};
  }
};

struct Batch {
  Tensor images;  ///< f32 {batch, H, W, C}
  Tensor labels;  ///< i64 {batch}
};

/// Batches of a data set: `for (auto [images, labels] : loader)`. One loop is one epoch; the next loop goes
/// on where the loader stands: after a break, or after set_state(), with the rest of that epoch. Order and
/// augmentation depend on the seed, the epoch and the image's index only, so a resumed run sees the same
/// numbers. There is one loop at a time: begin() throws while another one goes on.
class DataLoader {
 public:
  DataLoader(Dataset dataset, DataLoaderOptions options = {}, Location at = Location::current());
  DataLoader(std::shared_ptr<const Dataset> dataset, DataLoaderOptions options = {},
             Location at = Location::current());
  ~DataLoader();
  DataLoader(const DataLoader&) = delete;
  DataLoader& operator=(const DataLoader&) = delete;

  class Iterator;
  Iterator begin(Location at = Location::current());
  Iterator end();

  std::int64_t batches() const;  ///< of an epoch
  std::int64_t images() const;   ///< of an epoch: without those that drop_last leaves out
  std::int64_t epoch() const { return epoch_; }

  /// `position` batches of `epoch` were handed out.
  struct State {
    std::uint64_t seed = 0;
    std::int64_t epoch = 0, position = 0;
    friend bool operator==(const State&, const State&) = default;
  };
  State state() const;
  void set_state(State state, Location at = Location::current());
  /// What decides beside the state which numbers an epoch brings: options, and the count of images. For
  /// checkpoints.
  std::map<std::string, double> settings() const;

 private:
  class Worker;
  /// What the iterators of a loop share: it goes on while one of them lives and has not reached the end.
  struct Loop {
    Location at;
  };
  /// Makes the next batch the current one; false, and on to the next epoch, where there is none.
  bool advance();
  bool next_batch();
  void drop_worker();

  std::shared_ptr<const Dataset> dataset_;
  DataLoaderOptions options_;
  Location at_;                     ///< where the loader was made
  std::unique_ptr<Worker> worker_;  ///< of the epoch that is going on
  std::weak_ptr<const Loop> loop_;
  Batch batch_;
  std::int64_t epoch_ = 0, position_ = 0;
};

class DataLoader::Iterator {
 public:
  using value_type = Batch;
  using difference_type = std::ptrdiff_t;
  Iterator() = default;
  const Batch& operator*() const { return loader_->batch_; }
  const Batch* operator->() const { return &loader_->batch_; }
  Iterator& operator++() {
    if (!loader_->advance()) *this = Iterator();
    return *this;
  }
  void operator++(int) { ++*this; }
  friend bool operator==(const Iterator& a, const Iterator& b) { return a.loader_ == b.loader_; }

 private:
  friend class DataLoader;
  Iterator(DataLoader* loader, std::shared_ptr<const Loop> loop) : loader_(loader), loop_(std::move(loop)) {}

  DataLoader* loader_ = nullptr;
  std::shared_ptr<const Loop> loop_;
};

inline DataLoader::Iterator DataLoader::end() { return {}; }

}  // namespace fusetape::data
