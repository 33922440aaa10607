#include "tests/random/random_program.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

namespace fusetape::tests {

// ---- ingredients ----

Ingredients::Ingredients(const Recipe& recipe)
    : dice(recipe.seed),
      kind(recipe.kind),
      dtype_(recipe.in_double ? DType::f64 : DType::f32),
      numbers_(recipe.data_seed) {}

Tensor Ingredients::taken(const Tensor& value) const {
  return value.dtype() == DType::bf16 && autocast_dtype() == DType::f32 ? cast(value, DType::f32) : value;
}

Tensor Ingredients::any() {
  if (dice.chance(50)) return taken(pool_.back());  // deep programs, of which little is dead
  return taken(pool_[static_cast<std::size_t>(dice.below(std::ssize(pool_)))]);
}

Tensor Ingredients::image() {
  std::vector<const Tensor*> images;
  for (const Tensor& value : pool_) {
    if (value.rank() == 4) images.push_back(&value);
  }
  if (images.empty()) return {};
  if (dice.chance(50)) return taken(*images.back());
  return taken(*images[static_cast<std::size_t>(dice.below(std::ssize(images)))]);
}

Tensor Ingredients::matrix() {
  for (std::size_t i = pool_.size(); i-- > 0;) {
    if (pool_[i].rank() == 2) return taken(pool_[i]);
  }
  const Tensor x = any();
  return reshape(x, {-1, x.size(-1)});
}

Tensor Ingredients::like(const Tensor& x) {
  std::vector<const Tensor*> alike;
  for (const Tensor& value : pool_) {
    if (value.shape() == x.shape()) alike.push_back(&value);
  }
  if (alike.empty()) return x;
  const Tensor y = taken(*alike[static_cast<std::size_t>(dice.below(std::ssize(alike)))]);
  return y;
}

/// Multiples of 1/8 (their products add up exactly in f32: most ReLUs have no doubtful kinks), or of 1.
Tensor Ingredients::data(const Shape& shape, double centre) {
  std::vector<float> elements(static_cast<std::size_t>(shape.elements()));
  for (float& element : elements) {
    const auto number = static_cast<double>(numbers_.below(13) - 6);
    element = static_cast<float>(integers() ? std::trunc(number / 2) : centre + number / 8);
  }
  return exactly(elements, shape);
}

Tensor Ingredients::labels(std::int64_t n, std::int64_t classes) {
  std::vector<std::int64_t> labels(static_cast<std::size_t>(n));
  for (std::int64_t& label : labels) label = numbers_.below(classes);
  return from_vector(labels, {n});
}

/// With integers a weight is mostly 0, so that sums of products stay small.
Parameter& Ingredients::parameter(const Shape& shape, double centre, std::int64_t fan_in) {
  const std::string key = to_string(shape) + (dice.chance(50) ? "a" : "b") + std::to_string(centre);
  const auto [found, is_new] = by_key_.try_emplace(key, parameters_.size());
  if (!is_new) return parameters_[found->second].parameter;
  std::vector<float> elements(static_cast<std::size_t>(shape.elements()));
  const double scale = std::exp2(-std::round(std::log2(static_cast<double>(fan_in)) / 2));
  for (float& element : elements) {
    const auto number = static_cast<double>(numbers_.below(13) - 6);
    if (!integers()) {
      element = static_cast<float>(centre + scale * number / 8);
    } else if (numbers_.below(fan_in) < 2) {
      element = number < 0 ? -1 : 1;
    }
  }
  const std::string name = "p" + std::to_string(parameters_.size());
  parameters_.push_back({Parameter(exactly(elements, shape), name), name});
  return parameters_.back().parameter;
}

Tensor Ingredients::weight(const Shape& shape, std::int64_t fan_in) {
  return parameter(shape, 0, fan_in).value();
}

Tensor Ingredients::channels(std::int64_t c, double centre) { return parameter({c}, centre, 2).value(); }

Tensor Ingredients::norm(const Tensor& x, bool evaluation) {
  const std::int64_t c = x.size(-1);
  const Tensor gamma = channels(c, 1);
  // Neither β nor the sum of two is ever 0: equal pixels normalise to β, where a ReLU would have its kink.
  const Tensor beta = channels(c, 1.0 / 64);
  Statistics& running = statistics_[c];
  if (!running.mean.defined()) running = {Cell(zeros({c}, dtype_)), Cell(ones({c}, dtype_))};
  const BatchNormOptions options{.eps = 0.25};  // tiny batches: their variances may vanish
  if (evaluation || x.elements() == c)          // one value a channel cannot be trained on
    return batch_norm_inference(x, gamma, beta, running.mean.value(), running.variance.value(), options);
  const BatchNormResult result =
      batch_norm(x, gamma, beta, running.mean.value(), running.variance.value(), options);
  running.mean.set_data(result.running_mean);
  running.variance.set_data(result.running_var);
  return result.y;
}

Tensor Ingredients::between(const Tensor& x) {
  if (dice.chance(8)) pool_.push_back(x), listing_ += "[an inside value goes on] ";
  if (dice.chance(8)) kept_.emplace_back("an inside value", x), listing_ += "[an inside value is kept] ";
  return x;
}

namespace {

// ---- the program ----

class Program : public Ingredients {
 public:
  explicit Program(const Recipe& recipe)
      : Ingredients(recipe), recipe_(recipe), segments_(recipe.seed, 7, 7) {}

