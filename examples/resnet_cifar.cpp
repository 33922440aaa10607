// Trains a ResNet on CIFAR-10, or on generated images, and keeps a record of it in a folder. A run that was
// stopped or killed goes on with --resume, to the bit where CPU, --threads, --fuse and --precision are the
// same.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fusetape/fusetape.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

#include "command_line.hpp"
#include "progress.hpp"
#include "run_folder.hpp"

namespace ft = fusetape;

namespace {

struct Options {
  std::string data;
  std::string out = "runs/resnet_cifar";
  std::string model = "resnet";
  std::int64_t depth = 20;
  std::int64_t width = 0;  // 0: as published
  std::int64_t epochs = 10;
  std::int64_t batch = 128;
  double lr = 0.4;
  double momentum = 0.9;
  double weight_decay = 5e-4;
  bool nesterov = false;
  double label_smoothing = 0;
  std::int64_t cutout = 0;
  bool mirror_test = false;
  std::string schedule = "onecycle";
  std::string fuse;  // empty: as FUSETAPE_FUSE says, or on
  std::string device;
  std::string precision = "f32";
  std::uint64_t seed = 1;
  int threads = 0;  // 0: all cores
  bool resume = false;
  bool retune = false;
  std::int64_t steps = 0;       // 0: all
  std::int64_t save_every = 0;  // 0: each epoch only
  std::int64_t limit_train = 0, limit_test = 0;
  std::string log_steps;
};

using Images = std::shared_ptr<const ft::data::Dataset>;

struct Data {
  Images train, test;
  Images mirrored_test;  // null without --mirror-test
};

Images load(const Options& options, ft::data::Split split) {
  const bool train = split == ft::data::Split::train;
  const std::int64_t limit = train ? options.limit_train : options.limit_test;
  if (options.data == "synthetic") {
    const std::int64_t count = limit > 0 ? limit : (train ? 10'000 : 2'000);
    return std::make_shared<const ft::data::Dataset>(
        ft::data::synthetic_images({.count = count, .seed = train ? 1u : 2u}));
  }
  ft::data::Dataset images = ft::data::cifar10(options.data, split);
  if (limit > 0 && limit < images.count()) {
    images.images.resize(static_cast<std::size_t>(limit * images.image_bytes()));
    images.labels.resize(static_cast<std::size_t>(limit));
  }
  return std::make_shared<const ft::data::Dataset>(std::move(images));
}

std::int64_t width_of(const Options& options) {
  if (options.width > 0) return options.width;
  return options.model == "resnet9" ? 64 : 16;
}

/// What the numbers of a run depend on: a run is only resumed with the same. Precision is none of it: what a
/// checkpoint holds is f32 in either. Nor is --mirror-test, which only judges.
nlohmann::json recipe_of(const Options& options, const Data& data) {
  return {{"model", options.model},
          {"depth", options.depth},
          {"width", width_of(options)},
          {"epochs", options.epochs},
          {"batch", options.batch},
          {"lr", options.lr},
          {"momentum", options.momentum},
          {"weight-decay", options.weight_decay},
          {"nesterov", options.nesterov},
          {"label-smoothing", options.label_smoothing},
          {"cutout", options.cutout},
          {"schedule", options.schedule},
          {"seed", options.seed},
          {"data", options.data == "synthetic" ? "synthetic" : "CIFAR-10"},
          {"limit-train", data.train->count()},
          {"limit-test", data.test->count()}};
}

std::unique_ptr<ft::nn::Module> make_model(const Options& options) {
  const std::int64_t width = width_of(options);
  if (options.model == "resnet9") {
    return std::make_unique<ft::nn::ResNet9>(ft::nn::ResNet9::Options{.width = width});
  }
  return std::unique_ptr<ft::nn::Module>(
      new ft::nn::ResNet(ft::nn::resnet_cifar({.depth = options.depth, .width = width})));
}

ft::optim::Schedule make_schedule(const Options& options, ft::optim::Optimizer& optimizer,
                                  std::int64_t total_steps) {
  if (options.schedule == "onecycle") {
    return ft::optim::OneCycleLR(optimizer, {.max_lr = options.lr, .total_steps = total_steps});
  }
  if (options.schedule == "cosine") return ft::optim::CosineLR(optimizer, {.total_steps = total_steps});
  return ft::optim::StepLR(optimizer, {.step_size = std::max<std::int64_t>(total_steps / 3, 1)});
}

std::unique_ptr<ft::data::DataLoader> test_loader(const Images& images) {
  if (images == nullptr) return nullptr;
  return std::make_unique<ft::data::DataLoader>(images, ft::data::DataLoaderOptions::evaluation());
}

/// How many of the batch's labels the logits get right, as a scalar.
ft::Tensor count_correct(const ft::Tensor& logits, const ft::Tensor& labels) {
  return ft::sum(ft::cast(ft::equal(ft::argmax(logits), labels), ft::DType::f32));
}

class Run {
 public:
  Run(const Options& options, const Data& data)
      : options_(options),
        recipe_(recipe_of(options, data)),
        model_(make_model(options)),
        loader_(data.train, {.batch = options.batch,
                             .crop = 4,
                             .flip = true,
                             .cutout = options.cutout,
                             .seed = options.seed}),
        test_loader_(test_loader(data.test)),
        mirrored_loader_(test_loader(data.mirrored_test)),
        sgd_(model_->parameters(), {.lr = options.lr,
                                    .momentum = options.momentum,
                                    .weight_decay = options.weight_decay,
                                    .nesterov = options.nesterov}),
        schedule_(make_schedule(options, sgd_, options.epochs * loader_.batches())),
        last_step_(options.epochs * loader_.batches()),
        folder_(options.out, options.resume) {
    if (options.steps > 0) last_step_ = std::min(last_step_, options.steps);
  }

