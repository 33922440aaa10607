#include "core/tape/value.hpp"

#include <new>
#include <vector>

#include "core/check.hpp"
#include "core/plan/backend.hpp"
#include "core/tape/segment.hpp"
#include "core/tape/thread_end.hpp"

namespace fusetape::core {
namespace {

constexpr int pooled_outputs = 6;
/// More than a step of a large model records; past it, a thread that only frees would hoard.
constexpr std::size_t longest_list = 16'384;

/// Freed nodes by output count. Thread-local: a node freed on another thread joins that thread's list.
struct NodeLists {
  std::vector<void*> lists[pooled_outputs + 1];
  std::vector<Node*> doomed;  ///< of the chain that is being freed; kept for its capacity
  ~NodeLists() {
    for (auto& list : lists) {
      for (void* block : list) ::operator delete(block);
    }
  }
  EndsWithThread end;  ///< the last member: the first to go
};

NodeLists& node_lists() {
  static thread_local NodeLists lists;
  return lists;
}

void free_node(Node* node) {
  const int count = node->output_count;
  for (int i = 0; i < count; ++i) node->outputs[i].~Value();
  node->~Node();
  if (count <= pooled_outputs && !thread_ends && node_lists().lists[count].size() < longest_list) {
    node_lists().lists[count].push_back(node);
  } else {
    ::operator delete(node);
  }
}

}  // namespace

Node* make_node(int outputs) {
  void* block = nullptr;
  if (outputs <= pooled_outputs && !node_lists().lists[outputs].empty()) {
    block = node_lists().lists[outputs].back();
    node_lists().lists[outputs].pop_back();
  } else {
    block = ::operator new(sizeof(Node) + static_cast<std::size_t>(outputs) * sizeof(Value));
  }
  static_assert(sizeof(Node) % alignof(Value) == 0);
  Node* node = ::new (block) Node;
  node->output_count = static_cast<std::uint8_t>(outputs);
  node->outputs = reinterpret_cast<Value*>(static_cast<std::byte*>(block) + sizeof(Node));
  for (int i = 0; i < outputs; ++i) {
    Value* value = ::new (static_cast<void*>(node->outputs + i)) Value;
    value->node = node;
    value->index = static_cast<std::uint8_t>(i);
  }
  return node;
}

void free_chain(Node* node) {
  // Chains are as long as the user's program: no recursion. What a node's checkpoint and hooks let go of
  // comes back here, and joins the list.
  static thread_local std::vector<Node*>* freeing = nullptr;
  if (freeing != nullptr) {
    freeing->push_back(node);
    return;
  }
  std::vector<Node*> own;
  std::vector<Node*>& doomed = thread_ends ? own : node_lists().doomed;
  doomed.push_back(node);
  freeing = &doomed;
  while (!doomed.empty()) {
    Node* next = doomed.back();
    doomed.pop_back();
    if (next->executed && next->history) for_each_kept(*next, unhold);
    for (Value* input : next->inputs) {
      if (input->node->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) doomed.push_back(input->node);
    }
    next->inputs.clear();
    for (int i = 0; i < next->output_count; ++i) {
      const Value* original = next->output(i).original;
      if (original != nullptr && original->node->refs.fetch_sub(1, std::memory_order_acq_rel) == 1)
        doomed.push_back(original->node);
    }
    free_node(next);
  }
  freeing = nullptr;
}

Buffer* buffer_in(Value& value, Pool& pool, const void* preferred) {
  Buffer* const own = value.buffer.get();
  if (own->pool == &pool) return own;
  Buffer* copy = value.copy.load(std::memory_order_acquire);
  if (copy == nullptr) {
    BufferRef made = pool.allocate(value.bytes(), preferred);
    plan::Backend& device = pool.backend().on_host() ? own->pool->backend() : pool.backend();
    FUSETAPE_ASSERT(!device.on_host() && (pool.backend().on_host() || own->pool->backend().on_host()));
    if (&device == &pool.backend()) {
      device.upload(made.data(), own->data, value.bytes());
    } else {
      device.download(made.data(), own->data, value.bytes());
    }
    // Another thread may have been faster: then its copy counts, and ours goes.
    if (value.copy.compare_exchange_strong(copy, made.get(), std::memory_order_acq_rel))
      copy = made.release();
  }
  FUSETAPE_ASSERT(copy->pool == &pool);
  return copy;
}

const void* host_data(Value& value) {
  return value.scalar ? static_cast<const void*>(value.inline_data) : buffer_in(value, host_pool())->data;
}

bool computed_again(const Node& node, const Value& value) {
  return node.segment != nullptr && node.segment->around(value) != nullptr;
}

void forget_history(Node& node) {
  if (node.executed && node.history) for_each_kept(node, unhold);
  if (node.history) node.hooks.reset();
  node.segment.reset();
  node.history = false;
  if (!node.executed) return;
  InlineVector<Value*, 16> inputs = std::move(node.inputs);
  for (Value* input : inputs) dereference(input->node);
}

}  // namespace fusetape::core
