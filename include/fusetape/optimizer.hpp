#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fusetape/tensor.hpp"

namespace fusetape::core {
struct OpDef;
}  // namespace fusetape::core

/// What all optimizers are: groups of parameters, averages, and the step.
namespace fusetape::optim {

/// Numbers that a part of a run was made with, by name: a checkpoint holds them, and a load compares them.
using Settings = std::map<std::string, double>;

/// What is different for some of an optimizer's parameters; what is not given is as for all.
///
///     ft::optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 5e-4,
///                                             .groups = {ft::optim::without_decay()}});
struct ParameterGroup {
  /// The group takes the parameters that this is true for and that no group before it has taken.
  std::function<bool(const Parameter&)> where;
  double lr_factor = 1;                ///< ≥ 0: times learning_rate(), whatever a schedule makes of that
  std::optional<double> weight_decay;  ///< ≥ 0
  std::optional<double> momentum;      ///< in [0, 1): of Adam, β₁
};
/// No weight decay for parameters of fewer than two axes: biases, and the scale and shift of norms.
ParameterGroup without_decay();

/// An average of each parameter over the steps, which the kernel of the update keeps beside it: of
/// exponentially falling weights (`decay` > 0) or of equal ones (SWA; Izmailov et al., "Averaging Weights
/// Leads to Wider Optima and Better Generalization", 2018). The first value that counts is copied. Running
/// statistics of norms are no parameters, and are not averaged. The parameters are f32 or f64.
struct WeightAverage {
  double decay = 0;        ///< in (0, 1): a ← decay·a + (1 − decay)·p; 0: not so
  bool equal = false;      ///< or a ← a + (p − a)/n, of n values
  std::int64_t start = 0;  ///< ≥ 0: updates of a parameter before the first that counts
  std::int64_t every = 1;  ///< ≥ 1: from then on each so many count
  bool present() const { return decay > 0 || equal; }
};

/// Lookahead (Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back", 2019), in the
/// kernel of the update: slow weights s, which start as the parameter p; after each `every` updates of it,
/// s ← s + share·(p − s) and p ← s. The parameters are f32 or f64.
struct Lookahead {
  std::int64_t every = 0;  ///< ≥ 0; 0: not so
  double share = 0.5;      ///< in (0, 1]
};

/// What step() does where the gradients' joint 2-norm is a NaN or an infinity.
enum class NonFinite : std::uint8_t {
  update,  ///< goes on: parameters become NaN where their gradients are
  skip,    ///< leaves the step out
  report,  ///< leaves it out and throws an Error that names the first such parameter
};

/// Updates parameters from their gradients. Its state exists from construction, so that every step is the
/// same plan, and its hyper-parameters are run-time inputs, so that changing one makes no new plan.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Records the update of every parameter that has a gradient, then plans and runs everything pending: the
  /// end of a step. Where that run fails, it throws, and parameters, state, running statistics, update counts
  /// and the gradients of earlier runs are as before it. Returns whether parameters were updated: false where
  /// none has a gradient, and where NonFinite::skip left the step out. Parameters, state, update counts,
  /// running statistics and all other cells that the pending ops rebound are then as before those, gradients
  /// stay for zero_grad(). (What was read before, such as the loss, has been run with all before it, and
  /// stays: read it after the step.) To know, the host waits for the gradients: other than with
  /// NonFinite::update a step is two plans.
  bool step(Location at = Location::current());
  /// Forgets all gradients.
  void zero_grad();

  /// The joint 2-norm that step() scales the gradients down to where theirs is larger; 0: it leaves them.
  /// `p.grad()` stays as it was.
  double max_grad_norm() const { return max_grad_norm_; }
  /// The joint 2-norm of the last step's gradients before they were scaled: a scalar, f32 (f64 with f64
  /// parameters). Undefined before the first step, without a max_grad_norm, and where there was no gradient.
  const Tensor& last_grad_norm() const { return last_grad_norm_; }

  /// What each element of the gradients is limited to inside step(), ±, behind max_grad_norm; 0: nothing.
  double max_grad_value() const { return max_grad_value_; }
  /// How many steps NonFinite::skip has left out since construction.
  std::int64_t skipped_steps() const { return skipped_steps_; }