  void train() {
    begin();
    while (loader_.epoch() < options_.epochs && !stopped()) {
      const std::int64_t epoch = loader_.epoch() + 1;
      clock_ = Clock::now();
      for (const auto& [images, labels] : loader_) {
        train_step(images, labels);
        show_progress(epoch);
        const bool in_turn = options_.save_every > 0 && state_.step % options_.save_every == 0;
        if (in_turn || took_new_kernels()) save(folder_.last());
        clock_ = Clock::now();
        if (stopped()) return end();
      }
      finish_epoch(epoch);
    }
    end();
  }

 private:
  using Clock = std::chrono::steady_clock;

  /// By --steps, within an epoch: one whose batches are all done is finished first.
  bool stopped() const { return state_.step >= last_step_ && loader_.state().position < loader_.batches(); }

  void begin();
  void train_step(const ft::Tensor& images, const ft::Tensor& labels);
  void show_progress(std::int64_t epoch);
  double evaluate();
  void finish_epoch(std::int64_t epoch);
  void end();

  ft::io::Training parts() {
    return {.model = model_.get(),
            .optimizer = &sgd_,
            .schedule = &schedule_,
            .loader = &loader_,
            .loss_scaler = &loss_scaler_};
  }
  void save(const std::string& path) {
    folder_.save(path, parts(), recipe_, state_);
    saved_kernels_ = ft::kernel_choices().size();
  }
  /// The last steps depend on choices of kernels that no checkpoint holds.
  bool took_new_kernels() const { return ft::kernel_choices().size() != saved_kernels_; }

