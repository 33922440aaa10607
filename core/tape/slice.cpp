#include "core/tape/slice.hpp"

#include <atomic>
#include <cstring>

#include "core/check.hpp"
#include "core/tape/segment.hpp"

namespace fusetape::core {
namespace {

std::uint64_t next_epoch() {
  static std::atomic<std::uint64_t> epoch{0};
  return epoch.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace

void Slice::read(std::span<Node* const> nodes, const Journal& journal, Segment* open, const Pool& pool) {
  nodes_ = nodes;
  tape_ = nodes.front()->tape;
  epoch_ = next_epoch();
  values_.clear();
  externals_.clear();
  stack_.clear();
  foreign_.clear();
  number_values(journal);
  mark_live_history(open);
  decide_what_lives_on(pool);
}

/// Dense ids in order of first appearance, and how often the slice itself reads each value.
void Slice::number_values(const Journal& journal) {
  const auto enter = [&](Value& value) {
    FlushNotes& entry = notes(value);
    if (entry.epoch == epoch_) return false;
    entry = {.epoch = epoch_, .id = static_cast<std::int32_t>(values_.size())};
    values_.push_back(&value);
    return true;
  };
  for (Node* node : nodes_) {
    node->live = false;
    for (Value* input : node->inputs) {
      if (enter(*input)) externals_.push_back(input);
      ++notes(*input).uses;
    }
    for (int i = 0; i < node->output_count; ++i) enter(node->output(i));
  }
  // The journal's hold on a version is the slice's own, and no user's.
  journal.for_each_version([&](Value& version) {
    if (!in_slice(version)) return;
    FlushNotes& entry = notes(version);
    ++entry.uses;
    entry.guarded = true;
  });
}

/// Nodes that a differentiable handle reaches keep their saves; the others' history ends with this run.
void Slice::mark_live_history(Segment* open) {
  mark_outside_of(open);  // what reads it later is not known
  for (Node* node : nodes_) {
    for (int i = 0; i < node->output_count; ++i) {
      Value& value = node->output(i);
      if (value.requires_grad && value.holds.load(std::memory_order_acquire) > notes(value).uses)
        mark_live(*node);
    }
  }
}

void Slice::mark_live(Node& root) {
  stack_.push_back(&root);
  while (!stack_.empty()) {
    Node& node = *stack_.back();
    stack_.pop_back();
    if (node.live || !node.history || node.executed) continue;
    node.live = true;
    for_each_kept(node, [&](Value& value) { notes(value).saved = true; });
    mark_outside_of(node.segment.get());
    for (Value* input : node.inputs) {
      const Value& before = in_history(*input);
      if (before.node->op != nullptr && before.requires_grad && before.state == State::pending) {
        stack_.push_back(before.node);
      }
    }
  }
}

/// What a checkpoint will be computed again from; what it holds already needs no mark.
void Slice::mark_outside_of(Segment* segment) {
  for (; segment != nullptr && segment->marked != epoch_; segment = segment->parent.get()) {
    segment->marked = epoch_;
    segment->for_each_unheld([&](Value& value) { notes(value).saved = true; });
  }
}

/// Whether anybody beside this slice's own nodes can still name the value.
bool Slice::keeps(Value& value) const {
  const FlushNotes& entry = notes(value);
  return entry.saved || value.holds.load(std::memory_order_acquire) > entry.uses;
}

/// Once, for key and graph alike: another thread may drop its handles at any time.
void Slice::decide_what_lives_on(const Pool& pool) {
  for (Value* value : values_) notes(*value).kept = keeps(*value);
  for (Value* value : externals_) {
    FlushNotes& entry = notes(*value);
    entry.donated = !entry.kept && !value->scalar && owned_alone(*value, pool);
  }
}

/// Whether nobody else shares the bytes that the run would overwrite: a copy that the run itself makes is its
/// own.
bool Slice::owned_alone(const Value& value, const Pool& pool) const {
  if (value.buffer.get()->pool == &pool) return value.buffer.exclusive();
  const Buffer* copy = value.copy.load(std::memory_order_acquire);
  return copy == nullptr || copy->refs.load(std::memory_order_acquire) == 1;
}

void Slice::write_key(plan::PlanCache::Key& key) const {
  key.push_back(externals_.size());
  const auto push_type = [&key](const Value& value, std::uint64_t facts) {
    key.push_back(facts << 32 | static_cast<std::uint64_t>(value.dtype) << 16 |
                  static_cast<std::uint64_t>(value.shape.rank()) << 8 | (value.scalar ? 2u : 0u));
    for (std::int64_t extent : value.shape) key.push_back(static_cast<std::uint64_t>(extent));
  };
  for (Value* value : externals_) {
    const FlushNotes& entry = notes(*value);
    push_type(*value, static_cast<std::uint64_t>(entry.id) << 2 | (entry.donated && entry.guarded ? 2u : 0u) |
                          (entry.donated ? 1u : 0u));
  }
  for (const Node* node : nodes_) {
    // Shapes and dtypes of outputs follow from the inputs and attributes, but where a user's own rule says.
    std::uint64_t kept = 0;
    for (int i = 0; i < node->output_count; ++i)
      kept |= static_cast<std::uint64_t>(notes(node->outputs[i]).kept) << i;
    key.push_back(reinterpret_cast<std::uintptr_t>(node->op));
    key.push_back(static_cast<std::uint64_t>(node->phase) << 56 |
                  static_cast<std::uint64_t>(node->recomputed) << 55 | node->inputs.size() << 32 | kept);
    for (Value* input : node->inputs) key.push_back(static_cast<std::uint64_t>(notes(*input).id));
    for (std::int64_t word : node->attrs.words()) key.push_back(static_cast<std::uint64_t>(word));
    for (int i = 0; node->op->run != nullptr && i < node->output_count; ++i)
      push_type(node->outputs[i], static_cast<std::uint64_t>(i));
  }
}

plan::Graph Slice::graph() const {
  plan::Graph graph;
  graph.values.resize(values_.size());
  for (Value* value : values_) {
    plan::GraphValue& out = graph.values[static_cast<std::size_t>(notes(*value).id)];
    out.shape = value->shape;
    out.dtype = value->dtype;
    out.keep = notes(*value).kept;
    out.scalar = value->scalar;
  }
  for (Value* value : externals_) {
    const FlushNotes& entry = notes(*value);
    graph.inputs.push_back(entry.id);
    graph.values[static_cast<std::size_t>(entry.id)].donated = entry.donated;
    graph.values[static_cast<std::size_t>(entry.id)].guarded = entry.donated && entry.guarded;
  }
  graph.nodes.reserve(nodes_.size());
  for (const Node* node : nodes_) {
    plan::GraphNode out;
    out.op = node->op;
    out.attrs = node->attrs;
    out.phase = node->phase;
    out.at = node->at;
    out.module_path = node->module_path;
    out.recomputed = node->recomputed;
    const int id = static_cast<int>(graph.nodes.size());
    out.recorded = id;
    for (Value* input : node->inputs) out.inputs.push_back(notes(*input).id);
    for (int i = 0; i < node->output_count; ++i) {
      const int value = notes(node->outputs[i]).id;
      graph.values[static_cast<std::size_t>(value)].producer = id;
      graph.values[static_cast<std::size_t>(value)].output = i;
      out.outputs.push_back(value);
    }
    graph.nodes.push_back(std::move(out));
  }
  return graph;
}

bool Slice::same_number(int a, int b) const {
  const Value &x = *externals_[static_cast<std::size_t>(a)], &y = *externals_[static_cast<std::size_t>(b)];
  return x.dtype == y.dtype && std::memcmp(x.inline_data, y.inline_data, size_of(x.dtype)) == 0;
}

const Node* Slice::node_of_attribute(const plan::PlanCache::Key& key, std::size_t word) const {
  std::size_t end = key.size();
  for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) {
    for (int i = 0; (*node)->op->run != nullptr && i < (*node)->output_count; ++i)
      end -= 1 + static_cast<std::size_t>((*node)->outputs[i].shape.rank());
    const std::size_t attributes = end - (*node)->attrs.words().size();
    if (word >= end) return nullptr;
    if (word >= attributes) return *node;
    end = attributes - (*node)->inputs.size() - 2;
  }
  return nullptr;
}

}  // namespace fusetape::core
