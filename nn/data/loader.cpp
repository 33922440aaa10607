#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>

#include "core/numerics/number_text.hpp"
#include "core/tape/fork.hpp"
#include "fusetape/data.hpp"
#include "nn/data/batch_maker.hpp"
#include "nn/data/checks.hpp"

namespace fusetape::data {
namespace {

constexpr std::size_t ahead = 3;  ///< batches prepared and waiting at most
/// Of crop and cutout, in pixels: no image is that large, and sums with it stay small.
constexpr std::int64_t most_pixels = 1 << 20;

void require(bool ok, const std::string& expected, const std::string& got, Location at) {
  if (!ok) throw Error("DataLoader", "expected " + expected + ", got " + got, at);
}

void check_dataset(const Dataset* dataset, Location at) {
  require(dataset != nullptr, "a data set", "null", at);
  require(dataset->count() >= 1, "at least one image", "none", at);
  require_images("DataLoader", *dataset, at);
  for (std::size_t i = 0; i < dataset->labels.size(); ++i) {
    require(dataset->labels[i] < dataset->classes, "labels below " + std::to_string(dataset->classes),
            std::to_string(dataset->labels[i]) + " at image " + std::to_string(i), at);
  }
}

/// The caller's numbers, or the data set's, or the same for each channel.
std::vector<double> per_channel(const char* name, const std::vector<double>& given,
                                const std::vector<double>& of_dataset, double otherwise,
                                std::int64_t channels, Location at) {
  const std::vector<double>& numbers = given.empty() ? of_dataset : given;
  if (numbers.empty()) return std::vector<double>(static_cast<std::size_t>(channels), otherwise);
  require(static_cast<std::int64_t>(numbers.size()) == channels,
          std::string(name) + " for " + std::to_string(channels) + " channels",
          std::to_string(numbers.size()) + " numbers", at);
  return numbers;
}

DataLoaderOptions completed(DataLoaderOptions options, const Dataset* dataset, Location at) {
  check_dataset(dataset, at);
  require(options.batch >= 1, "batch ≥ 1", std::to_string(options.batch), at);
  require(!options.drop_last || options.batch <= dataset->count(),
          "batch ≤ " + std::to_string(dataset->count()) + " images, or drop_last off",
          std::to_string(options.batch), at);
  for (const auto& [name, pixels] : {std::pair("crop", options.crop), std::pair("cutout", options.cutout)}) {
    require(pixels >= 0 && pixels <= most_pixels,
            std::string(name) + " ≥ 0 and ≤ " + std::to_string(most_pixels) + " pixels",
            std::to_string(pixels), at);
  }
  require(!options.alternate || options.flip, "flip where alternate is on", "no flip", at);
  require(!options.reflect || options.crop < std::min(dataset->height, dataset->width),
          "with reflect, crop < " + std::to_string(std::min(dataset->height, dataset->width)),
          std::to_string(options.crop), at);
  options.mean = per_channel("mean", options.mean, dataset->mean, 0, dataset->channels, at);
  options.stddev = per_channel("stddev", options.stddev, dataset->stddev, 1, dataset->channels, at);
  for (double mean : options.mean) require(std::isfinite(mean), "a finite mean", core::number_text(mean), at);
  for (double deviation : options.stddev) {
    require(deviation > 0 && std::isfinite(deviation), "a finite stddev > 0", core::number_text(deviation),
            at);
  }
  return options;
}

}  // namespace

/// The rest of an epoch, from `position` on: made when asked for, or ahead on a thread.
class DataLoader::Worker {
 public:
  Worker(BatchMaker maker, std::int64_t position, std::int64_t batches, bool prefetch)
      : maker_(std::move(maker)), made_(position), taken_(position), batches_(batches) {
    if (prefetch) thread_ = std::thread([this] { run(); });
  }

  ~Worker() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  /// Whether the thread is left behind in the process that this one was forked from.
  bool left_behind() const { return forks_ != core::forks(); }

