#pragma once
#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fusetape/dtype.hpp"
#include "fusetape/error.hpp"
#include "fusetape/shape.hpp"

/// What explain() tells of a plan: its kernels, what fusion saved, what nearly fused, and its memory.
namespace fusetape {

/// One kernel launch of a plan.
struct GroupReport {
  std::string name;      ///< "batch_norm+add+relu"
  std::string recorded;  ///< its ops as the program recorded them: a part of a batch norm as batch_norm, and
                         ///< nothing that is computed again
  std::string rule;      ///< the row of the fusion table that made it; empty: one op alone
  std::string kernel;    ///< what runs it: "onednn:brgconv:avx512_core"
  std::string why;       ///< where the reference's loops have to: why no faster kernel could; or what was
                         ///< timed: "tuned: 0.92 ms, direct 2.7 ms"
  std::string module_path;  ///< of its last op
  std::string source;       ///< "model.cpp:42" of its last op
  std::string phase;        ///< "forward", "backward" or "update"
  int ops = 1;
  double tensor_passes = 0;        ///< whole-tensor reads and writes
  double unfused_passes = 0;       ///< of its ops, were each run by itself
  std::int64_t bytes = 0;          ///< moved by those passes
  std::int64_t unfused_bytes = 0;  ///< moved by its ops, were each run by itself
  Shape shape;                     ///< of the largest tensor that it reads or writes
  DType dtype = DType::f32;        ///< of that tensor
  double flops = 0;  ///< of its convolutions and matrix products, computed directly: two a multiply-add
  double kernel_flops = 0;          ///< of what its kernel multiplies: a Winograd convolution's are fewer
  DType kernel_dtype = DType::f32;  ///< in which it multiplies
  std::int64_t kept_bytes = 0;      ///< of its outputs, alive between forward and backward
  std::vector<int> reads_from;      ///< the groups (indices into Report::groups) that made its inputs
  double start_ms = 0;              ///< from the beginning of the run, where the plan is still to be found
  double milliseconds = 0;          ///< both of the last run under set_profiling(true); 0 without one
};

/// A group that a rule could not make, though its ops stand there, and why. Sources are "model.cpp:42".
struct RefusalReport {
  std::string rule, reason;
  std::string source, module_path;              ///< of the op at which the rule was tried
  std::string value_source, value_module_path;  ///< of the value that stands in the way; empty: none does
  std::string group;                            ///< the name it would have had, where the rule got that far
};

/// An op as the program recorded it, and what became of it.
struct OpReport {
  std::string op, module_path, source, phase;  ///< "batch_norm", "stages.0.bn1", "model.cpp:42", "forward"
  std::vector<int> kernels;  ///< the groups (indices into Report::groups) that compute it, a part of it, or
                             ///< all of it again, in the order in which they run
  std::int64_t bytes = 0;    ///< of its result, the largest if it has several
  bool written = true;       ///< false: that result is in no memory; each reader has it inside its kernel
};

/// A value of forward that backward still reads.
struct KeptReport {
  std::string op, module_path, source;  ///< of the op that made it
  Shape shape;
  DType dtype = DType::f32;
  std::int64_t bytes = 0;
};

/// A stretch of the arena and the steps (indices into Report::groups, both inclusive) that it is in use.
struct ArenaBlockReport {
  std::int64_t offset = 0, bytes = 0;
  int first_step = 0, last_step = 0;
  std::string op, module_path;  ///< of its first value
};

/// What the last run of this thread did.
struct Report {
  std::vector<GroupReport> groups;  ///< in the order in which they run
  std::vector<OpReport> ops;  ///< as recorded; none for views, for ops that equal another, for those that
                              ///< nobody needs, and for what checkpoint() computes once more
  std::vector<RefusalReport> refusals;
  std::string backend;
  bool fusion = true;
  std::string retention = "fastest";
  bool deterministic = false;
  int threads = 1;
  int kernels = 0;
  double tensor_passes = 0, unfused_passes = 0;
  std::int64_t bytes = 0, unfused_bytes = 0;
  std::int64_t kept_bytes =
      0;  ///< alive between the last forward and the first backward kernel, beside parameters, inputs
  std::int64_t unfused_kept_bytes = 0;  ///< the same of a plan that runs every op by itself
  std::vector<KeptReport> kept;         ///< what kept_bytes is made of
  std::int64_t peak_bytes =
      0;  ///< arena plus pool at the worst moment, beside parameters and optimizer state
  std::int64_t arena_bytes = 0;  ///< one allocation for everything that is dead at the end of the run
  std::int64_t scratch_bytes =
      0;  ///< of the arena: what kernels use while they run, and the gaps between threads' rooms
  std::int64_t arena_lower_bound = 0;  ///< live at once in the arena at its fullest step, without scratch: no
                                       ///< packing can need less
  std::vector<ArenaBlockReport> arena;  ///< its timeline
  std::string versions;                 ///< fusetape::versions(), when it was planned
  std::string instructions;             ///< what its kernels leave unused of the CPU, and why; empty: nothing
  std::string tuning;  ///< "12 kinds of convolution, 4 timed in 140 ms, file …"; empty: none may be timed, or
                       ///< there is none
  std::string replay;  ///< on a device: "one graph of 87 kernels", or "one by one: …", why; empty elsewhere
  double planning_ms = 0;                               ///< all passes and kernel creation
  std::vector<std::pair<std::string, double>> pass_ms;  ///< each planner pass by name
  std::int64_t cache_hits = 0, cache_misses = 0;        ///< of this thread's plan cache, up to this run

  /// For a terminal: totals, one line a kernel, what is not written, what is kept, near misses.
  std::string to_string() const;
  /// Everything, under the names of the fields here.
  std::string to_json() const;
  /// For Graphviz: groups as nodes, coloured by phase, edges where one reads of another.
  std::string to_dot() const;
  /// One page without external resources or scripts.
  std::string to_html() const;

  /// Throws Error unless at least so many groups that a fusion rule made are of this name, or have these ops
  /// one after the other among what was recorded ("batch_norm+add+relu", wherever its parts ride); the
  /// message counts them and tells the near misses with their lines.
  void require_fused(std::string_view name, int at_least = 1, Location at = Location::current()) const;
};

/// The report of the last plan that this thread ran. FUSETAPE_EXPLAIN=1 prints that of every new plan to
/// stderr; FUSETAPE_EXPLAIN=plan.html (or .json, .dot, .txt) writes the newest plan's to that file.
const Report& explain();
std::ostream& operator<<(std::ostream& out, const Report& report);

}  // namespace fusetape
