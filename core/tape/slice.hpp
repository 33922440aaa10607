#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/plan/cache.hpp"
#include "core/tape/journal.hpp"
#include "core/tape/value.hpp"

namespace fusetape::core {

/// The nodes of one run as the planner takes them: values with dense ids, which of them live on, the
/// structural key and the graph. One object serves run after run, and so does its capacity.
class Slice {
 public:
  /// Numbers the values and finds out which of them live on; Node::live says of each node whether its history
  /// does. As Executor::run() takes them; `pool` is that of the run's memory.
  void read(std::span<Node* const> nodes, const Journal& journal, Segment* open, const Pool& pool);

  std::span<Node* const> nodes() const { return nodes_; }
  const std::vector<Value*>& values() const { return values_; }  ///< by id
  /// What the nodes read and do not make, in order of first use.
  const std::vector<Value*>& externals() const { return externals_; }
  std::size_t id_of(Value& value) const { return static_cast<std::size_t>(notes(value).id); }
  /// Whether anybody beside these nodes can still name the value.
  bool keeps(Value& value) const;
  /// Whether two externals are scalars of the same bits.
  bool same_number(int a, int b) const;

  /// Appends what the graph depends on.
  void write_key(plan::PlanCache::Key& key) const;
  /// The node whose attributes hold this word of a key that write_key() has ended; nullptr: none.
  const Node* node_of_attribute(const plan::PlanCache::Key& key, std::size_t word) const;
  plan::Graph graph() const;

 private:
  void number_values(const Journal& journal);
  void mark_live_history(Segment* open);
  void mark_live(Node& root);
  void mark_outside_of(Segment* segment);
  void decide_what_lives_on(const Pool& pool);
  bool owned_alone(const Value& value, const Pool& pool) const;
  /// A value of this thread has room for them; two threads may flush readers of one value at the same time.
  FlushNotes& notes(Value& value) const { return value.node->tape == tape_ ? value.notes : foreign_[&value]; }
  bool in_slice(const Value& value) const {
    return value.node->tape == tape_ ? value.notes.epoch == epoch_ : foreign_.contains(&value);
  }

  std::span<Node* const> nodes_;
  const Tape* tape_ = nullptr;  ///< the nodes'
  std::uint64_t epoch_ = 0;
  std::vector<Value*> values_, externals_;
  std::vector<Node*> stack_;
  mutable std::unordered_map<const Value*, FlushNotes> foreign_;  ///< of externals that another thread made
};

}  // namespace fusetape::core
