#include "core/tape/segment.hpp"

#include <algorithm>

#include "core/check.hpp"
#include "core/tape/module_scope.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/autograd.hpp"

namespace fusetape {
namespace core {

Segment::~Segment() {
  for (std::size_t i = 0; i < held_; ++i) unhold(*outside_[i]);
  for (Value* value : outside_) dereference(value->node);
}

/// Leaves have no sequence number; other threads' numbers may lie between ours.
bool Segment::contains(const Value& value) const {
  const Node& node = *value.node;
  return node.tape == tape_ && node.sequence >= first_ && node.sequence <= last_ && first_ != 0;
}

const Segment* Segment::around(const Value& value) const {
  const Segment* segment = this;
  while (segment != nullptr && !segment->contains(value)) segment = segment->parent.get();
  return segment;
}

int Segment::index_of_outside(Value& value) {
  const auto [found, is_new] = outside_index_.emplace(&value, static_cast<int>(outside_.size()));
  if (is_new) {
    outside_.push_back(&value);
    reference(value.node);
  }
  return found->second;
}

void Segment::add(const Node& node) {
  FUSETAPE_ASSERT(open_);
  Step step{node.op, node.attrs, node.at, node.module_path, node.sequence, node.history, node.wanted, {}};
  for (Value* input : node.inputs) {
    const Segment* from = around(*input);
    step.inputs.push_back(from != nullptr ? Source{from, input->node->sequence, input->index}
                                          : Source{nullptr, 0, index_of_outside(*input)});
  }
  steps_.push_back(std::move(step));
  if (first_ == 0) first_ = node.sequence;
  last_ = node.sequence;
}

std::size_t Segment::place_of(std::uint64_t sequence) const {
  const auto found = std::lower_bound(steps_.begin(), steps_.end(), sequence,
                                      [](const Step& step, std::uint64_t s) { return step.sequence < s; });
  FUSETAPE_ASSERT(found != steps_.end() && found->sequence == sequence);
  return static_cast<std::size_t>(found - steps_.begin());
}

/// What gradients read, and what that is computed from.
std::vector<bool> Segment::steps_that_gradients_need() const {
  std::vector<bool> needed(steps_.size(), false);
  for (std::size_t i = steps_.size(); i-- > 0;) {
    const Step& step = steps_[i];
    const Saves saves = step.history ? step.op->saves_of(step.wanted) : Saves{};
    if (saves.outputs != 0) needed[i] = true;
    for (std::size_t k = 0; k < step.inputs.size(); ++k) {
      const Source& input = step.inputs[k];
      const bool read = needed[i] || (saves.inputs & bit(static_cast<int>(k))) != 0;
      if (read && input.from == this) needed[place_of(input.sequence)] = true;
    }
  }
  return needed;
}

void Segment::close() {
  open_ = false;
  outside_index_.clear();
  const std::vector<bool> needed = steps_that_gradients_need();
  std::vector<int> new_index(outside_.size(), -1);
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    if (!needed[i]) {
      steps_[i].inputs.clear();  // its number stays: other steps are found by theirs
      continue;
    }
    for (const Source& input : steps_[i].inputs) {
      if (input.from == nullptr) new_index[static_cast<std::size_t>(input.index)] = 0;
    }
  }
  std::vector<Value*> kept;
  std::size_t kept_held = 0;
  for (std::size_t i = 0; i < outside_.size(); ++i) {
    const bool keep = new_index[i] == 0;
    if (keep) {
      new_index[i] = static_cast<int>(kept.size());
      kept.push_back(outside_[i]);
      if (i < held_) ++kept_held;
    } else {
      if (i < held_) unhold(*outside_[i]);
      dereference(outside_[i]->node);
    }
  }
  for (Step& step : steps_) {
    for (Source& input : step.inputs) {
      if (input.from == nullptr) input.index = new_index[static_cast<std::size_t>(input.index)];
    }
  }
  outside_ = std::move(kept);
  held_ = kept_held;
}

void Segment::hold_outside() {
  for_each_unheld([](Value& value) { hold(value); });
  held_ = outside_.size();
}

SegmentScope::SegmentScope() {
  std::shared_ptr<Segment>& innermost = Tape::current().segment;
  segment_ = innermost = std::make_shared<Segment>(Tape::current(), innermost);
}

SegmentScope::~SegmentScope() {
  Tape::current().segment = segment_->parent;
  segment_->close();
}

Tensor Recomputation::value(const Segment& segment, std::uint64_t sequence, int output) {
  Clones& clones = clones_[&segment];  // recording more segments moves no entry
  if (clones.size() < segment.steps().size()) clones.resize(segment.steps().size());
  const std::size_t step = segment.place_of(sequence);
  if (clones[step].empty()) record_again(segment, step, clones);
  return clones[step][static_cast<std::size_t>(output)];
}

/// With every step that it needs first: in recorded order, and without recursion, as a segment may be deep.
void Recomputation::record_again(const Segment& segment, std::size_t step, Clones& clones) {
  std::vector<std::size_t> needed{step};
  std::vector<bool> seen(clones.size(), false);
  seen[step] = true;
  for (std::size_t i = 0; i < needed.size(); ++i) {
    for (const Segment::Source& input : segment.steps()[needed[i]].inputs) {
      if (input.from != &segment) continue;
      const std::size_t producer = segment.place_of(input.sequence);
      if (seen[producer] || !clones[producer].empty()) continue;
      seen[producer] = true;
      needed.push_back(producer);
    }
  }
  std::sort(needed.begin(), needed.end());
  for (const std::size_t n : needed) {
    const Segment::Step again = segment.steps()[n];  // a copy: an open segment grows
    std::vector<Tensor> inputs;
    inputs.reserve(again.inputs.size());
    for (const Segment::Source& input : again.inputs) {
      inputs.push_back(input.from == nullptr ? segment.outside(input.index)
                                             : value(*input.from, input.sequence, input.index));
    }
    const PhaseScope scope(plan::Phase::backward, again.at, again.module_path);
    source_context().recomputed = true;
    const GradMode data_only(false);
    clones[n] = record(*again.op, inputs, again.attrs, again.at);
  }
}

void Recomputation::forget_after(std::uint64_t sequence) {
  std::erase_if(clones_, [&](const auto& entry) { return entry.first->steps().front().sequence > sequence; });
}

}  // namespace core

