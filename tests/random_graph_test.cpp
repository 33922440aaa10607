// Random programs: whatever is recorded, fused, unfused, eager, checkpointed and reference runs must agree.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Parameter;
using ft::Shape;
using ft::Tensor;
using fusetape::tests::Eager;
using fusetape::tests::Fusion;
using fusetape::tests::OnBackend;

namespace {

/// splitmix64: the same numbers everywhere.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(n));
  }
  std::int64_t pick(std::initializer_list<std::int64_t> from) {
    return from.begin()[below(std::ssize(from))];
  }
  bool chance(int percent) { return below(100) < percent; }

 private:
  std::uint64_t state_;
};

using Numbers = std::vector<double>;

/// One run of the program of a seed. Every decision comes from the dice, none from a value, so all modes do
/// the same.
class Program {
 public:
  Program(std::uint64_t seed, std::uint64_t data_seed, bool checkpointed)
      : dice_(seed), data_(data_seed), segments_(seed), checkpointed_(checkpointed) {}

  std::vector<Numbers> run() {
    batch_ = dice_.pick({1, 2, 3});
    height_ = dice_.pick({1, 3, 4, 7});
    width_ = dice_.pick({1, 3, 5});
    const std::int64_t channels = dice_.pick({1, 2, 3, 4, 17});
    make_parameters(channels);
    std::unique_ptr<ft::optim::Optimizer> optimizer = make_optimizer();
    const std::int64_t steps = dice_.pick({1, 1, 2, 3});
    for (std::int64_t step = 0; step < steps; ++step) {
      say("-- step");
      train_step(*optimizer, channels);
      if (dice_.chance(20)) {
        say("set_data");
        gamma_.set_data(grid({channels}, 1));
      }
    }
    for (const Parameter& parameter : all_) report(parameter.value());
    report(running_mean_.value()), report(running_var_.value());
    return std::move(results_);
  }

  const std::string& listing() const { return listing_; }

 private:
  /// Small multiples of 1/8: sums of their products are exact in f32, and their ReLUs have no doubtful kinks.
  Tensor grid(const Shape& shape, double centre = 0) {
    std::vector<float> data(static_cast<std::size_t>(shape.elements()));
    for (float& element : data)
      element = static_cast<float>(centre + static_cast<double>(data_.below(13) - 6) / 8);
    return ft::from_vector(data, shape);
  }

  void make_parameters(std::int64_t c) {
    weight_ = Parameter(grid({c, 3, 3, c}));
    pointwise_weight_ = Parameter(grid({c, 1, 1, c}));
    bias_ = Parameter(grid({c}));
    gamma_ = Parameter(grid({c}, 1));
    beta_ = Parameter(
        grid({c}, 1.0 / 16));  // never 0: a lone pixel normalises to β, and ReLU would have its kink there
    matrix_ = Parameter(grid({c, c}));
    running_mean_ = ft::Cell(ft::zeros({c}));
    running_var_ = ft::Cell(ft::ones({c}));
    all_ = {weight_, pointwise_weight_, bias_, gamma_, beta_, matrix_};
  }

  std::unique_ptr<ft::optim::Optimizer> make_optimizer() {
    if (dice_.chance(25)) {
      // With the usual ε a gradient that is 0 up to rounding would move its parameter by a whole ±lr.
      return std::make_unique<ft::optim::AdamW>(all_, ft::optim::AdamWOptions{.lr = 0.01, .eps = 1e-2});
    }
    return std::make_unique<ft::optim::SGD>(
        all_,
        ft::optim::SGDOptions{.lr = 0.01, .momentum = dice_.chance(50) ? 0.9 : 0.0, .weight_decay = 1e-3});
  }