  /// Hands the next batch to `use`; rethrows what went wrong on the thread.
  template <class Use>
  void next(Use&& use) {
    RawBatch& slot = slot_of(taken_);
    if (!thread_.joinable()) {
      maker_.make(taken_, slot);
    } else {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return made_ > taken_ || error_ != nullptr; });
      if (made_ == taken_) std::rethrow_exception(error_);
    }
    use(slot);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++taken_;
    }
    changed_.notify_all();
  }

 private:
  RawBatch& slot_of(std::int64_t position) { return slots_[static_cast<std::size_t>(position) % ahead]; }

  void run() {
    try {
      for (std::int64_t position = made_; position < batches_; ++position) {
        {
          std::unique_lock<std::mutex> lock(mutex_);
          changed_.wait(lock, [&] { return stop_ || position - taken_ < static_cast<std::int64_t>(ahead); });
          if (stop_) return;
        }
        maker_.make(position, slot_of(position));
        {
          const std::lock_guard<std::mutex> lock(mutex_);
          made_ = position + 1;
        }
        changed_.notify_all();
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      error_ = std::current_exception();
      changed_.notify_all();
    }
  }

  BatchMaker maker_;
  RawBatch slots_[ahead];
  std::mutex mutex_;
  std::condition_variable changed_;
  std::int64_t made_, taken_;  ///< batches [taken_, made_) wait
  const std::int64_t batches_;
  const std::uint64_t forks_ = core::forks();
  bool stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

DataLoader::DataLoader(std::shared_ptr<const Dataset> dataset, DataLoaderOptions options, Location at)
    : dataset_(std::move(dataset)), options_(completed(std::move(options), dataset_.get(), at)), at_(at) {}

DataLoader::DataLoader(Dataset dataset, DataLoaderOptions options, Location at)
    : DataLoader(std::make_shared<const Dataset>(std::move(dataset)), std::move(options), at) {}

DataLoader::~DataLoader() { drop_worker(); }

std::int64_t DataLoader::images() const {
  return options_.drop_last ? batches() * options_.batch : dataset_->count();
}

std::int64_t DataLoader::batches() const {
  const std::int64_t whole = dataset_->count() / options_.batch;
  const bool rest = dataset_->count() % options_.batch != 0;
  return whole + (rest && !options_.drop_last ? 1 : 0);
}

DataLoader::Iterator DataLoader::begin(Location at) {
  if (const auto going = loop_.lock()) {
    throw Error("DataLoader",
                "a loop over this loader, begun in line " + std::to_string(going->at.line()) + " of " +
                    std::filesystem::path(going->at.file_name()).filename().string() +
                    ", is still going on, and both would take each other's batches: end it before (a break "
                    "is enough; an iterator of your own has to go), or make a second loader of the same "
                    "std::shared_ptr<const Dataset>",
                at);
  }
  auto loop = std::make_shared<const Loop>(Loop{at});
  loop_ = loop;
  return advance() ? Iterator(this, std::move(loop)) : Iterator();
}

bool DataLoader::advance() {
  try {
    return within_memory("DataLoader", "batches of " + std::to_string(options_.batch) + " images", at_,
                         [this] { return next_batch(); });
  } catch (...) {
    drop_worker();  // the next try is a new one
    throw;
  }
}

bool DataLoader::next_batch() {
  batch_ = {};  // before the next one is made, so that it can have the same memory
  if (worker_ != nullptr && worker_->left_behind()) drop_worker();  // a new one begins where this one stood
  if (position_ >= batches()) {
    drop_worker();
    position_ = 0;
    ++epoch_;
    return false;
  }
  if (worker_ == nullptr) {
    worker_ = std::make_unique<Worker>(BatchMaker(dataset_, options_, epoch_), position_, batches(),
                                       options_.prefetch);
  }
  // Tensors are made here, on the thread that uses them: their memory then circulates on one thread.
  worker_->next([this](const RawBatch& raw) {
    const Dataset& set = *dataset_;
    batch_.images = from_vector(raw.images, {raw.count, set.height, set.width, set.channels}, at_);
    batch_.labels = from_vector(raw.labels, {raw.count}, at_);
  });
  ++position_;
  return true;
}

/// What waits for a thread that is left behind would wait for ever in its destructor, too.
void DataLoader::drop_worker() {
  if (worker_ != nullptr && worker_->left_behind()) static_cast<void>(worker_.release());
  worker_.reset();
}

DataLoader::State DataLoader::state() const { return {options_.seed, epoch_, position_}; }

std::map<std::string, double> DataLoader::settings() const {
  std::map<std::string, double> all{{"images", static_cast<double>(dataset_->count())},
                                    {"batch", static_cast<double>(options_.batch)},
                                    {"shuffle", options_.shuffle ? 1 : 0},
                                    {"drop_last", options_.drop_last ? 1 : 0},
                                    {"crop", static_cast<double>(options_.crop)},
                                    {"flip", options_.flip ? 1 : 0},
                                    {"cutout", static_cast<double>(options_.cutout)}};
  // Named only where they are on, so that checkpoints from before them fit.
  if (options_.reflect) all.emplace("reflect", 1);
  if (options_.alternate) all.emplace("alternate", 1);
  for (std::size_t c = 0; c < options_.mean.size(); ++c) {
    all.emplace("mean." + std::to_string(c), options_.mean[c]);
    all.emplace("stddev." + std::to_string(c), options_.stddev[c]);
  }
  return all;
}

void DataLoader::set_state(State state, Location at) {
  require(state.epoch >= 0 && state.epoch <= core::most_counted, "epoch from 0 to 2^53",
          std::to_string(state.epoch), at);
  require(state.position >= 0 && state.position <= batches(),
          "position from 0 to " + std::to_string(batches()), std::to_string(state.position), at);
  drop_worker();
  batch_ = {};
  options_.seed = state.seed;
  epoch_ = state.epoch;
  position_ = state.position;
}

}  // namespace fusetape::data
