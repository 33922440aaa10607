#include <algorithm>

#include "core/check.hpp"
#include "core/plan/passes/passes.hpp"

namespace fusetape::plan {
namespace {

constexpr std::size_t alignment = 64;
constexpr int forever = 1 << 30;

std::size_t aligned(std::int64_t bytes) {
  return (static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1)) + alignment - 1) / alignment * alignment;
}

/// One stretch of memory: the values that share it (views, and results written in place) and when it is in
/// use.
struct Block {
  int value = -1;  ///< the first of them
  std::size_t bytes = 0;
  int first = forever, last = -1;  ///< steps
  bool keep = false;
  int external = -1;      ///< slice input whose buffer it is
  bool written = false;   ///< by a kernel, or an input
  int shared_with = -1;   ///< the block that took its values over
  int commit_to = -1;     ///< slice input that it replaces at the run's end
  bool replaced = false;  ///< at the run's end, by another block
};

class Placer {
 public:
  explicit Placer(Plan& plan) : plan_(plan), graph_(plan.graph), block_of_(graph_.values.size(), -1) {}

  void run(bool in_place, bool commits) {
    commits_ = commits;
    make_blocks();
    find_lifetimes();
    if (in_place) share_in_place();
    assign();
  }

 private:
  void make_blocks() {
    for (std::size_t v = 0; v < graph_.values.size(); ++v) {
      const int root = root_of(graph_, static_cast<int>(v));
      if (root != static_cast<int>(v)) continue;
      block_of_[v] = static_cast<int>(blocks_.size());
      blocks_.push_back({.value = static_cast<int>(v), .bytes = aligned(graph_.values[v].bytes())});
    }
    for (std::size_t v = 0; v < graph_.values.size(); ++v) {
      const GraphValue& value = graph_.values[v];
      if (value.producer >= 0 && graph_.node(value.producer).dead) continue;
      block_of_[v] = block_of_[static_cast<std::size_t>(root_of(graph_, static_cast<int>(v)))];
      block(static_cast<int>(v)).keep |= value.keep;
    }
    for (std::size_t i = 0; i < graph_.inputs.size(); ++i) {
      Block& input = block(graph_.inputs[i]);
      input.external = static_cast<int>(i);
      input.first = -1;
      input.written = true;
    }
  }

  void find_lifetimes() {
    for (std::size_t s = 0; s < plan_.steps.size(); ++s) {
      const Group& group = group_of_step(s);
      const int step = static_cast<int>(s);
      for (int value : group.inputs) touch(value, step);
      for (int value : group.outputs) write(value, step);
      // A kernel may write values that nobody reads (statistics without a backward): they need a place for
      // one step.
      for (int node : group.nodes) {
        for (int value : graph_.node(node).outputs) {
          if (always_writes(graph_, group, value)) write(value, step);
        }
      }
    }
  }

  /// A result takes over an operand's block where the kernel allows it and nobody needs the operand any more.
  void share_in_place() {
    first_safe_ = first_safe_step(plan_);
    for (std::size_t s = 0; s < plan_.steps.size(); ++s) {
      std::vector<int> taken;  // by another result of this step, which may be used by nobody after it
      for (const auto& [in, out] : plan_.steps[s].kernel->in_place()) {
        if (in < 0 || out < 0) continue;
        const int from = block_id(in), to = block_id(out);
        if (from < 0 || to < 0 || from == to) continue;
        Block& source = blocks_[static_cast<std::size_t>(from)];
        Block& result = blocks_[static_cast<std::size_t>(to)];
        const int step = static_cast<int>(s);
        if (source.keep || result.external >= 0 || source.bytes != result.bytes || source.replaced) continue;
        if (source.external >= 0 && !donated(source.external)) continue;
        if (source.external >= 0 && guarded(source.external) && s < first_safe_) {
          if (commits_ && result.keep) commit(source, result);
          continue;
        }
        if (source.last != step || result.first != step) continue;
        if (read_through_a_view(group_of_step(s), in)) continue;
        if (std::find(taken.begin(), taken.end(), from) != taken.end()) continue;
        taken.push_back(from);
        source.last = std::max(source.last, result.last);
        source.keep = result.keep;
        result = Block{.shared_with = from};
      }
    }
  }

  /// The result stays beside what a failed run goes back to until nothing can fail any more.
  void commit(Block& source, Block& result) {
    if (result.commit_to >= 0) return;
    result.commit_to = source.external;
    result.last = static_cast<int>(plan_.steps.size()) - 1;
    source.replaced = true;
    plan_.commits.push_back({result.value, graph_.inputs[static_cast<std::size_t>(source.external)]});
  }

