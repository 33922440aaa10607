#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/plan/backend.hpp"
#include "core/settings.hpp"
#include "core/tape/executor.hpp"
#include "core/tape/journal.hpp"
#include "core/tape/thread_end.hpp"
#include "core/tape/value.hpp"

namespace fusetape::core {

/// The ops of one thread that are recorded and not yet run.
class Tape {
 public:
  /// A slice that grows past this without a step is cut and run, with a warning.
  static constexpr std::size_t max_pending_nodes = 50'000;
  static constexpr std::int64_t max_pending_bytes = std::int64_t{64} << 30;

  /// This thread's. Throws at the thread's end, once it is gone.
  static Tape& current(Location at = Location::current());
  /// nullptr: it is gone. For destructors.
  static Tape* alive();

  Outputs record(const OpDef& op, std::span<const Tensor> inputs, const Attrs& attrs, Location at);
  /// Where more than `pending_limit` bytes of inputs are held by nothing but pending ops, and no gradient is
  /// to come through these, they are run: loops that read nothing would hold all their inputs.
  void run_if_inputs_pile_up(Location at);
  /// Plans and runs everything pending. Where that fails, all of it is dropped, and cells are as before it.
  void flush(Location at);

  Settings settings;
  Executor executor{settings};
  std::shared_ptr<Segment> segment;  ///< the innermost checkpoint that is being recorded
  Journal journal;                   ///< what the pending nodes will change in cells

  std::size_t pending_nodes() const { return pending_.size(); }

  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

 private:
  void refuse_while_running(std::string_view what, Location at) const;
  void check_input(const OpDef& op, const Tensor& input, std::size_t index, Location at) const;
  void append(Node* node);
  std::int64_t bytes_held_by_pending_ops();
  /// Lets go of the nodes that ran: what history still needs holds its saves from now on.
  void finish_slice();
  /// Poisons what is pending.
  void lose_pending(const std::string& why);

  std::vector<Node*> pending_;  ///< referenced
  std::vector<Value*> inputs_;  ///< scratch of bytes_held_by_pending_ops(), kept for its capacity
  std::int64_t pending_bytes_ = 0;
  std::int64_t input_bytes_ = 0;  ///< of what is not pending itself, once for each pending op that reads it
  std::int64_t next_input_check_ = 0;  ///< of `input_bytes_`
  std::size_t pending_histories_ = 0;  ///< ops that a gradient may come through
  bool running_ = false;
  bool warned_about_cut_ = false;
  EndsWithThread end_;
};

/// Turns gradient recording on or off for a scope.
class GradMode {
 public:
  explicit GradMode(bool on) : before_(Tape::current().settings.grad) { Tape::current().settings.grad = on; }
  ~GradMode() { Tape::current().settings.grad = before_; }
  GradMode(const GradMode&) = delete;
  GradMode& operator=(const GradMode&) = delete;

 private:
  bool before_;
};

/// A run that was queued; a fault that its device finds later may leave what it updated as it was.
struct QueuedRun {
  plan::Backend* backend = nullptr;
  std::uint64_t number = 0;  ///< 0: the run is over, and nothing can be taken back
  bool taken_back() const { return number != 0 && backend->took_back(number); }
};
/// Runs the slice that an optimizer's step closes.
QueuedRun flush_step(Location at);

}  // namespace fusetape::core