  double learning_rate() const { return learning_rate_; }
  /// Of the next steps, and what schedules that are made from now on start from.
  void set_learning_rate(double rate, Location at = Location::current());
  /// What schedules start from: the rate of the constructor or of set_learning_rate(). No schedule changes
  /// it.
  double initial_learning_rate() const { return initial_learning_rate_; }
  /// Both, for schedules and checkpoints.
  void set_learning_rates(double initial, double now, Location at = Location::current());

  /// The momentum of the next steps (Adam: β₁), in [0, 1), for schedules; a group with one of its own keeps
  /// that. Throws where the optimizer was made without one. Settings stay as the constructor was given them,
  /// and no checkpoint has it: a schedule sets it again, and what you set yourself you set again after a
  /// load.
  void set_momentum(double momentum, Location at = Location::current());
  /// As the constructor was given it.
  void reset_momentum();

  const std::vector<Parameter>& parameters() const { return parameters_; }

  /// Whether averages (WeightAverage) or slow weights (Lookahead) of the parameters are kept.
  bool keeps_average() const { return average_.present() || lookahead_.every > 0; }
  /// Lookahead's share from the next step on, in (0, 1], for schedules of your own; no checkpoint has it.
  void set_lookahead_share(double share, Location at = Location::current());
  /// Exchanges each parameter with its average, or back; costs nothing. A parameter of which no value has
  /// counted yet stays. While they are exchanged, step() throws. See AveragedWeights.
  void exchange_average(Location at = Location::current());
  /// While they are, no checkpoint with this optimizer is saved or loaded: its halves would change places.
  bool is_exchanged() const { return is_exchanged_; }

  /// For checkpoints: "velocity.conv1.weight", ….
  const std::vector<std::pair<std::string, Cell>>& named_state() const { return named_state_; }
  /// How often each parameter was updated, in the order of parameters().
  const std::vector<std::int64_t>& updates() const {
    take_back_updates();
    return updates_;
  }
  void set_updates(std::vector<std::int64_t> updates, Location at = Location::current());
  /// What the constructor was given, for checkpoints: "lr", "max_grad_norm" and the optimizer's own.
  Settings settings() const;
  /// Takes over all of them; throws, and changes nothing, where the constructor would refuse one. Learning
  /// rates stay.
  void set_settings(const Settings& settings, Location at = Location::current());
  /// "SGD", "Adam", "AdamW", "NAdam", "RMSprop", "Muon".
  const std::string& name() const { return name_; }

 protected:
  /// max_grad_norm ≥ 0; 0: no clipping.
  Optimizer(std::string name, std::vector<Parameter> parameters, double learning_rate, double max_grad_norm,
            Location at);
  /// For a constructor: the groups; and when it has made its own state, the average, which record_update()
  /// keeps.
  void set_groups(const std::vector<ParameterGroup>& groups, Location at);
  void set_average(const WeightAverage& average, const Lookahead& lookahead, Location at);
  /// And how gradients are guarded: max_grad_value ≥ 0.
  void set_guards(double max_grad_value, NonFinite non_finite, Location at);
  /// 0 is the group of those that no other has taken.
  std::size_t groups() const { return groups_.size(); }
  std::size_t group_of(std::size_t index) const { return group_of_[index]; }
  /// learning_rate() times the group's factor; what the group has of its own, or `otherwise`.
  double learning_rate_of(std::size_t group) const { return learning_rate_ * groups_[group].lr_factor; }
  double weight_decay_of(std::size_t group, double otherwise) const {
    return groups_[group].weight_decay.value_or(otherwise);
  }
  /// The same of the momentum, of which set_momentum() may have changed what all were `given`.
  double momentum_of(std::size_t group, double given) const {
    return groups_[group].momentum.value_or(momentum_.value_or(given));
  }
  /// Whether a group has a momentum > 0 of its own.
  bool a_group_has_momentum() const;
  virtual bool takes_momentum() const { return false; }
  /// Whether update() is record_update(), which limits each element's gradient itself.
  virtual bool limits_gradients() const { return false; }