  void train_step(ft::optim::Optimizer& optimizer, std::int64_t channels) {
    pool_ = {grid({batch_, height_, width_, channels}), grid({batch_, height_, width_, channels})};
    std::vector<Tensor> kept;
    const std::int64_t length = 3 + dice_.below(12);
    for (std::int64_t done = 0; done < length;) {
      const std::int64_t count = std::min(length - done, 1 + segments_.below(4));
      extend_in_segments(count, kept);
      done += count;
    }
    // The bias's own term: so that every program has something to differentiate.
    Tensor loss = ft::mean(pool_.back() * pool_.back()) + 0.125 * ft::mean(bias_ * bias_);
    if (dice_.chance(30)) loss = loss + ft::mean(take());
    pool_.clear();
    if (dice_.chance(20)) {
      say("item before backward");
      report(loss);
    }
    optimizer.zero_grad();
    const bool twice = dice_.chance(15);
    loss.backward({.retain_graph = twice});
    if (twice) {
      say("backward twice");
      loss.backward();
    }
    std::vector<Tensor> gradients;
    for (const Parameter& parameter : all_) {
      if (parameter.grad().defined() && dice_.chance(50)) gradients.push_back(parameter.grad());
    }
    optimizer.step();
    for (const Tensor& value : kept) report(value);
    for (const Tensor& gradient : gradients) report(gradient);
    report(loss);
  }

  /// So many values more, where the mode says so in checkpoints, one of them perhaps inside another.
  void extend_in_segments(std::int64_t count, std::vector<Tensor>& kept) {
    if (!checkpointed_ || segments_.chance(25)) return extend(count, kept);
    ft::checkpoint(
        [&](const Tensor&) {
          if (count > 1) extend_in_segments(count / 2, kept);
          extend(count > 1 ? count - count / 2 : count, kept);
          return pool_.back();
        },
        pool_.back());
  }

  void extend(std::int64_t count, std::vector<Tensor>& kept) {
    for (; count > 0; --count) {
      pool_.push_back(next_value());
      if (dice_.chance(15)) kept.push_back(pool_.back());
      if (dice_.chance(30) && pool_.size() > 3)
        pool_.erase(pool_.begin() + dice_.below(std::ssize(pool_) - 1));
      if (dice_.chance(5)) {
        say("materialize");
        ft::materialize();
      }
    }
  }

  const Tensor& take() { return pool_[static_cast<std::size_t>(dice_.below(std::ssize(pool_)))]; }

  /// Another tensor of the image shape, from those that there are.
  Tensor next_value() {
    const Tensor &a = take(), &b = take();
    switch (dice_.below(20)) {
      case 0:
        return say("add"), a + b;
      case 1:
        return say("mul"), a * b * 0.5;
      case 2:
        return say("sub, clamp"), ft::clamp(a - b, -2, 2);
      case 3:
        return say("relu"), ft::relu(a);
      case 4:
        return say("leaky_relu, scalars"), ft::leaky_relu(a * 0.5 + 0.25);
      case 5:
        return say("sigmoid"), ft::sigmoid(a);
      case 6:
        return say("tanh of a broadcast sum"), ft::tanh(a + bias_);
      case 7:
        return say("gelu"), ft::gelu(a);
      case 8:
        return say("exp of −|x|, where"), ft::where(ft::less(a, b), ft::exp(-ft::abs(a)), b);
      case 9:
        return say("conv+bias+relu"), scaled(ft::relu(ft::conv2d(a, weight_, bias_, {.padding = {1, 1}})));
      case 10:
        return say("conv+bias"), scaled(ft::conv2d(a, pointwise_weight_, bias_));
      case 11:
        return say("conv"), scaled(ft::conv2d(a, weight_, {.padding = {1, 1}}));
      case 12:
        return say("bn+relu"), ft::relu(norm(a));
      case 13:
        return say("bn+add+relu"), ft::relu(norm(a) + b);
      case 14:
        return say("bn+bn+add+relu"), ft::relu(norm(a) + norm(b));
      case 15:
        return say("matmul"), scaled(ft::matmul(a.reshape({-1, a.size(3)}), matrix_)).reshape(a.shape());
      case 16:
        return say("max_pool"), ft::max_pool2d(a, {.window = {3, 3}, .stride = {1, 1}, .padding = {1, 1}});
      case 17:
        return say("concat, slice"), ft::slice(ft::concat({a, b}, 3), 3, 1, 1 + a.size(3));
      case 18:
        return say("mean, broadcast"), a - ft::mean(b, {1, 2}, {.keep_dims = true});
      default:
        return say("softmax, log_softmax"), ft::softmax(a) + 0.25 * ft::log_softmax(b);
    }
  }

