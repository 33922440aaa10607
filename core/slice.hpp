#pragma once
#include <chrono>
#include <unordered_map>
#include <vector>

#include "core/tape.hpp"

namespace fusetape::core {

/// One flush: turns the pending nodes into a graph with dense ids and a structural key, finds or makes the
/// plan, binds buffers, runs, and settles what becomes of every value.
class Slice {
 public:
  Slice(Tape& tape, std::span<Node* const> nodes);
  ~Slice();
  Slice(const Slice&) = delete;
  Slice& operator=(const Slice&) = delete;

  void run(Location at);

 private:
  void number_values();
  void mark_live_history();
  void mark_live(Node& root);
  void mark_outside_of(Segment* segment);
  /// A value of this thread has room for them; two threads may flush readers of one value at the same time.
  FlushNotes& notes(Value& value) const {
    return value.node->tape == &tape_ ? value.notes : foreign_[&value];
  }
  bool in_slice(const Value& value) const {
    return value.node->tape == &tape_ ? value.notes.epoch == epoch_ : foreign_.contains(&value);
  }
  bool keeps(Value& value) const;
  void decide_what_lives_on();
  void write_key();
  plan::Graph build_graph() const;
  plan::Plan& prepare(Location at);
  plan::Plan& find_or_make_plan();
  bool same_number(int a, int b) const;
  bool fits(const plan::Plan& plan) const;
  plan::EqualInputs share_numbers(plan::Graph& graph) const;
  const Node* node_of_attribute(std::size_t word) const;
  void note_changing_number();
  void note_cache(Report& report) const;

  void bind(plan::Plan& plan);
  void bind_scalars(plan::Plan& plan, std::byte* block);
  void* external_data(std::size_t index, const void* preferred) const;
  bool owned_alone(const Value& value) const;
  void execute(plan::Plan& plan);
  void run_each(plan::Plan& plan, const backends::KernelArgs& args) const;
  void run_timed(plan::Step& step, const backends::KernelArgs& args, Report& report) const;
  void settle(plan::Plan& plan);

  Tape& tape_;
  Pool& pool_;  ///< of the backend's memory
  std::span<Node* const> nodes_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  std::uint64_t epoch_ = 0;
  // The tape's, so that their capacity serves the next slice.
  std::vector<Value*>& values_;     ///< by id
  std::vector<Value*>& externals_;  ///< the slice's inputs, in order of first use
  std::vector<BufferRef>& pooled_;
  mutable std::unordered_map<const Value*, FlushNotes> foreign_;  ///< of inputs that another thread made
};

}  // namespace fusetape::core
