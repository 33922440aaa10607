#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/plan/cache.hpp"
#include "core/settings.hpp"
#include "core/tape/slice.hpp"

namespace fusetape::core {

/// Runs nodes that it is given: finds their plan or makes it, binds memory, executes, and hands the results
/// to the values that live on. What it keeps from run to run is one thread's; of recording it knows nothing.
class Executor {
 public:
  /// `settings` are read at each run.
  explicit Executor(const Settings& settings) : settings_(settings) {}
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Runs pending nodes of one tape, at least one, in recorded order. After it their values are ready or
  /// dropped, and Node::live says whose history goes on; where it throws, they are pending as before.
  /// `journal`: the versions that a failure goes back to. `open`: the innermost checkpoint that is still
  /// being recorded, or nullptr.
  void run(std::span<Node* const> nodes, const Journal& journal, Segment* open, Location at);

  plan::PlanCache cache;
  plan::TakenKernels taken_kernels;
  /// Of the last run; never null after one.
  std::shared_ptr<const Report> last_report;

  /// Of the arena, where it is in that memory.
  std::int64_t arena_bytes(const Pool& pool) const {
    return arena_buffer_ && arena_buffer_.get()->pool == &pool ? static_cast<std::int64_t>(arena_bytes_) : 0;
  }

 private:
  using Clock = std::chrono::steady_clock;

  plan::Plan& prepare(Location at);
  plan::Plan& find_or_make_plan();
  bool fits(const plan::Plan& plan) const;
  plan::EqualInputs share_numbers(plan::Graph& graph) const;
  void note_changing_number();
  void note_cache(Report& report) const;
  std::byte* arena(std::size_t bytes);
  void bind(plan::Plan& plan);
  void upload_scalars(plan::Plan& plan, std::byte* block);
  void* external_data(std::size_t index, std::byte* scalars, const void* preferred) const;
  void execute(plan::Plan& plan);
  void run_each(plan::Plan& plan, const plan::KernelArgs& args) const;
  void run_timed(plan::Step& step, const plan::KernelArgs& args, Report& report) const;
  void settle(plan::Plan& plan);

  const Settings& settings_;
  bool noted_changing_number_ = false;
  BufferRef arena_buffer_;
  std::size_t arena_bytes_ = 0;
  // Of the run that is on; lists stay for their capacity.
  Slice slice_;
  plan::PlanCache::Key key_;
  std::vector<BufferRef> pooled_;
  Pool* pool_ = nullptr;  ///< of the backend's memory
  Clock::time_point began_;
};

/// What an exception that is no Error says of a run.
std::string reason_of(const std::exception& error);

}  // namespace fusetape::core