  Outcome run() {
    manual_seed(recipe_.seed);
    Dice plan(recipe_.seed);
    choose_extents(plan);
    const std::int64_t steps = integers() ? plan.pick({1, 2}) : plan.pick({1, 1, 2, 3});
    const bool alike = plan.chance(60);  // every step is the same program: plans are found again
    for (std::int64_t step = 0; step < steps; ++step) {
      note("-- step " + std::to_string(step));
      train_step(Dice(recipe_.seed, 1, alike ? 0 : static_cast<std::uint64_t>(step)));
    }
    for (const Slot& slot : parameters_) report(slot.name, slot.parameter.value());
    for (const auto& [c, running] : statistics_) {
      report("running mean", running.mean.value()), report("running variance", running.variance.value());
    }
    outcome_.listing = std::move(listing_);
    return std::move(outcome_);
  }

 private:
  void choose_extents(Dice& plan) {
    channels_[0] = plan.pick({1, 2, 3, 4, 8, 17, 24});
    channels_[1] = plan.chance(60) ? channels_[0] : plan.pick({1, 3, 8, 17});
    const std::int64_t height = plan.pick({1, 3, 4, 7}), width = plan.pick({1, 3, 5});
    image_ = {plan.pick({1, 2, 3}), height == 1 ? 1 : height, height == 1 ? 1 : width, channels_[0]};
    length_ = 2 + plan.below(integers() ? 7 : 12);
    whole_in_bf16_ = plan.chance(50);
  }

  bool in_bf16() const { return mixed() && dtype_ == DType::f32; }

  // -- one step --

  void train_step(Dice plan) {
    pool_ = {data(image_), data(image_)};
    kept_.clear();
    std::vector<std::pair<std::string, Tensor>> gradients;
    hooked_.clear();
    Tensor loss = forward(plan), late;
    if (plan.chance(15) && !integers()) loss = with_penalty(loss, plan);
    const bool overtaken = plan.chance(10);
    if (overtaken) late = scalar_of(any_last()) + own_term();
    pool_.clear();
    if (plan.chance(20)) note("item before backward"), report("loss", loss);
    for (Slot& slot : parameters_) slot.parameter.zero_grad();
    const bool twice = plan.chance(12);
    loss.backward({.retain_graph = twice || overtaken});
    if (twice) note("backward twice"), loss.backward({.retain_graph = overtaken});
    for (const Slot& slot : parameters_) {
      if (slot.parameter.grad().defined() && plan.chance(50))
        gradients.emplace_back("gradient of " + slot.name, slot.parameter.grad());
    }
    if (plan.chance(10)) note("gradients before the step"), materialize(), note_groups();
    update(plan);
    if (overtaken) {
      note("backward after the update");
      late.backward();
      for (const Slot& slot : parameters_) {
        if (slot.parameter.grad().defined()) report("late gradient of " + slot.name, slot.parameter.grad());
      }
    }
    for (const auto& [name, value] : kept_) report(name, value);
    for (const auto& [name, value] : gradients) report(name, value);
    for (const auto& [index, values] : hooked_) {
      for (const Tensor& value : values) report("gradient seen by hook " + std::to_string(index), value);
    }
    report("loss", loss);
  }