  void assign() {
    std::vector<int> temporaries;
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      const Block& block = blocks_[b];
      if (block.written && block.external < 0 && (!block.keep || block.commit_to >= 0))
        temporaries.push_back(static_cast<int>(b));
    }
    const std::vector<std::size_t> offsets = pack(temporaries);
    for (int b : temporaries) {
      const Block& block = blocks_[static_cast<std::size_t>(b)];
      plan_.arena.push_back(
          {offsets[static_cast<std::size_t>(b)], block.bytes, block.first, block.last, block.value});
    }
    std::vector<int> pooled(blocks_.size(), -1);
    plan_.storage.resize(graph_.values.size());
    plan_.pointers.assign(graph_.values.size(), nullptr);
    for (std::size_t v = 0; v < graph_.values.size(); ++v) {
      const int b = block_id(static_cast<int>(v));
      if (b < 0 || !blocks_[static_cast<std::size_t>(b)].written) continue;
      const Block& block = blocks_[static_cast<std::size_t>(b)];
      Storage& storage = plan_.storage[v];
      if (block.external >= 0) {
        storage = {Storage::Kind::external, block.external, 0};
      } else if (block.commit_to >= 0) {
        storage = {Storage::Kind::committed, block.commit_to, offsets[static_cast<std::size_t>(b)]};
      } else if (block.keep) {
        int& index = pooled[static_cast<std::size_t>(b)];
        if (index < 0) {
          index = static_cast<int>(plan_.pooled_bytes.size());
          plan_.pooled_bytes.push_back(static_cast<std::int64_t>(block.bytes));
        }
        storage = {Storage::Kind::pooled, index, 0};
      } else {
        storage = {Storage::Kind::arena, 0, offsets[static_cast<std::size_t>(b)]};
      }
    }
  }

  /// Greedy by size: the largest block first, each at the lowest offset that is free for its whole life.
  std::vector<std::size_t> pack(std::vector<int> order) {
    std::vector<std::size_t> offsets(blocks_.size(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return blocks_[static_cast<std::size_t>(a)].bytes > blocks_[static_cast<std::size_t>(b)].bytes;
    });
    std::vector<int> placed;  ///< by offset
    for (int b : order) {
      const Block& block = blocks_[static_cast<std::size_t>(b)];
      std::size_t offset = 0;
      for (int other : placed) {
        const Block& neighbour = blocks_[static_cast<std::size_t>(other)];
        if (neighbour.last < block.first || block.last < neighbour.first) continue;
        const std::size_t start = offsets[static_cast<std::size_t>(other)];
        if (offset + block.bytes <= start) break;
        offset = std::max(offset, start + neighbour.bytes);
      }
      offsets[static_cast<std::size_t>(b)] = offset;
      plan_.arena_bytes = std::max(plan_.arena_bytes, offset + block.bytes);
      const auto place = std::upper_bound(
          placed.begin(), placed.end(), offset,
          [&](std::size_t at, int other) { return at < offsets[static_cast<std::size_t>(other)]; });
      placed.insert(place, b);
    }
    return offsets;
  }

  void touch(int value, int step) { block(value).last = std::max(block(value).last, step); }
  void write(int value, int step) {
    Block& b = block(value);
    b.written = true;
    b.first = std::min(b.first, step);
    b.last = std::max(b.last, step);
  }
  Block& block(int value) {
    const int b = block_id(value);
    FUSETAPE_ASSERT(b >= 0);
    return blocks_[static_cast<std::size_t>(b)];
  }
  /// Follows blocks that were taken over, and shortens the way for the next.
  int block_id(int value) {
    int& b = block_of_[static_cast<std::size_t>(value)];
    while (b >= 0 && blocks_[static_cast<std::size_t>(b)].shared_with >= 0) {
      b = blocks_[static_cast<std::size_t>(b)].shared_with;
    }
    return b;
  }
  /// Whether the group also reads the bytes of `in` under another value, and so perhaps in another order.
  bool read_through_a_view(const Group& group, int in) {
    return std::any_of(group.inputs.begin(), group.inputs.end(),
                       [&](int other) { return other != in && block_id(other) == block_id(in); });
  }
  const Group& group_of_step(std::size_t s) const {
    return plan_.groups[static_cast<std::size_t>(plan_.steps[s].group)];
  }
  const GraphValue& input(int external) const {
    return graph_.value(graph_.inputs[static_cast<std::size_t>(external)]);
  }
  bool donated(int external) const { return input(external).donated; }
  bool guarded(int external) const { return input(external).guarded; }

  Plan& plan_;
  const Graph& graph_;
  std::vector<int> block_of_;   ///< by value; -1: of a dead node
  std::size_t first_safe_ = 0;  ///< from this step on nothing fails
  bool commits_ = false;
  std::vector<Block> blocks_;
};

}  // namespace

std::size_t first_safe_step(const Plan& plan) {
  std::size_t step = plan.steps.size();
  while (step > 0 && !plan.steps[step - 1].kernel->can_fail()) --step;
  return step;
}

void place_memory(Plan& plan, bool in_place, bool commits) { Placer(plan).run(in_place, commits); }

}  // namespace fusetape::plan
