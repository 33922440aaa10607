// A small multilayer perceptron learns which arm of three spirals a point is on.
#include <cmath>
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <iostream>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "mlp_network.hpp"

namespace ft = fusetape;

using examples::Mlp;

namespace {

constexpr std::int64_t arms = Mlp::arms;

struct Points {
  ft::Tensor positions, labels;
};

Points spirals(std::int64_t per_arm, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> noise(0.0f, 0.02f);
  std::vector<float> positions;
  std::vector<std::int64_t> labels;
  for (std::int64_t arm = 0; arm < arms; ++arm) {
    for (std::int64_t i = 0; i < per_arm; ++i) {
      const float radius = static_cast<float>(i + 1) / static_cast<float>(per_arm);
      const float turn = static_cast<float>(arm) / static_cast<float>(arms) + 0.6f * radius;
      const float angle = 2 * std::numbers::pi_v<float> * turn;
      positions.push_back(radius * std::cos(angle) + noise(random));
      positions.push_back(radius * std::sin(angle) + noise(random));
      labels.push_back(arm);
    }
  }
  const std::int64_t count = arms * per_arm;
  return {ft::from_vector(positions, {count, 2}), ft::from_vector(labels, {count})};
}

double accuracy(Mlp& model, const Points& points) {
  const ft::NoGrad no_history;
  const ft::Tensor right = ft::equal(ft::argmax(model(points.positions)), points.labels);
  return ft::mean(ft::cast(right, ft::DType::f32)).item();
}

void train(ft::DType precision) {
  const ft::Autocast cast(precision);
  ft::manual_seed(1);
  const Points training = spirals(200, 1), unseen = spirals(100, 2);
  Mlp model;
  ft::optim::Adam adam(model.parameters(), {.lr = 5e-3});

  for (int step = 1; step <= 500; ++step) {
    const ft::Tensor loss = ft::cross_entropy(model(training.positions), training.labels);
    adam.zero_grad();
    loss.backward();
    adam.step();
    if (step % 100 == 0) std::cout << "step " << step << "  loss " << loss.item() << '\n';
  }
  std::cout << "accuracy on unseen points " << accuracy(model, unseen) << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  std::string precision = "f32";
  CLI::App app("Learns which arm of three spirals a point is on.", "mlp");
  examples::add_precision(app, precision);
  return examples::run(app, argc, argv, [&] { train(examples::dtype_of(precision)); });
}