namespace {

void check_checkpoint(bool callable, std::span<const Tensor> inputs, Location at) {
  if (!callable) throw Error("checkpoint", "fn is empty", at);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined()) {
      throw Error("checkpoint", "input " + std::to_string(i) + " is an undefined tensor", at);
    }
  }
}

Tensor checked(Tensor result, Location at) {
  if (!result.defined()) throw Error("checkpoint", "fn returned an undefined tensor", at);
  return result;
}

std::vector<Tensor> checked(std::vector<Tensor> results, Location at) {
  for (const Tensor& result : results) checked(result, at);
  return results;
}

}  // namespace

std::vector<Tensor> checkpoint(const std::function<std::vector<Tensor>(const std::vector<Tensor>&)>& fn,
                               const std::vector<Tensor>& inputs, Location at) {
  check_checkpoint(fn != nullptr, inputs, at);
  if (!grad_enabled()) return checked(fn(inputs), at);
  const core::SegmentScope scope;
  return checked(fn(inputs), at);
}

Tensor checkpoint(const std::function<Tensor(const Tensor&)>& fn, const Tensor& input, Location at) {
  check_checkpoint(fn != nullptr, {&input, 1}, at);
  if (!grad_enabled()) return checked(fn(input), at);
  const core::SegmentScope scope;
  return checked(fn(input), at);
}

}  // namespace fusetape
