#pragma once
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/tape/value.hpp"

/// Checkpointed stretches of the tape: backward computes their values again instead of keeping them.
namespace fusetape::core {

/// The recipe of what `checkpoint` recorded: every op of it, and the values from outside that those read.
/// Belongs to the nodes with history that were recorded in it, and dies with the last of them. It refers to
/// no node inside, so that these and their data may go.
class Segment {
 public:
  /// Where an input of a step comes from.
  struct Source {
    const Segment* from = nullptr;  ///< the segment, this or one around it, that computes it again
    std::uint64_t sequence = 0;     ///< of the step there
    int index = 0;                  ///< output of that step; without `from`: which value from outside
  };
  struct Step {
    const OpDef* op = nullptr;
    Attrs attrs;
    Location at;
    const std::string* module_path = nullptr;
    std::uint64_t sequence = 0;
    bool history = false;
    std::uint32_t wanted = 0;
    std::vector<Source> inputs;
  };

  Segment(const Tape& tape, std::shared_ptr<Segment> around) : parent(std::move(around)), tape_(&tape) {}
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  void add(const Node& node);
  /// Nothing is added any more. Lets go of what no gradient will need.
  void close();

  bool is_open() const { return open_; }
  /// The innermost of this segment and those around it that the value was computed in; nullptr: none.
  const Segment* around(const Value& value) const;

  const std::vector<Step>& steps() const { return steps_; }  ///< in recorded order
  std::size_t place_of(std::uint64_t sequence) const;
  Tensor outside(int index) const { return Tensor(outside_[static_cast<std::size_t>(index)]); }

  /// Values from outside whose data it does not hold yet: while they are pending, their readers do.
  template <class Visit>
  void for_each_unheld(Visit&& visit) const {
    for (std::size_t i = held_; i < outside_.size(); ++i) visit(*outside_[i]);
  }
  void hold_outside();

  const std::shared_ptr<Segment> parent;
  std::uint64_t marked = 0;  ///< scratch of a flush: its epoch

 private:
  bool contains(const Value& value) const;
  int index_of_outside(Value& value);
  std::vector<bool> steps_that_gradients_need() const;

  const Tape* tape_;
  bool open_ = true;
  std::uint64_t first_ = 0, last_ = 0;  ///< sequence numbers
  std::vector<Step> steps_;
  std::vector<Value*> outside_;                          ///< referenced
  std::unordered_map<const Value*, int> outside_index_;  ///< while open
  std::size_t held_ = 0;                                 ///< so many of them have their data held
};

/// While it lives, this thread records into a new segment.
class SegmentScope {
 public:
  SegmentScope();
  ~SegmentScope();
  SegmentScope(const SegmentScope&) = delete;
  SegmentScope& operator=(const SegmentScope&) = delete;

 private:
  std::shared_ptr<Segment> segment_;
};

/// The values of segments as one reverse pass needs them: each op is recorded again at most once.
class Recomputation {
 public:
  Tensor value(const Segment& segment, std::uint64_t sequence, int output);
  /// Lets go of the segments that began after `sequence`: the pass is through with them.
  void forget_after(std::uint64_t sequence);

 private:
  using Clones = std::vector<Outputs>;  ///< by step
  void record_again(const Segment& segment, std::size_t step, Clones& clones);

  std::unordered_map<const Segment*, Clones> clones_;
};

}  // namespace fusetape::core