  /// Records the step's ops, and a loss of what there is.
  Tensor forward(Dice& plan) {
    std::optional<Autocast> scope;
    if (in_bf16() && whole_in_bf16_) scope.emplace(DType::bf16);
    step_dice_ = plan.next();
    for (std::int64_t done = 0; done < length_;) {
      const std::int64_t count = std::min(length_ - done, 1 + segments_.below(4));
      extend_in_segments(done, count);
      done += count;
    }
    Tensor loss = scalar_of(any_last());
    for (int more = 0; more < 2; ++more) {
      dice = Dice(step_dice_, 99, static_cast<std::uint64_t>(more));
      if (dice.chance(50)) loss = loss + scalar_of(any());
    }
    return loss + own_term();
  }

  /// Of a loss, so that every program has something to differentiate.
  Tensor own_term() {
    const Tensor own = parameter({channels_[0]}, 0, 2).value();
    return integers() ? sum(own) : 0.125 * mean(own * own);
  }

  Tensor any_last() { return taken(pool_.back()); }

  Tensor scalar_of(const Tensor& x) {
    if (!integers()) return mean(cast(x, dtype_) * x);
    return sum(x * data(x.shape()));
  }

  /// A term of the loss made of gradients: gradients of gradients.
  Tensor with_penalty(const Tensor& loss, Dice& plan) {
    note("a penalty on a gradient");
    const Slot& slot = parameters_[static_cast<std::size_t>(plan.below(std::ssize(parameters_)))];
    const Tensor gradient = grad({loss}, {slot.parameter.value()}, {}, {.create_graph = true})[0];
    if (plan.chance(30)) kept_.emplace_back("gradient in the penalty", gradient);
    return loss + 0.125 * mean(gradient * gradient);
  }

  void update(Dice& plan) {
    if (optimizer_ == nullptr) optimizer_ = make_optimizer();
    if (!integers() && plan.chance(15)) {
      note("clip_grad_norm");
      kept_.emplace_back("norm", optim::clip_grad_norm(optimizer_->parameters(), 0.5));
    }
    if (plan.chance(20)) optimizer_->set_learning_rate(optimizer_->learning_rate() / 2);
    optimizer_->step();
    note_groups();
    if (plan.chance(15)) {
      note("set_data");
      parameters_.front().parameter.set_data(data(parameters_.front().parameter.shape()));
    }
  }

  /// Of the parameters that the first step made; later ones get gradients alone.
  std::unique_ptr<optim::Optimizer> make_optimizer() {
    std::vector<Parameter> parameters;
    for (const Slot& slot : parameters_) parameters.push_back(slot.parameter);
    Dice plan(recipe_.seed, 2, 2);
    if (integers())
      return std::make_unique<optim::SGD>(
          parameters, optim::SGDOptions{.lr = 0.5, .momentum = plan.chance(50) ? 0.5 : 0.0});
    const double max_norm = plan.chance(25) ? 0.25 : 0;
    // With the usual ε a gradient that is 0 up to rounding would move its parameter by a whole ±lr.
    if (plan.chance(20))
      return std::make_unique<optim::AdamW>(
          parameters, optim::AdamWOptions{.lr = 0.01, .eps = 1e-2, .max_grad_norm = max_norm});
    if (plan.chance(10))
      return std::make_unique<optim::Adam>(
          parameters,
          optim::AdamOptions{.lr = 0.01, .eps = 1e-2, .weight_decay = 1e-2, .max_grad_norm = max_norm});
    const double momentum = plan.chance(50) ? 0.9 : 0;
    if (plan.chance(10))
      return std::make_unique<optim::RMSprop>(parameters, optim::RMSpropOptions{.lr = 0.01,
                                                                                .eps = 1e-2,
                                                                                .momentum = momentum,
                                                                                .centered = plan.chance(50),
                                                                                .max_grad_norm = max_norm});
    return std::make_unique<optim::SGD>(parameters,
                                        optim::SGDOptions{.lr = 0.01,
                                                          .momentum = momentum,
                                                          .weight_decay = plan.chance(50) ? 1e-3 : 0,
                                                          .nesterov = momentum > 0 && plan.chance(50),
                                                          .max_grad_norm = max_norm});
  }

