/// What an optimizer's update keeps of the parameters over the steps: an average, or lookahead's slow
/// weights.
#include <cmath>

#include "core/numerics/number_text.hpp"
#include "core/tape/tape.hpp"
#include "nn/optim/finite.hpp"
#include "nn/optim/setting_reader.hpp"
#include "ops/optimizer.hpp"

namespace fusetape::optim {
namespace {

using Rule = core::updates::step_kinds;

void check_average(const std::string& name, const WeightAverage& average, Location at) {
  const SettingCheck require{name, at};
  require(average.decay >= 0 && average.decay < 1, "average.decay in [0, 1)", average.decay);
  require(average.decay == 0 || !average.equal, "average.equal or average.decay, not both", average.decay);
  require(average.start >= 0, "average.start ≥ 0", static_cast<double>(average.start));
  require(average.every >= 1, "average.every ≥ 1", static_cast<double>(average.every));
}

void check_lookahead(const std::string& name, const Lookahead& lookahead, Location at) {
  const SettingCheck require{name, at};
  require(lookahead.every >= 0, "lookahead.every ≥ 0", static_cast<double>(lookahead.every));
  require(lookahead.share > 0 && lookahead.share <= 1, "lookahead.share in (0, 1]", lookahead.share);
}

}  // namespace

bool is_finite_or_put_back(const Tensor& norm, Location at) {
  core::Journal::Versions before = core::Tape::current(at).journal.versions_before();
  if (std::isfinite(norm.item(at))) return true;
  before.put_back();
  return false;
}

void Optimizer::set_average(const WeightAverage& average, const Lookahead& lookahead, Location at) {
  check_average(name_, average, at);
  check_lookahead(name_, lookahead, at);
  average_ = average;
  lookahead_ = lookahead;
  given_share_ = lookahead.share;
  if (!keeps_average()) return;
  if (average_.present() && lookahead_.every > 0)
    throw Error(name_, "expected an average or lookahead, got both", at);
  for (const Parameter& parameter : parameters_) {
    // A decay of 0.999 moves a number of 8 bits by less than half of its last one: never.
    if (size_of(parameter.dtype()) == 2) {
      throw Error(name_,
                  "expected parameters in f32 or f64 where an average is kept, got " +
                      std::string(name_of(parameter.dtype())) + " in \"" + parameter.name() +
                      "\"; Autocast computes in 16 bits and leaves parameters in f32",
                  at);
    }
  }
  averages_ = make_state(lookahead_.every > 0 ? "slow" : "average", at);
}

void Optimizer::set_lookahead_share(double share, Location at) {
  if (lookahead_.every == 0) throw Error(name_, "set_lookahead_share(): it was made without lookahead", at);
  check_lookahead(name_, {.every = lookahead_.every, .share = share}, at);
  lookahead_.share = share;
}

/// Of so many updates, how many values count.
std::int64_t Optimizer::counted(std::int64_t updates) const {
  return updates <= average_.start ? 0 : (updates - average_.start - 1) / average_.every + 1;
}

/// What stays of the average in the update after so many.
double Optimizer::keep_of(std::int64_t updates) const {
  if (lookahead_.every > 0) return (updates + 1) % lookahead_.every == 0 ? 1 - lookahead_.share : 1;
  const std::int64_t before = counted(updates);
  if (counted(updates + 1) == before) return 1;
  if (before == 0) return 0;
  return average_.equal ? static_cast<double>(before) / static_cast<double>(before + 1) : average_.decay;
}

/// Parameters of which as much is kept share the scalars.
const Optimizer::Kept& Optimizer::kept(std::size_t index, Location at) {
  const std::int64_t updates = updates_[index];
  const double keep = keeps_average() ? keep_of(updates) : 1;
  double marks = 0;
  if (lookahead_.every > 0) {
    marks = (updates == 0 ? Rule::first : 0) + ((updates + 1) % lookahead_.every == 0 ? Rule::pulled : 0);
  }
  for (const Kept& known : kept_) {
    if (known.keep == keep && known.marks == marks) return known;
  }
  kept_.push_back(
      {.keep = keep,
       .marks = marks,
       .limit_scalar = kept_.empty() ? scalar(max_grad_value_, DType::f64, at) : kept_[0].limit_scalar,
       .keep_scalar = scalar(keep, DType::f64, at),
       .marks_scalar = scalar(marks, DType::f64, at)});
  return kept_.back();
}

void Optimizer::exchange_average(Location at) {
  if (!keeps_average()) {
    throw Error(name_,
                "keeps no average: its options have neither average.decay, average.equal nor lookahead", at);
  }
  if (!is_exchanged_) {
    take_back_updates();
    exchanged_.clear();
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (lookahead_.every > 0 ? updates_[i] > 0 : counted(updates_[i]) > 0) exchanged_.push_back(i);
    }
  }
  for (const std::size_t i : exchanged_) {
    const Tensor value = parameters_[i].value();
    parameters_[i].set_data(averages_[i].value(), at);
    averages_[i].set_data(value, at);
  }
  is_exchanged_ = !is_exchanged_;
}

