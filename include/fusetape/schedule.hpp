#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "fusetape/optim.hpp"

/// Learning-rate schedules.
namespace fusetape::optim {

struct Course;

/// A learning rate as a pure function of the step index; of one cycle the momentum, too. Constructing one
/// sets the optimizer's rate to at(index()); call step() after each optimizer step. The optimizer must
/// outlive it. Copies share the optimizer, not the index. Those that do not name their rates start from the
/// optimizer's initial_learning_rate(), so that one that is made after a load starts as it did in the run
/// that was saved. Parameter groups follow by their lr_factor. The formulas are PyTorch's (2.15), each per
/// step.
class Schedule {
 public:
  using Rate = std::function<double(std::int64_t)>;  ///< of the step index, from 0 on
  /// The same of the momentum; nullopt: as the optimizer was made with.
  using Momentum = std::function<std::optional<double>(std::int64_t)>;

  double at(std::int64_t step) const { return rate_(step); }
  /// Empty: it leaves the momentum alone.
  const Momentum& momentum() const { return momentum_; }
  /// Goes on to the next index and sets the optimizer's learning rate.
  void step();
  std::int64_t index() const { return index_; }
  void set_index(std::int64_t index, Location at = Location::current());

  /// "StepLR", …, "LinearWarmup, then CosineLR"; "custom" for one of your own.
  const std::string& kind() const { return kind_; }
  /// The options of its kind, and the rate that it starts from as "base"; those after a warm-up as "then.…",
  /// those of a sequence as "0.…", "1.…".
  const Settings& settings() const { return settings_; }
  /// Becomes the schedule of that kind with these settings, for checkpoints; index and rate stay until
  /// set_index().
  void set_settings(const std::string& kind, const Settings& settings, Location at = Location::current());

 protected:
  /// `kind` and `settings` go into checkpoints, and a load compares them. An empty `momentum`: it stays.
  Schedule(Optimizer& optimizer, Rate rate, std::string kind = "custom", Settings settings = {},
           Location location = Location::current(), Momentum momentum = nullptr);
  Schedule(Optimizer& optimizer, Course&& course, Location at);  // of this library's own

 private:
  void apply(Location at);

