// A U-Net learns which pixels belong to which shape; segmentation.py is the same in PyTorch.
#include <cstdint>
#include <cstdio>
#include <fusetape/fusetape.hpp>
#include <random>

#include "command_line.hpp"
#include "shapes.hpp"

namespace ft = fusetape;

namespace {

constexpr std::int64_t batch = 16, size = 64, classes = 3;

void train(std::int64_t steps) {
  ft::manual_seed(1);
  std::mt19937 random(1);
  ft::nn::UNet model({.classes = classes, .width = 16, .depth = 3});
  ft::optim::AdamW adam(model.parameters(), {.lr = 2e-3, .weight_decay = 1e-4});
  ft::optim::CosineLR schedule(adam, {.total_steps = steps});
  for (std::int64_t step = 1; step <= steps; ++step) {
    const auto [images, labels] = examples::shapes(random, batch, size);
    const ft::Tensor loss = ft::cross_entropy(model(images), labels);
    adam.zero_grad();
    loss.backward();
    adam.step();
    schedule.step();
    if (step % 50 == 0 || step == steps)
      std::printf("step %lld  loss %.4f\n", static_cast<long long>(step), loss.item());
  }

  model.eval();
  const ft::NoGrad no_history;
  const auto [images, labels] = examples::shapes(random, 64, size);
  const ft::Tensor found = ft::argmax(model(images));
  for (const std::int64_t kind : {0, 1, 2}) {
    const ft::Tensor is_found = ft::equal(found, kind), is_there = ft::equal(labels, kind);
    const auto count = [](const ft::Tensor& mask) { return ft::sum(ft::cast(mask, ft::DType::f32)).item(); };
    const double both = count(ft::logical_and(is_found, is_there));
    const double either = count(ft::logical_or(is_found, is_there));
    constexpr const char* names[] = {"ground", "disc", "square"};
    std::printf("%s: intersection over union %.3f\n", names[kind], both / either);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::int64_t steps = 300;
  CLI::App app("Learns to tell shapes from the ground, pixel by pixel.", "segmentation");
  app.add_option("--steps", steps)->check(CLI::Range(1, 1'000'000))->capture_default_str();
  return examples::run(app, argc, argv, [&] { train(steps); });
}