Settings Optimizer::kept_settings() const {
  if (lookahead_.every > 0) {
    return {{"lookahead.every", static_cast<double>(lookahead_.every)}, {"lookahead.share", given_share_}};
  }
  if (!average_.present()) return {};
  return {{"average.decay", average_.decay},
          {"average.equal", average_.equal ? 1 : 0},
          {"average.start", static_cast<double>(average_.start)},
          {"average.every", static_cast<double>(average_.every)}};
}

/// The state exists from construction, so that there is one here and there or in neither.
WeightAverage Optimizer::average_of(const Settings& settings, Location at) const {
  if (!average_.present()) return {};
  const SettingReader read{settings, name_, at};
  const WeightAverage average{.decay = read.number("average.decay"),
                              .equal = read.number("average.equal") != 0,
                              .start = read.count("average.start"),
                              .every = read.count("average.every")};
  check_average(name_, average, at);
  if (!average.present()) throw Error(name_, "expected an average, as here, got none", at);
  return average;
}

Lookahead Optimizer::lookahead_of(const Settings& settings, Location at) const {
  if (lookahead_.every == 0) return {};
  const SettingReader read{settings, name_, at};
  const Lookahead lookahead{.every = read.count("lookahead.every"), .share = read.number("lookahead.share")};
  check_lookahead(name_, lookahead, at);
  if (lookahead.every == 0) throw Error(name_, "expected lookahead, as here, got none", at);
  return lookahead;
}

void Optimizer::record_update(const core::OpDef& op, int variant, std::span<const Tensor> scalars,
                              std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) {
  core::InlineVector<Cell, 6> cells;
  core::InlineVector<Tensor, 6> state;
  cells.push_back(parameters_[index]);
  for (std::size_t i = index; i < named_state_.size(); i += parameters_.size()) {
    cells.push_back(named_state_[i].second);
    state.push_back(named_state_[i].second.value());
  }
  core::InlineVector<Tensor, 12> all;
  for (const Tensor& scalar : scalars) all.push_back(scalar);
  const Kept& last = kept(index, at);
  for (const Tensor& scalar : {last.limit_scalar, last.keep_scalar, last.marks_scalar}) all.push_back(scalar);
  const int with_average = average_.present() ? Rule::average : Rule::nothing;
  const int kind = lookahead_.every > 0 ? Rule::lookahead : with_average;
  core::Outputs values = ops::update(op, Rule::kinds * variant + kind, parameters_[index].value(), gradient,
                                     {state.begin(), state.size()}, {all.begin(), all.size()}, at);
  for (std::size_t i = 0; i < values.size(); ++i)
    bindings.emplace_back(std::move(cells[i]), std::move(values[i]));
}

}  // namespace fusetape::optim
