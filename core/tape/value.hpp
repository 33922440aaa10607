#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "core/op/op.hpp"
#include "core/plan/graph.hpp"
#include "core/tape/memory.hpp"

/// Nodes and their values: the tape's memory model.
///
/// A node and its output values are one object with one reference count, so a node may save its own outputs
/// without a cycle. Beside that, every value counts who still needs its *data* (`holds`): handles in users'
/// hands, pending nodes that will read it, and executed nodes that saved it for backward. When the last of
/// them goes, so does the buffer, although the node may live on as a link of the history.
namespace fusetape::core {

class Tape;
class Segment;
struct GradientHooks;
struct Node;

enum class State : std::uint8_t {
  pending,  ///< recorded, not run
  ready,    ///< has data
  dropped,  ///< was run or fused away; nobody could name it
  lost,     ///< a run failed before it was written
};

/// What a flush notes about a value that it meets; valid while `epoch` is the flush's number.
struct FlushNotes {
  std::uint64_t epoch = 0;
  std::int32_t id = -1;
  std::int32_t uses = 0;
  bool saved = false;
  bool kept = false;     ///< somebody beside the slice's own nodes can name the value
  bool donated = false;  ///< an input that nobody can name after the run
  bool guarded = false;  ///< the journal remembers it: a cell goes back to it where the run fails
};

struct Value {
  Node* node = nullptr;
  std::atomic<std::int32_t> holds{0};
  std::atomic<State> state{State::pending};
  DType dtype = DType::f32;
  bool requires_grad = false;
  bool scalar = false;        ///< data is `inline_data`
  bool number = false;        ///< a scalar that a caller wrote as a number (TensorInfo::number)
  bool planned_only = false;  ///< by a backend that computes nothing: the data means nothing
  std::uint8_t index = 0;
  Shape shape;
  BufferRef buffer;
  /// The same bytes in other memory than the buffer's, once a run or a reader there needed them. Referenced.
  std::atomic<Buffer*> copy{nullptr};
  Value* original = nullptr;  ///< of a value that a checkpoint computed again: its place in the history
  alignas(8) std::byte inline_data[8];

  FlushNotes
      notes;  ///< only for the thread of `node->tape`: others may read the value in flushes of their own

  Value() = default;
  ~Value() { drop_copy(); }
  Value(const Value&) = delete;
  Value& operator=(const Value&) = delete;

  std::size_t bytes() const { return static_cast<std::size_t>(shape.elements()) * size_of(dtype); }
  void drop_copy() { BufferRef::adopt(copy.exchange(nullptr, std::memory_order_acq_rel)); }
};

struct Node {
  std::atomic<std::int32_t> refs{0};
  std::uint8_t output_count = 0;
  std::atomic<bool> history{false};   ///< its gradient may still be asked for
  std::atomic<bool> released{false};  ///< it had history; a backward() used it up
  bool executed = false;              ///< its saves are held
  bool live = false;                  ///< scratch of a flush: reachable from a differentiable handle
  bool recomputed = false;            ///< computes a checkpointed op again
  plan::Phase phase = plan::Phase::forward;
  const OpDef* op = nullptr;  ///< nullptr: a leaf
  Tape* tape = nullptr;       ///< of the thread that recorded or made it
  std::uint64_t sequence = 0;
  std::atomic<std::uint64_t> visit{0};  ///< the backward traversal that works on it; 0: none
  bool leads = false;                   ///< scratch of that traversal: to what the gradients are wanted of
  std::uint32_t wanted = 0;             ///< inputs (bits) that required a gradient at recording
  Saves saves;                          ///< what their gradients read
  Value* outputs = nullptr;
  InlineVector<Value*, 16> inputs;  ///< referenced; each holds data while pending
  Attrs attrs;
  Location at;
  const std::string* module_path = nullptr;
  std::weak_ptr<Cell> cell;                    ///< leaf: where gradients are collected
  std::shared_ptr<const std::string> failure;  ///< of a run that lost its outputs
  std::shared_ptr<Segment> segment;            ///< with history: the checkpoint that it was recorded in
  std::shared_ptr<GradientHooks> hooks;

  Value& output(int i) { return outputs[i]; }
  bool saves_input(int i) const { return (saves.inputs & bit(i)) != 0; }
  bool saves_output(int i) const { return (saves.outputs & bit(i)) != 0; }
};

/// Where the history goes on from an input. A value that was computed again only lends its data: gradients,
/// hooks and requests for a gradient are those of the value that it stands for.
inline Value& in_history(Value& value) { return value.original != nullptr ? *value.original : value; }

/// Whether the node's checkpoint computes the value again for its gradient.
bool computed_again(const Node& node, const Value& value);

/// Calls visit(value) for what must be kept until the gradient of an executed node is recorded: its saves,
/// but for those that its checkpoint computes again.
template <class Visit>
void for_each_kept(Node& node, Visit&& visit) {
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    Value& input = *node.inputs[i];
    if (node.saves_input(static_cast<int>(i)) && !computed_again(node, input)) visit(input);
  }
  for (int i = 0; i < node.output_count; ++i) {
    Value& output = node.output(i);
    if (node.saves_output(i) && !computed_again(node, output)) visit(output);
  }
}

/// What a Cell or Parameter shares between its copies.
struct Cell : std::enable_shared_from_this<Cell> {
  Tensor value;
  Tensor gradient;
  std::shared_ptr<GradientHooks> hooks;
  std::string name;
  bool is_parameter = false;
  bool requires_grad = false;
};

/// A node with `outputs` uninitialised-but-constructed values, refs == 0.
Node* make_node(int outputs);
/// Frees what nobody refers to any more: whole chains, without recursion.
void free_chain(Node* node);
inline void reference(Node* node) { node->refs.fetch_add(1, std::memory_order_relaxed); }
inline void dereference(Node* node) {
  if (node->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) free_chain(node);
}

inline void hold(Value& value) { value.holds.fetch_add(1, std::memory_order_relaxed); }
/// The last hold frees the data.
inline void unhold(Value& value) {
  if (value.holds.fetch_sub(1, std::memory_order_acq_rel) != 1 || value.state != State::ready) return;
  value.buffer.reset();
  value.drop_copy();
  value.state = State::dropped;
}

/// Where the bytes of a ready value are in `pool`'s memory: its own buffer, or a copy, which is made where
/// there is none. Not of scalars.
/// `preferred`: as Pool::allocate takes it.
Buffer* buffer_in(Value& value, Pool& pool, const void* preferred = nullptr);
/// The bytes of a ready value, to be read on the host.
const void* host_data(Value& value);

/// A leaf with a fresh buffer of the host pool; the data is written by the caller.
Tensor make_leaf(const Shape& shape, DType dtype, void** data, Location at);

/// After a run or a backward(): the node is no link of the history any more.
void forget_history(Node& node);

}  // namespace fusetape::core