  // -- the ops --

  /// So many ops more, where the mode says so in checkpoints, one of them perhaps inside another.
  void extend_in_segments(std::int64_t first, std::int64_t count) {
    if (!recipe_.checkpointed || segments_.chance(25)) return extend(first, count);
    const auto segment = [&](const std::vector<Tensor>& inputs) {
      pool_ = inputs;
      if (count > 1) extend_in_segments(first, count / 2);
      extend(count > 1 ? first + count / 2 : first, count > 1 ? count - count / 2 : count);
      return pool_;
    };
    pool_ = checkpoint(segment, pool_);
  }

  void extend(std::int64_t first, std::int64_t count) {
    for (std::int64_t op = first; op < first + count; ++op) extend(op);
  }

  void extend(std::int64_t op) {
    dice = Dice(step_dice_, 3, static_cast<std::uint64_t>(op));
    outcome_.ops = std::max(outcome_.ops, static_cast<int>(op) + 1);
    if (recipe_.without.contains(static_cast<int>(op))) return;
    std::optional<Autocast> scope;
    if (dice.chance(60) && in_bf16() && !whole_in_bf16_) scope.emplace(DType::bf16);
    listing_ += std::to_string(op) + ": ";
    const Tensor value = next_value();
    listing_ += " → " + to_string(value.shape()) + (value.dtype() == DType::bf16 ? " bf16" : "");
    pool_.push_back(value);
    flavour(value);
    listing_ += '\n';
  }

  /// What users do with a value, beside going on with it.
  void flavour(const Tensor& value) {
    if (dice.chance(12)) kept_.emplace_back("a kept value", value), listing_ += ", kept";
    if (dice.chance(4) && value.requires_grad()) {
      listing_ += ", with a hook";
      auto* seen = &hooked_[hooks_++];
      value.register_hook([seen, keep = dice.chance(50)](const Tensor& gradient) {
        if (keep) seen->push_back(gradient);
        return gradient * 0.5;
      });
    }
    if (dice.chance(25) && pool_.size() > 3) pool_.erase(pool_.begin() + dice.below(std::ssize(pool_) - 1));
    if (dice.chance(4)) listing_ += ", materialize", materialize(), note_groups();
    if (dice.chance(3)) listing_ += ", its data read", report("a value read", value);
    if (parameters_.empty()) return;
    Slot& slot = parameters_[static_cast<std::size_t>(dice.below(std::ssize(parameters_)))];
    if (dice.chance(3))
      listing_ += ", set_data of " + slot.name, slot.parameter.set_data(slot.parameter.value() * 2);
    if (dice.chance(2)) {
      listing_ += ", a hook on " + slot.name;
      slot.parameter.register_hook([](const Tensor& gradient) { return gradient * 0.5; });
    }
  }

  Tensor next_value() {
    for (;;) {
      const std::vector<OpRow>& rows =
          dice.chance(45) ? pattern_rows() : (dice.chance(25) ? array_rows() : op_rows());
      const OpRow& row = rows[static_cast<std::size_t>(dice.below(std::ssize(rows)))];
      if ((integers() && !row.exact) || (kind == ProgramKind::mixed && row.jumps)) continue;
      const Tensor value = row.record(*this);
      if (!value.defined()) continue;
      listing_ += row.name;
      return value;
    }
  }

  void note_groups() {
    for (const GroupReport& group : explain().groups) outcome_.groups.insert(group.name);
  }
  void report(const std::string& name, const Tensor& value) {
    const bool runs = value.pending();
    outcome_.results.push_back(value.to_vector<double>());
    if (runs) note_groups();
    outcome_.names.push_back(name + " " + to_string(value.shape()));
  }
  void note(const std::string& what) { listing_ += what + '\n'; }

  const Recipe& recipe_;
  Dice segments_;
  Shape image_;
  std::int64_t length_ = 0;
  bool whole_in_bf16_ = false;
  std::uint64_t step_dice_ = 0;
  std::size_t hooks_ = 0;
  std::map<std::size_t, std::vector<Tensor>> hooked_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  Outcome outcome_;
};

}  // namespace

Outcome run_program(const Recipe& recipe) { return Program(recipe).run(); }

}  // namespace fusetape::tests
