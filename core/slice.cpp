#include "core/slice.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>

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

std::uint64_t word_of(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

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
    tape_.lose_pending(error.what());
    throw Error("run", error.what(), at);
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
    throw Error("plan", error.what(), at);
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

void Slice::write_key() {
  plan::PlanCache::Key& key = tape_.key_;
  key.clear();
  const Settings& settings = tape_.settings;
  key.push_back(word_of(settings.backend));
  key.push_back(settings.rules);
  key.push_back(
      static_cast<std::uint64_t>(settings.fusion) | static_cast<std::uint64_t>(settings.deterministic) << 1 |
      static_cast<std::uint64_t>(settings.retention) << 2 |
      static_cast<std::uint64_t>(settings.anomaly) << 4 |
      static_cast<std::uint64_t>(settings.conv_algorithm) << 5 |
      static_cast<std::uint64_t>(settings.tuning) << 7 | static_cast<std::uint64_t>(settings.tf32) << 8 |
      static_cast<std::uint64_t>(settings.threads) << 9);
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
    key.push_back(word_of(node->op));
    key.push_back(static_cast<std::uint64_t>(node->phase) << 56 |
                  static_cast<std::uint64_t>(node->recomputed) << 55 | node->inputs.size() << 32 | kept);
    for (Value* input : node->inputs) key.push_back(static_cast<std::uint64_t>(notes(*input).id));
    for (std::int64_t word : node->attrs.words()) key.push_back(static_cast<std::uint64_t>(word));
    for (int i = 0; node->op->run != nullptr && i < node->output_count; ++i)
      push_type(node->outputs[i], static_cast<std::uint64_t>(i));
  }
}

plan::Graph Slice::build_graph() const {
  plan::Graph graph;
  graph.conv_algorithm = tape_.settings.conv_algorithm;
  graph.timing = tape_.settings.tuning && !tape_.settings.deterministic;
  graph.tf32 = tape_.settings.tf32;
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

plan::Plan& Slice::find_or_make_plan() {
  write_key();
  if (plan::Plan* plan = tape_.cache.find(tape_.key_, [this](const plan::Plan& p) { return fits(p); }))
    return *plan;
  note_changing_number();
  const Settings& settings = tape_.settings;
  const plan::RuleSet rules = settings.fusion ? settings.rules : plan::in_place_only();
  const plan::Options options{.rules = settings.anomaly ? plan::RuleSet{0} : rules,
                              .retention = settings.retention,
                              .deterministic = settings.deterministic,
                              .tuning = settings.tuning && !settings.deterministic,
                              .threads = settings.threads,
                              .backend = settings.backend,
                              .taken = &tape_.taken_kernels};
  plan::Graph graph = build_graph();
  plan::EqualInputs equal = share_numbers(graph);
  plan::Plan& plan = *tape_.cache.insert(tape_.key_, plan::make_plan(std::move(graph), options));
  plan.equal_inputs = std::move(equal);
  note_cache(*plan.report);
  explain_as_asked(*plan.report);
  return plan;
}

/// Whether two inputs are scalars of the same bits.
bool Slice::same_number(int a, int b) const {
  const Value &x = *externals_[static_cast<std::size_t>(a)], &y = *externals_[static_cast<std::size_t>(b)];
  return x.dtype == y.dtype && std::memcmp(x.inline_data, y.inline_data, size_of(x.dtype)) == 0;
}

bool Slice::fits(const plan::Plan& plan) const {
  return std::all_of(plan.equal_inputs.begin(), plan.equal_inputs.end(),
                     [this](const auto& pair) { return same_number(pair.first, pair.second); });
}

/// Numbers that were equal before and are not now go apart for good: a number that meets another now and then
/// makes no new plans.
plan::EqualInputs Slice::share_numbers(plan::Graph& graph) const {
  std::vector<int> together(externals_.size());  // by input: which of them may be one
  if (const plan::Plan* const before = tape_.cache.known(tape_.key_)) {
    std::iota(together.begin(), together.end(), 0);
    for (const auto& [one, other] : before->equal_inputs) together[static_cast<std::size_t>(one)] = other;
  }
  return plan::share_equal_numbers(graph, [&](int a, int b) {
    return together[static_cast<std::size_t>(a)] == together[static_cast<std::size_t>(b)] &&
           same_number(a, b);
  });
}

/// The node whose attributes hold this word of the key; nullptr: none.
const Node* Slice::node_of_attribute(std::size_t word) const {
  std::size_t end = tape_.key_.size();
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

void Slice::note_changing_number() {
  constexpr int others = 2;
  if (tape_.noted_changing_number_) return;
  const std::optional<std::size_t> word = tape_.cache.only_difference(tape_.key_, others);
  const Node* const node = word ? node_of_attribute(*word) : nullptr;
  if (node == nullptr) return;
  std::fprintf(
      stderr,
      "fusetape: %d plans differ in one number only, an attribute of %s (%s:%u), and each new one makes "
      "another plan. What changes from step to step should be a tensor: see fusetape::scalar\n",
      others + 1, std::string(node->op->name).c_str(), node->at.file_name(), node->at.line());
  tape_.noted_changing_number_ = true;
}

void Slice::note_cache(Report& report) const {
  const CacheStats cache = tape_.cache.stats();
  report.cache_hits = cache.hits;
  report.cache_misses = cache.misses;
}

/// A device reads scalars from its own memory, all of them copied there at once.
void Slice::bind_scalars(plan::Plan& plan, std::byte* block) {
  FUSETAPE_ASSERT(word_of(block) % scalar_stride == 0);
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