  const Options& options_;
  nlohmann::json recipe_;
  std::unique_ptr<ft::nn::Module> model_;
  ft::data::DataLoader loader_;
  std::unique_ptr<ft::data::DataLoader> test_loader_,
      mirrored_loader_;  ///< the second, or null: --mirror-test
  ft::optim::SGD sgd_;
  ft::optim::LossScaler loss_scaler_;  ///< for f16
  ft::optim::Schedule schedule_;
  std::int64_t last_step_;
  examples::RunFolder folder_;
  examples::StepLog log_;
  examples::Progress progress_;
  examples::RunState state_;
  Clock::time_point clock_;
  double step_seconds_ = 0;
  std::size_t saved_kernels_ = 0;  ///< choices in the last checkpoint
};

void Run::begin() {
  if (options_.resume) {
    state_ = folder_.resume(parts(), recipe_, {.kernels = !options_.retune});
    saved_kernels_ = ft::kernel_choices().size();
  }
  log_.open(options_.log_steps, state_.step);
  if (options_.resume) {
    folder_.cut_metrics(loader_.epoch());
  } else if (folder_.clear()) {
    progress_.say("replacing the earlier run in " + options_.out);
  }
  const std::string width = options_.width == 0 ? "" : " of width " + std::to_string(options_.width);
  const std::int64_t depth = options_.model == "resnet9" ? 9 : options_.depth;
  progress_.say("ResNet-" + std::to_string(depth) + width + ", " + std::to_string(model_->parameter_count()) +
                " parameters, " + std::to_string(loader_.images()) + " images to train on, " +
                std::to_string(ft::threads()) + " threads, " + options_.precision + ", fusion " +
                (ft::fusion_enabled() ? "on" : "off"));
  if (options_.data == "synthetic") {
    progress_.say("these are generated images: the accuracy says nothing about CIFAR-10");
  }
  if (options_.resume) progress_.say("going on after step " + std::to_string(state_.step));
}

void Run::train_step(const ft::Tensor& images, const ft::Tensor& labels) {
  ft::Tensor loss, correct;
  {
    const ft::Tensor logits = (*model_)(images);
    loss = ft::cross_entropy(logits, labels, {.label_smoothing = options_.label_smoothing});
    correct = count_correct(logits, labels);
  }
  sgd_.zero_grad();
  if (options_.precision == "f16") {
    loss_scaler_.scale(loss).backward();
    if (!loss_scaler_.step(sgd_)) {
      progress_.say("step " + std::to_string(state_.step + 1) +
                    " is left out: a gradient overflowed, losses are now scaled by " +
                    std::to_string(loss_scaler_.factor()));
    }
  } else {
    loss.backward();
    sgd_.step();
  }
  schedule_.step();
  ++state_.step;

  // Both were computed in the step: nothing runs here.
  const double value = loss.item();
  const std::int64_t count = images.size(0);
  log_.write(state_.step, value);
  if (!std::isfinite(value)) {
    throw std::runtime_error("the loss of step " + std::to_string(state_.step) + " is " +
                             std::to_string(value) + "; a smaller --lr may help");
  }
  state_.loss_sum += value * static_cast<double>(count);
  state_.correct += correct.item();
  state_.images += count;
  step_seconds_ = std::chrono::duration<double>(Clock::now() - clock_).count();
  state_.seconds += step_seconds_;
}

void Run::show_progress(std::int64_t epoch) {
  const auto images = static_cast<double>(state_.images);
  progress_.show({.epoch = epoch,
                  .epochs = options_.epochs,
                  .step = loader_.state().position,
                  .steps = loader_.batches(),
                  .loss = state_.loss_sum / images,
                  .accuracy = state_.correct / images,
                  .images_per_second = images / state_.seconds,
                  .steps_left = last_step_ - state_.step,
                  .step_seconds = step_seconds_});
}

/// With --mirror-test by the sum of an image's logits and its mirror's.
double Run::evaluate() {
  const ft::NoGrad no_history;
  model_->eval();
  double correct = 0;
  ft::data::DataLoader::Iterator mirrored;
  if (mirrored_loader_ != nullptr) mirrored = mirrored_loader_->begin();
  for (const auto& [images, labels] : *test_loader_) {
    ft::Tensor logits = (*model_)(images);
    if (mirrored_loader_ != nullptr) {
      logits = logits + (*model_)(mirrored->images);
      ++mirrored;
    }
    correct += count_correct(logits, labels).item();
  }
  model_->train();
  return correct / static_cast<double>(test_loader_->images());
}

void Run::finish_epoch(std::int64_t epoch) {
  const double test_accuracy = evaluate();
  const auto images = static_cast<double>(state_.images);
  const nlohmann::ordered_json metrics = {{"epoch", epoch},
                                          {"precision", options_.precision},
                                          {"train_loss", state_.loss_sum / images},
                                          {"train_accuracy", state_.correct / images},
                                          {"test_accuracy", test_accuracy},
                                          {"seconds", state_.seconds},
                                          {"images_per_second", images / state_.seconds}};
  folder_.append_metrics(metrics);
  progress_.say_epoch(metrics, options_.epochs);

  const bool better = test_accuracy > state_.best_accuracy;
  state_ = {.step = state_.step,
            .best_accuracy = better ? test_accuracy : state_.best_accuracy,
            .best_epoch = better ? epoch : state_.best_epoch,
            .test_accuracy = test_accuracy};
  if (better) save(folder_.best());
  save(folder_.last());
}

void Run::end() {
  if (loader_.epoch() < options_.epochs) {
    save(folder_.last());
    progress_.say("stopped after step " + std::to_string(state_.step) + "; --resume goes on");
    return;
  }
  char text[120];
  std::snprintf(text, sizeof text, "test accuracy %.4f (best %.4f, in epoch %lld)", state_.test_accuracy,
                state_.best_accuracy, static_cast<long long>(state_.best_epoch));
  progress_.say(text);
}

void train(const Options& options) {
  examples::use_device(options.device);
  if (options.threads > 0) ft::set_threads(options.threads);
  if (!options.fuse.empty()) ft::set_fusion(options.fuse == "on");
  const ft::Autocast cast(examples::dtype_of(options.precision));
  ft::manual_seed(options.seed);
  Data data{.train = load(options, ft::data::Split::train), .test = load(options, ft::data::Split::test)};
  if (options.mirror_test) {
    data.mirrored_test = std::make_shared<const ft::data::Dataset>(ft::data::mirrored(*data.test));
  }
  Run(options, data).train();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a ResNet on CIFAR-10.", "resnet_cifar");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  const CLI::Range counts(std::int64_t{1}, std::int64_t{1'000'000'000});
  app.add_option("--data", options.data, "Folder of CIFAR-10's binary files, or the word synthetic")
      ->required();
  app.add_option("--out", options.out, "Folder for metrics.jsonl and checkpoints")->capture_default_str();
  app.add_option("--model", options.model, "resnet: of --depth; resnet9: short and wide")
      ->check(CLI::IsMember({"resnet", "resnet9"}))
      ->capture_default_str();
  app.add_option("--depth", options.depth, "6n + 2; of resnet only")->check(counts)->capture_default_str();
  app.add_option("--width", options.width, "Channels of the first stage; as published: 16, or 64 of resnet9")
      ->check(counts);
  app.add_option("--epochs", options.epochs)->check(counts)->capture_default_str();
  app.add_option("--batch", options.batch)->check(counts)->capture_default_str();
  app.add_option("--lr", options.lr, "Learning rate; of onecycle, the highest")->capture_default_str();
  app.add_option("--momentum", options.momentum)->capture_default_str();
  app.add_option("--weight-decay", options.weight_decay)->capture_default_str();
  app.add_flag("--nesterov", options.nesterov, "Nesterov's momentum");
  app.add_option("--label-smoothing", options.label_smoothing, "Share of the target that all classes get")
      ->capture_default_str();
  app.add_option("--cutout", options.cutout, "Side of a square that is blanked in each image")
      ->capture_default_str();
  app.add_flag("--mirror-test", options.mirror_test,
               "Judge each test image together with its mirror (twice the time to evaluate)");
  app.add_option("--schedule", options.schedule, "step: a tenth after each third of the run")
      ->check(CLI::IsMember({"onecycle", "step", "cosine"}))
      ->capture_default_str();
  app.add_option("--fuse", options.fuse, "on or off")->check(CLI::IsMember({"on", "off"}));
  examples::add_device(app, options.device);
  examples::add_precision(app, options.precision);
  app.add_option("--seed", options.seed, "Of weights, order and augmentation")
      ->check(examples::seeds)
      ->capture_default_str();
  app.add_option("--threads", options.threads, "All cores if not given")->check(CLI::Range(1, 1'024));
  app.add_flag("--resume", options.resume, "Go on from the last checkpoint in --out");
  app.add_flag("--retune", options.retune,
               "With --resume: choose kernels anew, where those of the run cannot run here")
      ->needs("--resume");
  app.add_option("--steps", options.steps, "Stop after this many steps of the run")->check(counts);
  app.add_option("--save-every", options.save_every,
                 "Steps between checkpoints, beside the one of each epoch")
      ->check(counts);
  app.add_option("--limit-train", options.limit_train, "Train on the first images only")->check(counts);
  app.add_option("--limit-test", options.limit_test, "Test on the first images only")->check(counts);
  app.add_option("--log-steps", options.log_steps, "Write each step's loss to this file, exact to the bit");
  return examples::run(app, argc, argv, [&] { train(options); });
}
