#include "core/slice.hpp"

#include <algorithm>
#include <cstring>
#include <functional>

#include "core/anomaly.hpp"
#include "core/check.hpp"
#include "core/denormals.hpp"
#include "core/explain.hpp"
#include "core/segment.hpp"

namespace fusetape::core {
namespace {

std::uint64_t next_epoch() {
  static std::atomic<std::uint64_t> epoch{0};
  return epoch.fetch_add(1, std::memory_order_relaxed) + 1;
}

constexpr std::size_t scalar_stride = 16;

std::string reason_of(const std::exception& error) {
  const bool memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
  return memory ? "expected memory for the plan, got none" : error.what();
}

}  // namespace

Slice::Slice(Tape& tape, std::span<Node* const> nodes)
    : tape_(tape),
      pool_(pool_of(*tape.settings.backend)),
      nodes_(nodes),
      values_(tape.lists_.values),
      externals_(tape.lists_.externals),
      pooled_(tape.lists_.pooled) {}

Slice::~Slice() {
  values_.clear();
  externals_.clear();
  pooled_.clear();
}

void Slice::run(Location at) {
  const auto turn = tape_.settings.backend->exclusive();
  try {
    number_values();
    mark_live_history();
    decide_what_lives_on();
    tape_.settings.backend->begin_run();  // what it throws is an earlier run's: this one is not begun
    plan::Plan& plan = prepare(at);
    execute(plan);
    settle(plan);
  } catch (const Error& error) {
    tape_.lose_pending(error.what());
    throw;
  } catch (const std::exception& error) {
    const std::string reason = reason_of(error);
    tape_.lose_pending(reason);
    throw Error("run", reason, at);
  }
}

/// Plan and memory.
plan::Plan& Slice::prepare(Location at) {
  try {
    plan::Plan& plan = find_or_make_plan();
    bind(plan);
    return plan;
  } catch (const Error& error) {
    throw Error(error.op(), error.message(), at);  // the line that asked for the run, not ours
  } catch (const std::exception& error) {
    throw Error("plan", reason_of(error), at);
  }
}

/// Dense ids in order of first appearance, and how often the slice itself reads each value.
void Slice::number_values() {
  epoch_ = next_epoch();
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
  tape_.journal.for_each_version([&](Value& version) {
    if (!in_slice(version)) return;
    FlushNotes& entry = notes(version);
    ++entry.uses;
    entry.guarded = true;
  });
}

/// Nodes that a differentiable handle reaches keep their saves; the others' history ends with this run.
void Slice::mark_live_history() {
  mark_outside_of(tape_.segment.get());  // still open: what reads it later is not known
  for (Node* node : nodes_) {
    for (int i = 0; i < node->output_count; ++i) {
      Value& value = node->output(i);
      if (value.requires_grad && value.holds.load(std::memory_order_acquire) > notes(value).uses)
        mark_live(*node);
    }
  }
}

void Slice::mark_live(Node& root) {
  std::vector<Node*>& stack = tape_.lists_.stack;
  stack.push_back(&root);
  while (!stack.empty()) {
    Node& node = *stack.back();
    stack.pop_back();
    if (node.live || !node.history || node.executed) continue;
    node.live = true;
    for_each_kept(node, [&](Value& value) { notes(value).saved = true; });
    mark_outside_of(node.segment.get());
    for (Value* input : node.inputs) {
      const Value& before = in_history(*input);
      if (before.node->op != nullptr && before.requires_grad && before.state == State::pending) {
        stack.push_back(before.node);
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
void Slice::decide_what_lives_on() {
  for (Value* value : values_) notes(*value).kept = keeps(*value);
  for (Value* value : externals_) {
    FlushNotes& entry = notes(*value);
    entry.donated = !entry.kept && !value->scalar && owned_alone(*value);
  }
}

/// Whether nobody else shares the bytes that the run would overwrite: a copy that the run itself makes is its
/// own.
bool Slice::owned_alone(const Value& value) const {
  if (value.buffer.get()->pool == &pool_) return value.buffer.exclusive();
  const Buffer* copy = value.copy.load(std::memory_order_acquire);
  return copy == nullptr || copy->refs.load(std::memory_order_acquire) == 1;
}

/// A device reads scalars from its own memory, all of them copied there at once.
void Slice::bind_scalars(plan::Plan& plan, std::byte* block) {
  FUSETAPE_ASSERT(reinterpret_cast<std::uintptr_t>(block) % scalar_stride == 0);
  std::vector<std::byte>& bytes = plan.scalars;
  bytes.resize(externals_.size() * scalar_stride);
  for (std::size_t i = 0; i < externals_.size(); ++i) {
    std::memcpy(bytes.data() + i * scalar_stride, externals_[i]->inline_data,
                sizeof(externals_[i]->inline_data));
  }
  tape_.settings.backend->upload(block, bytes.data(), bytes.size());
  tape_.scalars_ = block;
}

void* Slice::external_data(std::size_t index, const void* preferred) const {
  Value& value = *externals_[index];
  if (!value.scalar) return buffer_in(value, pool_, preferred)->data;
  return tape_.settings.backend->on_host() ? static_cast<void*>(value.inline_data)
                                           : tape_.scalars_ + index * scalar_stride;
}

/// Finds every value's bytes. All allocation is here, before the first kernel. On a device values take the
/// places of the plan's last run where those are free: what was captured then can be replayed.
void Slice::bind(plan::Plan& plan) {
  const bool on_host = tape_.settings.backend->on_host();
  const std::size_t scalars = on_host ? 0 : externals_.size() * scalar_stride;
  std::byte* arena = tape_.arena(plan.arena_bytes + plan.scratch_bytes + scalars);
  if (!on_host) bind_scalars(plan, arena + plan.arena_bytes + plan.scratch_bytes);
  pooled_.resize(plan.pooled_bytes.size());
  for (std::size_t id = 0; id < plan.storage.size(); ++id) {
    const plan::Storage& storage = plan.storage[id];
    const auto index = static_cast<std::size_t>(storage.index);
    void*& pointer = plan.pointers[id];
    const void* const before = on_host ? nullptr : pointer;
    switch (storage.kind) {
      case plan::Storage::Kind::none:
        pointer = nullptr;
        break;
      case plan::Storage::Kind::external:
        pointer = external_data(index, before);
        break;
      case plan::Storage::Kind::arena:
      case plan::Storage::Kind::committed:
        pointer = arena + storage.offset;
        break;
      case plan::Storage::Kind::pooled:
        if (!pooled_[index]) {
          pooled_[index] = pool_.allocate(static_cast<std::size_t>(plan.pooled_bytes[index]), before);
        }
        pointer = pooled_[index].data();
        break;
    }
  }
  tape_.scratch_ = arena + plan.arena_bytes;
}

void Slice::run_timed(plan::Step& step, const backends::KernelArgs& args, Report& report) const {
  using Clock = std::chrono::steady_clock;
  using Milliseconds = std::chrono::duration<double, std::milli>;
  const Clock::time_point start = Clock::now();
  step.kernel->run(args);
  tape_.settings.backend->synchronize();
  GroupReport& group = report.groups[static_cast<std::size_t>(step.group)];
  group.milliseconds = Milliseconds(Clock::now() - start).count();
  group.start_ms = Milliseconds(start - began_).count();
}

void Slice::run_each(plan::Plan& plan, const backends::KernelArgs& args) const {
  for (plan::Step& step : plan.steps) {
    try {
      if (tape_.settings.profiling) {
        run_timed(step, args, *plan.report);
      } else {
        step.kernel->run(args);
      }
      if (tape_.settings.anomaly) require_finite(plan, step, values_, *tape_.settings.backend);
    } catch (const Error& error) {
      const Node& node = *nodes_[static_cast<std::size_t>(plan.graph.node(step.node).recorded)];
      const std::string path = node.module_path != nullptr ? *node.module_path : "";
      throw Error(std::string(node.op->name), error.message(), node.at, path);
    }
  }
  if (plan.commit != nullptr) plan.commit->run(args);
}

void Slice::execute(plan::Plan& plan) {
  const Settings& settings = tape_.settings;
  if (!settings.backend->executes()) return;
  const FlushDenormals flush(settings.flush_denormals && settings.backend->on_host());
  const backends::KernelArgs args{plan.pointers.data(), tape_.scratch_};
  if (plan.replay != nullptr && settings.capture && !settings.profiling && !settings.anomaly) {
    const auto each = [&] { run_each(plan, args); };
    plan.replay->run(args, std::cref(each));  // by reference: nothing is allocated for it
    plan.report->replay = plan.replay->how();
  } else {
    run_each(plan, args);
    const char* how =
        settings.capture ? "one by one: each kernel is looked at" : "one by one: graphs are off";
    plan.report->replay = plan.replay != nullptr ? how : "";
  }
  settings.backend->end_run();
}

/// Hands buffers to the values that live on and lets go of the rest.
void Slice::settle(plan::Plan& plan) {
  note_cache(*plan.report);
  tape_.last_report = plan.report;
  for (Value* value : values_) {
    if (value->state != State::pending) continue;
    const plan::Storage& storage = plan.storage[static_cast<std::size_t>(notes(*value).id)];
    if (!keeps(*value)) {
      value->state = State::dropped;
      continue;
    }
    if (storage.kind == plan::Storage::Kind::pooled) {
      value->buffer = pooled_[static_cast<std::size_t>(storage.index)];
    } else {
      FUSETAPE_ASSERT(storage.kind == plan::Storage::Kind::external ||
                      storage.kind == plan::Storage::Kind::committed);
      Value& source = *externals_[static_cast<std::size_t>(storage.index)];
      value->scalar = source.scalar;
      std::memcpy(value->inline_data, source.inline_data, sizeof(value->inline_data));
      // Where the run read and perhaps wrote: not the buffer, where that is in other memory.
      if (!source.scalar) value->buffer = BufferRef(buffer_in(source, pool_));
    }
    value->planned_only = !tape_.settings.backend->executes();
    value->state = State::ready;  // last: another thread that holds a handle may look
  }
  tape_.finish_slice();
}

}  // namespace fusetape::core
