#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "core/plan/backend.hpp"
#include "core/plan/passes/numbers.hpp"
#include "core/plan/rules/group.hpp"
#include "core/plan/rules/rules.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape::plan {

/// Where a value's bytes are during a run.
struct Storage {
  enum class Kind : std::uint8_t {
    none,       ///< fused away or dead: never written
    external,   ///< the buffer of slice input `index`
    arena,      ///< at `offset`
    pooled,     ///< fresh buffer `index` of the pool
    committed,  ///< at `offset` of the arena, copied to the buffer of slice input `index` at the run's end
  };
  Kind kind = Kind::none;
  int index = 0;
  std::size_t offset = 0;
};

/// A stretch of the arena and the steps, both inclusive, that it is in use.
struct ArenaBlock {
  std::size_t offset = 0, bytes = 0;
  int first = 0, last = 0;
  int value = -1;  ///< the first that it holds
};

struct Step {
  std::unique_ptr<Kernel> kernel;
  int group = 0;
  int node = 0;  ///< whose source line an error names
};

/// A compiled slice: kernels in order, storage of every value. Owns primitives and offsets, no values.
struct Plan {
  Graph graph;
  EqualInputs equal_inputs;  ///< it can be run only where they are equal again
  std::vector<Group> groups;
  std::vector<Step> steps;
  std::vector<Commit> commits;
  std::unique_ptr<Kernel> commit;          ///< does these after the last step; null: there are none
  std::vector<Storage> storage;            ///< by value
  std::vector<std::int64_t> pooled_bytes;  ///< by pooled buffer
  std::vector<ArenaBlock> arena;
  std::size_t arena_bytes = 0;
  std::size_t scratch_bytes = 0;  ///< at the arena's end, the rooms included
  std::size_t rooms_at = 0;       ///< in the scratch
  std::size_t room_stride = 0;
  std::shared_ptr<Report> report;
  std::vector<void*> pointers;     ///< by value; set by each run
  std::vector<std::byte> scalars;  ///< of each run on a device, on their way to it
  /// Of `steps`, and gone before them: a graph that is recorded needs their kernels. Null: they run one by
  /// one.
  std::unique_ptr<Replay> replay;
};

struct Options {
  RuleSet rules = all_rules;
  Retention retention = Retention::fastest;
  bool deterministic = false;
  bool tuning = false;  ///< kernels may be chosen by timing them
  int threads = 1;
  Backend* backend = nullptr;
  TakenKernels* taken = nullptr;  ///< by the thread's plans so far; not null where tuning is on
};

/// The passes, in order. Throws before anything ran.
std::unique_ptr<Plan> make_plan(Graph graph, const Options& options);

}  // namespace fusetape::plan
