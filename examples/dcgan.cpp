// DCGAN (Radford et al. 2015): images of shapes from noise; dcgan.py is the same in PyTorch. Each optimizer's
// step() ends a slice, so the two take turns with two plans.
#include <cstdint>
#include <cstdio>
#include <fusetape/fusetape.hpp>
#include <random>

#include "command_line.hpp"
#include "shapes.hpp"

namespace ft = fusetape;
namespace nn = ft::nn;

namespace {

constexpr std::int64_t batch = 64, size = 32, latent = 64, width = 32;

void add_up(nn::Sequential& net, std::int64_t in, std::int64_t out) {
  net.emplace<nn::ConvTranspose2d>(
      {.in = in, .out = out, .kernel = 4, .stride = 2, .padding = 1, .bias = false});
  net.emplace<nn::BatchNorm2d>(out);
  net.emplace<nn::ReLU>();
}

void add_down(nn::Sequential& net, std::int64_t in, std::int64_t out) {
  net.emplace<nn::Conv2d>({.in = in, .out = out, .kernel = 4, .stride = 2, .padding = 1, .bias = false});
  net.emplace<nn::BatchNorm2d>(out);
  net.emplace<nn::LeakyReLU>(0.2);
}

void weights_as_published(nn::Module& model) {
  for (const auto& [name, p] : model.named_parameters())
    if (p.shape().rank() == 4) p.set_data(nn::normal(p.shape(), 0, 0.02));
}

void train(std::int64_t steps) {
  ft::manual_seed(1);
  std::mt19937 random(1);
  nn::Sequential generator, discriminator;
  generator.emplace<nn::ConvTranspose2d>({.in = latent, .out = 4 * width, .kernel = 4, .bias = false});
  generator.emplace<nn::BatchNorm2d>(4 * width);
  generator.emplace<nn::ReLU>();
  add_up(generator, 4 * width, 2 * width);
  add_up(generator, 2 * width, width);
  generator.emplace<nn::ConvTranspose2d>({.in = width, .out = 3, .kernel = 4, .stride = 2, .padding = 1});
  generator.emplace<nn::Tanh>();
  discriminator.emplace<nn::Conv2d>({.in = 3, .out = width, .kernel = 4, .stride = 2, .padding = 1});
  discriminator.emplace<nn::LeakyReLU>(0.2);
  add_down(discriminator, width, 2 * width);
  add_down(discriminator, 2 * width, 4 * width);
  discriminator.emplace<nn::Conv2d>({.in = 4 * width, .out = 1, .kernel = 4});
  discriminator.emplace<nn::Flatten>();
  weights_as_published(generator);
  weights_as_published(discriminator);
  ft::optim::Adam adam_g(generator.parameters(), {.lr = 2e-4, .beta1 = 0.5});
  ft::optim::Adam adam_d(discriminator.parameters(), {.lr = 2e-4, .beta1 = 0.5});
  const ft::Tensor real_label = ft::ones({batch, 1}), fake_label = ft::zeros({batch, 1});

  for (std::int64_t step = 1; step <= steps; ++step) {
    const ft::Tensor real = examples::shapes(random, batch, size).images;
    const ft::Tensor fake = generator(ft::randn({batch, 1, 1, latent}));
    const ft::Tensor loss_d = ft::bce_with_logits(discriminator(real), real_label) +
                              ft::bce_with_logits(discriminator(fake.detach()), fake_label);
    adam_d.zero_grad();
    loss_d.backward();
    adam_d.step();

    const ft::Tensor again = generator(ft::randn({batch, 1, 1, latent}));
    const ft::Tensor loss_g = ft::bce_with_logits(discriminator(again), real_label);
    adam_g.zero_grad();
    loss_g.backward();
    adam_g.step();
    if (step % 50 == 0 || step == steps) {
      std::printf("step %lld  discriminator %.4f  generator %.4f\n", static_cast<long long>(step),
                  loss_d.item(), loss_g.item());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::int64_t steps = 300;
  CLI::App app("Learns to draw shapes from noise.", "dcgan");
  app.add_option("--steps", steps)->check(CLI::Range(1, 1'000'000))->capture_default_str();
  return examples::run(app, argc, argv, [&] { train(steps); });
}
