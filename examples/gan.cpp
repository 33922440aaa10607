// Two models, two optimizers: a generator learns to place points on a ring of eight spots, against a
// discriminator that tells them from real ones. Each optimizer's step() ends a slice, so the two alternate
// between two plans.
#include <cmath>
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <iomanip>
#include <iostream>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "gan_training.hpp"

namespace ft = fusetape;

namespace {

constexpr std::int64_t batch = 128;
constexpr int spots = 8;

ft::Tensor real_points(std::mt19937& random) {
  std::uniform_int_distribution<int> which(0, spots - 1);
  std::normal_distribution<float> noise(0.0f, 0.05f);
  std::vector<float> points;
  for (std::int64_t i = 0; i < batch; ++i) {
    const float angle = 2 * std::numbers::pi_v<float> * static_cast<float>(which(random)) / spots;
    points.push_back(std::cos(angle) + noise(random));
    points.push_back(std::sin(angle) + noise(random));
  }
  return ft::from_vector(points, {batch, 2});
}

/// How far the points are from the nearest spot, on average: about 0.06 for real ones.
double mean_distance(const std::vector<float>& points) {
  double sum = 0;
  for (std::size_t i = 0; i + 1 < points.size(); i += 2) {
    const double step = 2 * std::numbers::pi / spots;
    const double angle = step * std::round(std::atan2(points[i + 1], points[i]) / step);
    sum += std::hypot(points[i] - std::cos(angle), points[i + 1] - std::sin(angle));
  }
  return sum / (static_cast<double>(points.size()) / 2);
}

void train(ft::DType precision) {
  const ft::Autocast cast(precision);
  ft::manual_seed(1);
  std::mt19937 random(1);
  examples::Gan gan(batch);

  std::cout << std::fixed << std::setprecision(4);
  for (int step = 1; step <= 3'000; ++step) {
    const ft::Tensor discriminator_loss = gan.train_discriminator(real_points(random));
    const ft::Tensor generator_loss = gan.train_generator();
    if (step % 500 == 0) {
      std::cout << "step " << step << "  discriminator " << discriminator_loss.item() << "  generator "
                << generator_loss.item() << '\n';
    }
  }
  const ft::NoGrad no_history;
  const std::vector<float> points = gan.generate(1'000).to_vector();
  std::cout << "generated points lie " << mean_distance(points) << " from the nearest spot\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::string precision = "f32";
  CLI::App app("Learns to place points on a ring of eight spots.", "gan");
  examples::add_precision(app, precision);
  return examples::run(app, argc, argv, [&] { train(examples::dtype_of(precision)); });
}
