// A classifier with warm-up, cosine, an average of the weights and mixup; classifier.py is the same in
// PyTorch.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fusetape/fusetape.hpp>
#include <random>
#include <string>

#include "command_line.hpp"

namespace ft = fusetape;
namespace nn = ft::nn;

namespace {

constexpr std::int64_t batch = 128, classes = 10;

ft::data::Dataset load(const std::string& folder, ft::data::Split split) {
  if (folder == "synthetic")
    return ft::data::synthetic_images({.count = 256, .seed = split == ft::data::Split::train ? 1u : 2u});
  return ft::data::cifar10(folder, split);
}

void train(const std::string& folder, std::int64_t epochs) {
  ft::manual_seed(1);
  ft::data::DataLoader loader(load(folder, ft::data::Split::train),
                              {.batch = batch, .crop = 4, .flip = true, .seed = 1});
  ft::data::DataLoader test(load(folder, ft::data::Split::test), ft::data::DataLoaderOptions::evaluation());
  nn::Sequential model{nn::ConvNorm({.in = 3, .out = 32}),
                       nn::ConvNorm({.in = 32, .out = 64, .pool = true}),
                       nn::ConvNorm({.in = 64, .out = 128, .pool = true}),
                       nn::ConvNorm({.in = 128, .out = 256, .pool = true}),
                       nn::GlobalAvgPool(),
                       nn::Linear(256, classes)};

  ft::optim::SGD sgd(model.parameters(), {.lr = 0.2,
                                          .momentum = 0.9,
                                          .weight_decay = 5e-4,
                                          .nesterov = true,
                                          .groups = {ft::optim::without_decay()},
                                          .average = {.decay = 0.99}});
  const std::int64_t steps = epochs * loader.batches(), warmup = std::max<std::int64_t>(steps / 10, 1);
  ft::optim::LinearWarmup schedule(sgd, ft::optim::CosineLR(sgd, {.total_steps = steps - warmup}),
                                   {.steps = warmup, .start_factor = 0.1});

  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform;
  for (std::int64_t epoch = 0; epoch < epochs; ++epoch) {
    double total = 0;
    for (const auto& [images, labels] : loader) {
      const double share =
          uniform(random);  // mixup: each image with the one at its mirror place in the batch
      const ft::Tensor targets = ft::one_hot(labels, classes);
      const ft::Tensor x = share * images + (1 - share) * ft::flip(images, 0);
      const ft::Tensor y = share * targets + (1 - share) * ft::flip(targets, 0);
      const ft::Tensor loss = ft::cross_entropy(model(x), y);
      sgd.zero_grad();
      loss.backward();
      sgd.step();
      schedule.step();
      total += loss.item();
    }
    std::printf("epoch %lld  loss %.4f\n", static_cast<long long>(epoch + 1),
                total / static_cast<double>(loader.batches()));
  }

  const ft::optim::AveragedWeights averaged(sgd);
  nn::recalibrate_norms(model, [&] {
    std::int64_t seen = 0;
    for (const auto& [images, labels] : loader) {
      model(images);
      if (++seen == 50) break;
    }
  });
  model.eval();
  const ft::NoGrad no_history;
  double correct = 0;
  for (const auto& [images, labels] : test)
    correct += ft::sum(ft::cast(ft::equal(ft::argmax(model(images)), labels), ft::DType::f32)).item();
  std::printf("test accuracy of the averaged weights %.4f\n", correct / static_cast<double>(test.images()));
}

}  // namespace

int main(int argc, char** argv) {
  std::string data;
  std::int64_t epochs = 5;
  CLI::App app("Trains a classifier with mixup and averaged weights.", "classifier");
  app.add_option("--data", data, "Folder of CIFAR-10's binary files, or the word synthetic")->required();
  app.add_option("--epochs", epochs)->check(CLI::Range(1, 1'000))->capture_default_str();
  return examples::run(app, argc, argv, [&] { train(data, epochs); });
}
