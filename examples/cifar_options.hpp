#pragma once
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "command_line.hpp"

/// The options of resnet_cifar, and the recipes that set many of them at once.
namespace examples {

struct CifarOptions {
  std::string data;
  std::string out = "runs/resnet_cifar";
  std::string model = "resnet";
  std::string activation = "relu";
  std::int64_t depth = 20;
  std::int64_t width = 0;  // 0: as published
  std::int64_t epochs = 10;
  std::int64_t batch = 128;
  std::string optimizer = "sgd";
  double lr = 0.4;
  double muon_lr = 0.17;  // of batches of 1024
  double momentum = 0.9;
  double weight_decay = 5e-4;
  bool nesterov = false;
  double norm_lr = 1;
  bool lookahead = false;
  double label_smoothing = 0;
  std::int64_t crop = 4;
  bool reflect = false;
  std::string flip = "random";
  std::int64_t cutout = 0;
  std::int64_t test_views = 1;
  std::int64_t test_every = 1;
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
  std::int64_t hold_out = 0;
  std::string log_steps;
};

/// What the options are where the command line says nothing else.
inline void use_recipe(CifarOptions& options, const std::string& name) {
  options = {};
  if (name == "paper") {  // He et al. 2015, section 4.2: 64,000 steps, here 164 epochs of 390
    options.epochs = 164, options.lr = 0.1, options.weight_decay = 1e-4, options.schedule = "paper";
    return;
  }
  // Jordan's airbench of 2024 as it is with Muon, with rates for the mean of the losses of 1024 images
  // instead of the sum of those of 2000.
  options.model = "airbench", options.batch = 1024, options.epochs = name == "ninety" ? 7 : 10;
  options.optimizer = "muon", options.lr = 0.85, options.momentum = 0.85, options.nesterov = true;
  options.weight_decay = 2.4e-3, options.norm_lr = 64, options.label_smoothing = 0.2;
  options.crop = 2, options.reflect = true, options.flip = "alternate";
  options.schedule = "linear", options.test_views = 6;
  if (name == "ninety") options.test_every = 4;
}

inline std::int64_t width_of(const CifarOptions& options) {
  if (options.width > 0) return options.width;
  return options.model == "resnet" ? 16 : 64;
}

/// What the numbers of a run depend on: a run is only resumed with the same. Precision is none of it: what a
/// checkpoint holds is f32 in either. Nor are --test-views and --test-every, which only judge.
inline nlohmann::json recipe_of(const CifarOptions& options, std::int64_t train, std::int64_t test) {
  nlohmann::json recipe = {
      {"model", options.model},       {"depth", options.depth},
      {"width", width_of(options)},   {"epochs", options.epochs},
      {"batch", options.batch},       {"lr", options.lr},
      {"momentum", options.momentum}, {"weight-decay", options.weight_decay},
      {"nesterov", options.nesterov}, {"label-smoothing", options.label_smoothing},
      {"cutout", options.cutout},     {"schedule", options.schedule},
      {"seed", options.seed},         {"data", options.data == "synthetic" ? "synthetic" : "CIFAR-10"},
      {"limit-train", train},         {"limit-test", test}};
  // What runs of earlier versions do not name was as it is by default.
  const CifarOptions usual;
  const auto note = [&](const char* flag, const auto& value, const auto& otherwise) {
    if (value != otherwise) recipe[flag] = value;
  };
  note("activation", options.activation, usual.activation);
  note("optimizer", options.optimizer, usual.optimizer);
  if (options.optimizer == "muon") recipe["muon-lr"] = options.muon_lr;
  note("norm-lr", options.norm_lr, usual.norm_lr);
  note("lookahead", options.lookahead, usual.lookahead);
  note("crop", options.crop, usual.crop);
  note("reflect", options.reflect, usual.reflect);
  note("flip", options.flip, usual.flip);
  note("hold-out", options.hold_out, usual.hold_out);
  return recipe;
}

inline const CLI::Range cifar_counts(std::int64_t{1}, std::int64_t{1'000'000'000});

inline void add_model_options(CLI::App& app, CifarOptions& options) {
  app.add_option("--data", options.data, "Folder of CIFAR-10's binary files, or the word synthetic")
      ->required();
  app.add_option("--out", options.out, "Folder for metrics.jsonl and checkpoints")->capture_default_str();
  app.add_option_function<std::string>(
         "--recipe", [&options](const std::string& name) { use_recipe(options, name); },
         "ninety, ninetyfour: fast to so many percent; paper: ResNet-20 as published; other options change "
         "it")
      ->check(CLI::IsMember({"ninety", "ninetyfour", "paper"}))
      ->trigger_on_parse();
  app.add_option("--model", options.model, "resnet: of --depth; resnet9, airbench: short and wide")
      ->check(CLI::IsMember({"resnet", "resnet9", "airbench"}))
      ->capture_default_str();
  app.add_option("--activation", options.activation, "Of resnet")
      ->check(CLI::IsMember({"relu", "gelu", "silu", "mish", "hardswish"}))
      ->capture_default_str();
  app.add_option("--depth", options.depth, "6n + 2; of resnet only")
      ->check(cifar_counts)
      ->capture_default_str();
  app.add_option("--width", options.width,
                 "Channels of the first stage; as published: 16, or 64 of resnet9 and airbench")
      ->check(cifar_counts);
}

inline void add_training_options(CLI::App& app, CifarOptions& options) {
  app.add_option("--epochs", options.epochs)->check(cifar_counts)->capture_default_str();
  app.add_option("--batch", options.batch)->check(cifar_counts)->capture_default_str();
  app.add_option("--optimizer", options.optimizer,
                 "muon: for the filters, with Nesterov's momentum of 0.6 and no decay, but kept to their "
                 "norm; SGD for the rest")
      ->check(CLI::IsMember({"sgd", "muon"}))
      ->capture_default_str();
  app.add_option("--muon-lr", options.muon_lr, "Of the filters with --optimizer muon")->capture_default_str();
  app.add_option("--lr", options.lr, "Learning rate; of onecycle and triangle, the highest")
      ->capture_default_str();
  app.add_option("--momentum", options.momentum)->capture_default_str();
  app.add_option("--weight-decay", options.weight_decay)->capture_default_str();
  app.add_flag("--nesterov,!--no-nesterov", options.nesterov, "Nesterov's momentum");
  app.add_option("--norm-lr", options.norm_lr,
                 "Times the learning rate for the biases of norms, whose decay is so much less")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--lookahead,!--no-lookahead", options.lookahead,
               "Pull the weights back to slow ones every five steps, more towards the end");
  app.add_option("--label-smoothing", options.label_smoothing, "Share of the target that all classes get")
      ->capture_default_str();
  app.add_option("--crop", options.crop, "Pixels by which images are shifted at most")
      ->check(CLI::Range(0, 31))
      ->capture_default_str();
  app.add_flag("--reflect,!--no-reflect", options.reflect, "Mirrored borders of shifted images, not black");
  app.add_option("--flip", options.flip, "Mirrored images: none, at random, each in every other epoch")
      ->check(CLI::IsMember({"none", "random", "alternate"}))
      ->capture_default_str();
  app.add_option("--cutout", options.cutout, "Side of a square that is blanked in each image")
      ->capture_default_str();
  app.add_option(
         "--test-views", options.test_views,
         "After the last epoch, judge a test image with its mirror image (2), and shifted by a pixel (6)")
      ->check(CLI::IsMember({1, 2, 6}))
      ->capture_default_str();
  app.add_option("--test-every", options.test_every, "Judge after every so many epochs, and after the last")
      ->check(cifar_counts)
      ->capture_default_str();
  app.add_option(
         "--schedule", options.schedule,
         "step: a tenth after each third of the run; paper: after a half and three quarters; triangle: "
         "a line up and one down")
      ->check(CLI::IsMember({"onecycle", "step", "cosine", "linear", "paper", "triangle"}))
      ->capture_default_str();
}

inline void add_run_options(CLI::App& app, CifarOptions& options) {
  app.add_option("--fuse", options.fuse, "on or off")->check(CLI::IsMember({"on", "off"}));
  add_device(app, options.device);
  add_precision(app, options.precision);
  app.add_option("--seed", options.seed, "Of weights, order and augmentation")
      ->check(seeds)
      ->capture_default_str();
  app.add_option("--threads", options.threads, "All cores if not given")->check(CLI::Range(1, 1'024));
  app.add_flag("--resume", options.resume, "Go on from the last checkpoint in --out");
  app.add_flag("--retune", options.retune,
               "With --resume: choose kernels anew, where those of the run cannot run here")
      ->needs("--resume");
  app.add_option("--steps", options.steps, "Stop after this many steps of the run")->check(cifar_counts);
  app.add_option("--save-every", options.save_every,
                 "Steps between checkpoints, beside the one of each epoch")
      ->check(cifar_counts);
  app.add_option("--limit-train", options.limit_train, "Train on the first images only")->check(cifar_counts);
  app.add_option("--limit-test", options.limit_test, "Test on the first images only")->check(cifar_counts);
  app.add_option(
         "--hold-out", options.hold_out,
         "Judge by so many of the training images, the last ones, which are then not trained on: to choose "
         "options by")
      ->excludes("--limit-test")
      ->check(cifar_counts);
  app.add_option("--log-steps", options.log_steps, "Write each step's loss to this file, exact to the bit");
}

inline void add_cifar_options(CLI::App& app, CifarOptions& options) {
  add_model_options(app, options);
  add_training_options(app, options);
  add_run_options(app, options);
}

}  // namespace examples
