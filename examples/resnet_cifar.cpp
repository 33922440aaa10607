// Trains a network on CIFAR-10, or on generated images, and keeps a record of it in a folder. A run that was
// stopped or killed goes on with --resume, to the bit where CPU, --threads, --fuse and --precision are the
// same. The recipes ninety and ninetyfour are for a good model in little time.
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

#include "cifar_optimizers.hpp"
#include "cifar_options.hpp"
#include "cifar_parts.hpp"
#include "command_line.hpp"
#include "progress.hpp"
#include "run_folder.hpp"

namespace ft = fusetape;

namespace {

using examples::CifarOptions;
using Clock = std::chrono::steady_clock;

const Clock::time_point process_start = Clock::now();

class Run {
 public:
  Run(const CifarOptions& options, const examples::CifarData& data)
      : options_(options),
        recipe_(examples::recipe_of(options, data.train->count(), data.test->count())),
        model_(examples::make_model(options, data)),
        loader_(data.train, {.batch = options.batch,
                             .crop = options.crop,
                             .reflect = options.reflect,
                             .flip = options.flip != "none",
                             .alternate = options.flip == "alternate",
                             .cutout = options.cutout,
                             .seed = options.seed}),
        test_loader_(data.test, ft::data::DataLoaderOptions::evaluation()),
        optimizers_(options, *model_, options.epochs * loader_.batches()),
        last_step_(options.epochs * loader_.batches()),
        folder_(options.out, options.resume) {
    if (options.steps > 0) last_step_ = std::min(last_step_, options.steps);
  }

  void train() {
    begin();
    while (loader_.epoch() < options_.epochs && !stopped()) {
      const std::int64_t epoch = loader_.epoch() + 1;
      // Only this bias asks for the next convolution's input gradient, and soon it has found its place.
      if (options_.model == "airbench") model_->parameter("whitening.bias").set_requires_grad(epoch <= 3);
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
  /// By --steps, within an epoch: one whose batches are all done is finished first.
  bool stopped() const { return state_.step >= last_step_ && loader_.state().position < loader_.batches(); }

  void begin();
  void train_step(const ft::Tensor& images, const ft::Tensor& labels);
  void show_progress(std::int64_t epoch);
  double evaluate(std::int64_t views);
  void finish_epoch(std::int64_t epoch);
  void end();

  ft::io::Training parts() {
    ft::io::Training training{.model = model_.get(), .loader = &loader_, .loss_scaler = &loss_scaler_};
    optimizers_.add_to(training);
    return training;
  }
  void save(const std::string& path) {
    folder_.save(path, parts(), recipe_, state_);
    saved_kernels_ = ft::kernel_choices().size();
  }
  /// The last steps depend on choices of kernels that no checkpoint holds.
  bool took_new_kernels() const { return ft::kernel_choices().size() != saved_kernels_; }

  const CifarOptions& options_;
  nlohmann::json recipe_;
  std::unique_ptr<ft::nn::Module> model_;
  ft::data::DataLoader loader_;
  ft::data::DataLoader test_loader_;
  examples::CifarOptimizers optimizers_;
  ft::optim::LossScaler loss_scaler_;  ///< for f16
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
  const std::string depth = options_.model == "resnet" ? "-" + std::to_string(options_.depth) : "";
  progress_.say(options_.model + depth + width + ", " + std::to_string(model_->parameter_count()) +
                " parameters, " + std::to_string(loader_.images()) + " images to train on, " +
                std::to_string(ft::threads()) + " threads, " + options_.precision + ", fusion " +
                (ft::fusion_enabled() ? "on" : "off"));
  if (options_.hold_out > 0) progress_.say("judged by held-out training images: no test image is seen");
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
    correct = examples::count_correct(logits, labels);
  }
  optimizers_.zero_grad();
  (options_.precision == "f16" ? loss_scaler_.scale(loss) : loss).backward();
  const auto all_steps = static_cast<double>(options_.epochs * loader_.batches());
  if (!optimizers_.step(loss_scaler_, static_cast<double>(state_.step + 1) / all_steps)) {
    progress_.say("step " + std::to_string(state_.step + 1) +
                  " is left out: a gradient overflowed, losses are now scaled by " +
                  std::to_string(loss_scaler_.factor()));
  }
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

double Run::evaluate(std::int64_t views) {
  const ft::NoGrad no_history;
  model_->eval();
  double correct = 0;
  for (const auto& [images, labels] : test_loader_)
    correct += examples::count_correct(examples::logits_of_views(*model_, images, views), labels).item();
  model_->train();
  return correct / static_cast<double>(test_loader_.images());
}

void Run::finish_epoch(std::int64_t epoch) {
  const std::int64_t views = epoch == options_.epochs ? options_.test_views : 1;
  const bool is_tested = epoch == options_.epochs || epoch % options_.test_every == 0;
  const double test_accuracy = is_tested ? evaluate(views) : state_.test_accuracy;
  const std::chrono::duration<double> elapsed = Clock::now() - process_start;
  const auto images = static_cast<double>(state_.images);
  nlohmann::ordered_json metrics = {{"epoch", epoch},
                                    {"precision", options_.precision},
                                    {"train_loss", state_.loss_sum / images},
                                    {"train_accuracy", state_.correct / images},
                                    {"elapsed_seconds", elapsed.count()},
                                    {"seconds", state_.seconds},
                                    {"images_per_second", images / state_.seconds}};
  if (is_tested) metrics.update({{"test_accuracy", test_accuracy}, {"test_views", views}});
  folder_.append_metrics(metrics);
  progress_.say_epoch(metrics, options_.epochs);

  const bool better = is_tested && test_accuracy > state_.best_accuracy;
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

void train(const CifarOptions& options) {
  examples::use_device(options.device);
  if (options.threads > 0) ft::set_threads(options.threads);
  if (!options.fuse.empty()) ft::set_fusion(options.fuse == "on");
  const ft::Autocast cast(examples::dtype_of(options.precision));
  ft::manual_seed(options.seed);
  Run(options, examples::load_cifar(options)).train();
}

}  // namespace

int main(int argc, char** argv) {
  CifarOptions options;
  CLI::App app("Trains a network on CIFAR-10.", "resnet_cifar");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  examples::add_cifar_options(app, options);
  return examples::run(app, argc, argv, [&] { train(options); });
}
