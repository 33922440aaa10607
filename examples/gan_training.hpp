#pragma once
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <vector>

/// A generator of points in the plane against a discriminator. Each optimizer's step() ends a slice, so the
/// two take turns with two plans.
namespace examples {

namespace ft = fusetape;

class Gan {
 public:
  static constexpr std::int64_t latent = 8, width = 64;

  explicit Gan(std::int64_t batch)
      : batch_(batch), real_label_(ft::ones({batch, 1})), fake_label_(ft::zeros({batch, 1})) {}

  /// So many points.
  ft::Tensor generate(std::int64_t count) { return generator_(ft::randn({count, latent})); }

  /// Returns the loss.
  ft::Tensor train_discriminator(const ft::Tensor& real_points) {
    // Detached: the discriminator's loss is no business of the generator.
    const ft::Tensor fake = generate(batch_).detach();
    const ft::Tensor of_real = ft::bce_with_logits(discriminator_(real_points), real_label_);
    const ft::Tensor of_fake = ft::bce_with_logits(discriminator_(fake), fake_label_);
    const ft::Tensor loss = of_real + of_fake;
    discriminator_steps_.zero_grad();
    loss.backward();
    discriminator_steps_.step();
    return loss;
  }
  ft::Tensor train_generator() {
    const ft::Tensor loss = ft::bce_with_logits(discriminator_(generate(batch_)), real_label_);
    generator_steps_.zero_grad();
    loss.backward();
    generator_steps_.step();
    return loss;
  }

  std::vector<ft::Parameter> generator_parameters() const { return generator_.parameters(); }
  std::vector<ft::Parameter> discriminator_parameters() const { return discriminator_.parameters(); }

 private:
  /// Two hidden layers, leaky ReLU between.
  struct Net : ft::nn::Module {
    ft::nn::Linear first, second, third;

    Net(std::int64_t in, std::int64_t out) : first(in, width), second(width, width), third(width, out) {
      register_child("first", first);
      register_child("second", second);
      register_child("third", third);
    }
    ft::Tensor forward(const ft::Tensor& x) override {
      return third(ft::leaky_relu(second(ft::leaky_relu(first(x), 0.2)), 0.2));
    }
  };

  static constexpr ft::optim::AdamOptions adam_options{.lr = 2e-3, .beta1 = 0.5};

  std::int64_t batch_;
  Net generator_{latent, 2}, discriminator_{2, 1};
  ft::optim::Adam generator_steps_{generator_.parameters(), adam_options};
  ft::optim::Adam discriminator_steps_{discriminator_.parameters(), adam_options};
  ft::Tensor real_label_, fake_label_;
};

}  // namespace examples