  Tensor scaled(const Tensor& x) { return x * 0.25; }

  Tensor norm(const Tensor& x) {
    const ft::BatchNormOptions options{.eps = 0.25};  // tiny batches: their variances may vanish
    if (dice_.chance(20))
      return ft::batch_norm_inference(x, gamma_, beta_, running_mean_.value(), running_var_.value(), options);
    const ft::BatchNormResult result =
        ft::batch_norm(x, gamma_, beta_, running_mean_.value(), running_var_.value(), options);
    running_mean_.set_data(result.running_mean);
    running_var_.set_data(result.running_var);
    return result.y;
  }

  void report(const Tensor& value) { results_.push_back(value.to_vector<double>()); }
  void say(const char* what) { listing_ += std::string(what) + "; "; }

  Dice dice_, data_, segments_;
  bool checkpointed_;
  std::int64_t batch_ = 1, height_ = 1, width_ = 1;
  Parameter weight_, pointwise_weight_, bias_, gamma_, beta_, matrix_;
  ft::Cell running_mean_, running_var_;
  std::vector<Parameter> all_;
  std::vector<Tensor> pool_;
  std::vector<Numbers> results_;
  std::string listing_;
};

/// The largest difference over the largest number (0.1 at least: a gradient that vanishes is a difference of
/// larger numbers), over all results; infinite where they differ in kind.
double difference(const std::vector<Numbers>& a, const std::vector<Numbers>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size()) return HUGE_VAL;
    double largest = 0.1, apart = 0;
    for (std::size_t j = 0; j < a[i].size(); ++j) {
      if (std::isnan(a[i][j]) != std::isnan(b[i][j])) return HUGE_VAL;
      if (std::isnan(a[i][j])) continue;
      largest = std::max(largest, std::abs(b[i][j]));
      apart = std::max(apart, std::abs(a[i][j] - b[i][j]));
    }
    worst = std::max(worst, apart / largest);
  }
  return worst;
}

struct Mode {
  const char* name;
  const char* backend;
  bool fusion, eager, checkpointed;
};

std::vector<Numbers> run(const Mode& mode, std::uint64_t seed, std::uint64_t data_seed,
                         std::string* listing = nullptr) {
  const OnBackend backend(mode.backend);
  const Fusion fusion(mode.fusion);
  const Eager eager(mode.eager);
  Program program(seed, data_seed, mode.checkpointed);
  std::vector<Numbers> results = program.run();
  if (listing != nullptr) *listing = program.listing();
  return results;
}

constexpr Mode unfused{"unfused", "cpu", false, false, false};
constexpr Mode others[] = {
    {"fused", "cpu", true, false, false},           {"eager", "cpu", true, true, false},
    {"checkpointed", "cpu", true, false, true},     {"checkpointed, eager", "cpu", true, true, true},
    {"reference", "reference", true, false, false}, {"reference, unfused", "reference", false, false, false}};

/// Against the reference, a normalised value may lie on either side of a ReLU's kink. Other data for the same
/// program has no such value in the same place: a program only fails if it fails on both.
bool agrees(const Mode& mode, std::uint64_t seed, double tolerance, double& worst) {
  for (const std::uint64_t data_seed : {seed, seed + 1'000'003}) {
    worst = difference(run(mode, seed, data_seed), run(unfused, seed, data_seed));
    if (worst <= tolerance) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("random programs: fused, unfused, eager, checkpointed and reference agree") {
  const char* set = std::getenv("FUSETAPE_SEEDS");
  const std::uint64_t seeds = set != nullptr ? std::strtoull(set, nullptr, 10) : 300;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    for (const Mode& mode : others) {
      const double tolerance = mode.backend == std::string_view("cpu") ? 2e-5 : 1e-3;
      double worst = 0;
      const bool agree = agrees(mode, seed, tolerance, worst);
      std::string listing;
      if (!agree) run(unfused, seed, seed, &listing);
      CHECK_MESSAGE(agree, "seed " << seed << ", " << std::string(mode.name) << " is " << worst
                                   << " away from unfused: " << listing);
    }
  }
}