  Optimizer* optimizer_;
  Rate rate_;
  Momentum momentum_;
  std::string kind_;
  Settings settings_;
  std::int64_t index_ = 0;
};

/// The optimizer's initial rate times factor(step).
class LambdaLR : public Schedule {
 public:
  LambdaLR(Optimizer& optimizer, Rate factor, Location at = Location::current());
};

struct StepLROptions {
  std::int64_t step_size = 0;
  double gamma = 0.1;
};
/// The optimizer's initial rate, times gamma after each step_size steps.
class StepLR : public Schedule {
 public:
  StepLR(Optimizer& optimizer, StepLROptions options, Location at = Location::current());
};

struct MultiStepLROptions {
  std::vector<std::int64_t> milestones;  ///< rising
  double gamma = 0.1;
};
/// The initial rate, times gamma from each milestone on.
class MultiStepLR : public Schedule {
 public:
  MultiStepLR(Optimizer& optimizer, MultiStepLROptions options, Location at = Location::current());
};

struct ExponentialLROptions {
  double gamma = 0;  ///< > 0
};
/// The initial rate times gamma to the power of the step.
class ExponentialLR : public Schedule {
 public:
  ExponentialLR(Optimizer& optimizer, ExponentialLROptions options, Location at = Location::current());
};

struct PolynomialLROptions {
  std::int64_t total_steps = 0;
  double power = 1;  ///< > 0
};
/// The initial rate times (1 − step/total_steps)^power; 0 from there on.
class PolynomialLR : public Schedule {
 public:
  PolynomialLR(Optimizer& optimizer, PolynomialLROptions options, Location at = Location::current());
};

struct CosineLROptions {
  std::int64_t total_steps = 0;
  double min_lr = 0;
};
/// Half a cosine from the optimizer's initial rate down to min_lr.
class CosineLR : public Schedule {
 public:
  CosineLR(Optimizer& optimizer, CosineLROptions options, Location at = Location::current());
};

struct CosineRestartsLROptions {
  std::int64_t period = 0;  ///< steps of the first half cosine
  std::int64_t growth = 1;  ///< each period is so many times the one before
  double min_lr = 0;
};
/// Half a cosine from the initial rate down to min_lr, and again (SGDR; Loshchilov, Hutter, "SGDR: Stochastic
/// Gradient Descent with Warm Restarts", ICLR 2017).
class CosineRestartsLR : public Schedule {
 public:
  CosineRestartsLR(Optimizer& optimizer, CosineRestartsLROptions options, Location at = Location::current());
};

struct CyclicLROptions {
  double min_lr = 0, max_lr = 0;
  std::int64_t rise = 0;  ///< steps up
  std::int64_t fall = 0;  ///< steps down; 0: as many as up
  bool halving = false;   ///< each cycle reaches half as far up as the one before: PyTorch's "triangular2"
};
/// Up and down on two lines, again and again (Smith, "Cyclical Learning Rates for Training Neural Networks",
/// 2017). The momentum stays.
class CyclicLR : public Schedule {
 public:
  CyclicLR(Optimizer& optimizer, CyclicLROptions options, Location at = Location::current());
};

struct OneCycleLROptions {
  double max_lr = 0;
  std::int64_t total_steps = 0;
  double pct_start = 0.3;         ///< the part of the steps that rises
  double div_factor = 25;         ///< starts at max_lr / div_factor
  double final_div_factor = 1e4;  ///< ends at the start / final_div_factor
  double base_momentum = 0;       ///< > 0: where the rate is highest; PyTorch's default is 0.85
  double max_momentum = 0;  ///< where it is lowest; PyTorch's default is 0.95. Both 0: the momentum stays
};
/// Up and down on two cosines, the momentum the other way.
class OneCycleLR : public Schedule {
 public:
  OneCycleLR(Optimizer& optimizer, OneCycleLROptions options, Location at = Location::current());
};

struct LinearWarmupOptions {
  std::int64_t steps = 0;
  double start_factor = 0.1;  ///< of the first rate of `then`
};
/// A line from start_factor times the first rate of `then` up to it, in `steps` steps; after them `then`,
/// from its index 0.
class LinearWarmup : public Schedule {
 public:
  LinearWarmup(Optimizer& optimizer, Schedule then, LinearWarmupOptions options,
               Location at = Location::current());
};

/// A schedule, and for how many steps it holds.
struct SchedulePart {
  Schedule schedule;
  std::int64_t steps = 0;  ///< ≥ 1; of the last part it says nothing
};
/// One after the other, each from its index 0.
class SequentialLR : public Schedule {
 public:
  SequentialLR(Optimizer& optimizer, std::vector<SchedulePart> parts, Location at = Location::current());
};

struct ReduceOnPlateauOptions {
  bool maximize = false;  ///< the metric is an accuracy, not a loss
  double factor = 0.1;    ///< in (0, 1)
  std::int64_t patience =
      10;                   ///< metrics in a row that are no better, before the next of them lowers the rate
  double threshold = 1e-4;  ///< better: by more than threshold·|best|
  std::int64_t cooldown = 0;  ///< metrics after that which do not count
  double min_lr = 0;
};
/// Multiplies the learning rate by `factor` when a metric stops getting better. PyTorch compares with best·(1
/// − threshold), for which every equal negative metric is better than the one before: here the threshold is
/// of |best|.
class ReduceOnPlateau {
 public:
  ReduceOnPlateau(Optimizer& optimizer, ReduceOnPlateauOptions options = {},
                  Location at = Location::current());
  /// Of an epoch, say; returns whether the rate was lowered. A NaN is not better than anything.
  bool step(double metric);
  /// Best metric, counts: to be kept beside a checkpoint (its `extra`), which has the rate.
  Settings state() const;
  void set_state(const Settings& state, Location at = Location::current());

 private:
  Optimizer* optimizer_;
  ReduceOnPlateauOptions options_;
  double best_ = 0;
  std::int64_t seen_ = 0, bad_ = 0, cooling_ = 0;
};

}  // namespace fusetape::optim