  /// Makes this step's scalars; the parameters of a group share them.
  virtual void begin_step(Location at) = 0;
  /// Records the update of parameter `index` and says which cells get which new values.
  using Bindings = std::vector<std::pair<Cell, Tensor>>;
  virtual void update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) = 0;
  /// Drops the scalars.
  virtual void end_step() = 0;
  /// The settings beside "lr" and "max_grad_norm", and their way back.
  virtual Settings own_settings() const { return {}; }
  virtual void set_own_settings(const Settings&, Location) {}
  /// A zero state per parameter.
  std::vector<Cell> make_state(const std::string& name, Location at);
  /// What update() does where `op` is one of the library's updates: its state is all that there is, in the
  /// order in which it was made, its scalars are these. The average is taken care of.
  void record_update(const core::OpDef& op, int variant, std::span<const Tensor> scalars, std::size_t index,
                     const Tensor& gradient, Bindings& bindings, Location at);

 private:
  std::string name_;
  std::vector<Parameter> parameters_;
  std::vector<std::pair<std::string, Cell>> named_state_;
  mutable std::vector<std::int64_t> updates_;
  double given_learning_rate_, initial_learning_rate_, learning_rate_, max_grad_norm_;
  double max_grad_value_ = 0;
  NonFinite non_finite_ = NonFinite::update;
  std::int64_t skipped_steps_ = 0;
  Tensor last_grad_norm_;
  std::optional<double> momentum_;
  std::vector<ParameterGroup> groups_;
  std::vector<std::size_t> group_of_;

  WeightAverage average_;
  std::vector<Cell> averages_;
  Lookahead lookahead_;
  double given_share_ = 0;  ///< lookahead's, as the constructor was given it
  bool is_exchanged_ = false;
  std::vector<std::size_t> exchanged_;  ///< those that are, or were
  /// What is kept of a parameter in this step: the last scalars of an update.
  struct Kept {
    double keep, marks;
    Tensor limit_scalar, keep_scalar, marks_scalar;
  };
  std::vector<Kept> kept_;
  std::int64_t counted(std::int64_t updates) const;
  double keep_of(std::int64_t updates) const;
  const Kept& kept(std::size_t index, Location at);
  [[noreturn]] void report_non_finite(Location at) const;
  std::vector<ParameterGroup> groups_of(const Settings& settings, Location at) const;
  Settings kept_settings() const;
  Lookahead lookahead_of(const Settings& settings, Location at) const;
  WeightAverage average_of(const Settings& settings, Location at) const;

  /// The lists of a step; kept for their memory.
  struct Work {
    std::vector<std::size_t> updated;
    std::vector<Tensor> gradients;
    Bindings bindings;
    /// No handle may stay to keep an old version alive.
    struct Handles {
      Work& work;
      ~Handles() {
        work.gradients.clear();
        work.bindings.clear();
      }
    };
  };
  Work work_;

  /// A step whose run a device may still find fault with: such a run updates nothing.
  struct QueuedStep {
    void* device = nullptr;
    std::uint64_t run = 0;  ///< 0: there is none
    std::vector<std::size_t> updated;
  };
  void take_back_updates() const;
  mutable QueuedStep queued_[2];
  std::size_t next_queued_ = 0;
};

/// While it lives, an optimizer's parameters are their averages: for evaluation, and to save the model.
/// Throws an Error where none are kept. The optimizer must outlive it.
///
///     {
///       const ft::optim::AveragedWeights averaged(sgd);
///       accuracy = evaluate(model);
///       ft::io::save_checkpoint("averaged.safetensors", {.model = &model});
///     }
class AveragedWeights {
 public:
  explicit AveragedWeights(Optimizer& optimizer, Location at = Location::current()) : optimizer_(optimizer) {
    optimizer_.exchange_average(at);
  }
  ~AveragedWeights() { optimizer_.exchange_average(); }
  AveragedWeights(const AveragedWeights&) = delete;
  AveragedWeights& operator=(const AveragedWeights&) = delete;

 private:
  Optimizer& optimizer_;
};

}  // namespace fusetape::optim
