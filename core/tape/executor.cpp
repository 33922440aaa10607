#include "core/tape/executor.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>

#include "core/check.hpp"
#include "core/numerics/denormals.hpp"
#include "core/tape/anomaly.hpp"
#include "core/tape/explain.hpp"

namespace fusetape::core {
namespace {

constexpr std::size_t scalar_stride = 16;

}  // namespace

std::string reason_of(const std::exception& error) {
  const bool memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
  return memory ? "expected memory for the plan, got none" : error.what();
}

void Executor::run(std::span<Node* const> nodes, const Journal& journal, Segment* open, Location at) {
  began_ = Clock::now();
  const auto turn = settings_.backend->exclusive();
  const struct LetGo {
    std::vector<BufferRef>& buffers;
    ~LetGo() { buffers.clear(); }
  } let_go{pooled_};
  pool_ = &pool_of(*settings_.backend);
  slice_.read(nodes, journal, open, *pool_);
  settings_.backend->begin_run();  // what it throws is an earlier run's: this one is not begun
  plan::Plan& plan = prepare(at);
  execute(plan);
  settle(plan);
}

/// Plan and memory.
plan::Plan& Executor::prepare(Location at) {
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

plan::Plan& Executor::find_or_make_plan() {
  const Settings& settings = settings_;
  key_.assign({reinterpret_cast<std::uintptr_t>(settings.backend), settings.rules, settings.key(),
               static_cast<std::uint64_t>(settings.threads)});
  slice_.write_key(key_);
  if (plan::Plan* plan = cache.find(key_, [this](const plan::Plan& p) { return fits(p); })) return *plan;
  note_changing_number();
  const plan::RuleSet rules = settings.fusion ? settings.rules : plan::in_place_only();
  const plan::Options options{.rules = settings.anomaly ? plan::RuleSet{0} : rules,
                              .retention = settings.retention,
                              .deterministic = settings.deterministic,
                              .tuning = settings.tuning && !settings.deterministic,
                              .threads = settings.threads,
                              .backend = settings.backend,
                              .taken = &taken_kernels};
  plan::Graph graph = slice_.graph();
  graph.conv_algorithm = settings.conv_algorithm;
  graph.timing = options.tuning;
  graph.tf32 = settings.tf32;
  plan::EqualInputs equal = share_numbers(graph);
  plan::Plan& plan = *cache.insert(key_, plan::make_plan(std::move(graph), options));
  plan.equal_inputs = std::move(equal);
  note_cache(*plan.report);
  explain_as_asked(*plan.report);
  return plan;
}

bool Executor::fits(const plan::Plan& plan) const {
  return std::all_of(plan.equal_inputs.begin(), plan.equal_inputs.end(),
                     [this](const auto& pair) { return slice_.same_number(pair.first, pair.second); });
}

/// Numbers that were equal before and are not now go apart for good: a number that meets another now and then
/// makes no new plans.
plan::EqualInputs Executor::share_numbers(plan::Graph& graph) const {
  std::vector<int> together(slice_.externals().size());  // by input: which of them may be one
  if (const plan::Plan* const before = cache.known(key_)) {
    std::iota(together.begin(), together.end(), 0);
    for (const auto& [one, other] : before->equal_inputs) together[static_cast<std::size_t>(one)] = other;
  }
  return plan::share_equal_numbers(graph, [&](int a, int b) {
    return together[static_cast<std::size_t>(a)] == together[static_cast<std::size_t>(b)] &&
           slice_.same_number(a, b);
  });
}

void Executor::note_changing_number() {
  constexpr int others = 2;
  if (noted_changing_number_) return;
  const std::optional<std::size_t> word = cache.only_difference(key_, others);
  const Node* const node = word ? slice_.node_of_attribute(key_, *word) : nullptr;
  if (node == nullptr) return;
  std::fprintf(
      stderr,
      "fusetape: %d plans differ in one number only, an attribute of %s (%s:%u), and each new one makes "
      "another plan. What changes from step to step should be a tensor: see fusetape::scalar\n",
      others + 1, std::string(node->op->name).c_str(), node->at.file_name(), node->at.line());
  noted_changing_number_ = true;
}

void Executor::note_cache(Report& report) const {
  const CacheStats stats = cache.stats();
  report.cache_hits = stats.hits;
  report.cache_misses = stats.misses;
}

/// Room for a run.
std::byte* Executor::arena(std::size_t bytes) {
  if (bytes > arena_bytes_ || !arena_buffer_ || arena_buffer_.get()->pool != pool_) {
    if (arena_buffer_) {
      Pool& before = *arena_buffer_.get()->pool;
      arena_buffer_.reset();      // first: the two together may not fit
      before.trim(arena_bytes_);  // too small for every later run; few values are as large
    }
    arena_bytes_ = 0;
    arena_buffer_ = pool_->allocate(bytes);
    arena_bytes_ = arena_buffer_.get()->bytes;  // as the pool counts it
  }
  return static_cast<std::byte*>(arena_buffer_.data());
}

/// A device reads scalars from its own memory, all of them copied there at once.
void Executor::upload_scalars(plan::Plan& plan, std::byte* block) {
  FUSETAPE_ASSERT(reinterpret_cast<std::uintptr_t>(block) % scalar_stride == 0);
  const std::vector<Value*>& externals = slice_.externals();
  std::vector<std::byte>& bytes = plan.scalars;
  bytes.resize(externals.size() * scalar_stride);
  for (std::size_t i = 0; i < externals.size(); ++i) {
    std::memcpy(bytes.data() + i * scalar_stride, externals[i]->inline_data,
                sizeof(externals[i]->inline_data));
  }
  settings_.backend->upload(block, bytes.data(), bytes.size());
}

/// `scalars`: where upload_scalars() put them; nullptr: nowhere.
void* Executor::external_data(std::size_t index, std::byte* scalars, const void* preferred) const {
  Value& value = *slice_.externals()[index];
  if (!value.scalar) return buffer_in(value, *pool_, preferred)->data;
  return scalars != nullptr ? scalars + index * scalar_stride : value.inline_data;
}

/// Finds every value's bytes. All allocation is here, before the first kernel. On a device values take the
/// places of the plan's last run where those are free: what was captured then can be replayed.
void Executor::bind(plan::Plan& plan) {
  const bool on_host = settings_.backend->on_host();
  const std::size_t own_bytes = plan.arena_bytes + plan.scratch_bytes;
  std::byte* const begin = arena(own_bytes + (on_host ? 0 : slice_.externals().size() * scalar_stride));
  std::byte* const scalars = on_host ? nullptr : begin + own_bytes;
  if (!on_host) upload_scalars(plan, scalars);
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
        pointer = external_data(index, scalars, before);
        break;
      case plan::Storage::Kind::arena:
      case plan::Storage::Kind::committed:
        pointer = begin + storage.offset;
        break;
      case plan::Storage::Kind::pooled:
        if (!pooled_[index]) {
          pooled_[index] = pool_->allocate(static_cast<std::size_t>(plan.pooled_bytes[index]), before);
        }
        pointer = pooled_[index].data();
        break;
    }
  }
}

void Executor::run_timed(plan::Step& step, const plan::KernelArgs& args, Report& report) const {
  using Milliseconds = std::chrono::duration<double, std::milli>;
  const Clock::time_point start = Clock::now();
  step.kernel->run(args);
  settings_.backend->synchronize();
  GroupReport& group = report.groups[static_cast<std::size_t>(step.group)];
  group.milliseconds = Milliseconds(Clock::now() - start).count();
  group.start_ms = Milliseconds(start - began_).count();
}

void Executor::run_each(plan::Plan& plan, const plan::KernelArgs& args) const {
  for (plan::Step& step : plan.steps) {
    try {
      if (settings_.profiling) {
        run_timed(step, args, *plan.report);
      } else {
        step.kernel->run(args);
      }
      if (settings_.anomaly) require_finite(plan, step, slice_.values(), *settings_.backend);
    } catch (const Error& error) {
      const Node& node = *slice_.nodes()[static_cast<std::size_t>(plan.graph.node(step.node).recorded)];
      const std::string path = node.module_path != nullptr ? *node.module_path : "";
      throw Error(std::string(node.op->name), error.message(), node.at, path);
    }
  }
  if (plan.commit != nullptr) plan.commit->run(args);
}

void Executor::execute(plan::Plan& plan) {
  if (!settings_.backend->executes()) return;
  const FlushDenormals flush(settings_.flush_denormals && settings_.backend->on_host());
  std::byte* const scratch = static_cast<std::byte*>(arena_buffer_.data()) + plan.arena_bytes;
  const plan::KernelArgs args{.values = plan.pointers.data(),
                              .scratch = scratch,
                              .rooms = {.first = scratch + plan.rooms_at, .stride = plan.room_stride}};
  if (plan.replay != nullptr && settings_.capture && !settings_.profiling && !settings_.anomaly) {
    const auto each = [&] { run_each(plan, args); };
    plan.replay->run(args, std::cref(each));  // by reference: nothing is allocated for it
    plan.report->replay = plan.replay->how();
  } else {
    run_each(plan, args);
    const char* how =
        settings_.capture ? "one by one: each kernel is looked at" : "one by one: graphs are off";
    plan.report->replay = plan.replay != nullptr ? how : "";
  }
  settings_.backend->end_run();
}

/// Hands buffers to the values that live on and lets go of the rest.
void Executor::settle(plan::Plan& plan) {
  note_cache(*plan.report);
  last_report = plan.report;
  for (Value* value : slice_.values()) {
    if (value->state != State::pending) continue;
    const plan::Storage& storage = plan.storage[slice_.id_of(*value)];
    if (!slice_.keeps(*value)) {
      value->state = State::dropped;
      continue;
    }
    if (storage.kind == plan::Storage::Kind::pooled) {
      value->buffer = pooled_[static_cast<std::size_t>(storage.index)];
    } else {
      FUSETAPE_ASSERT(storage.kind == plan::Storage::Kind::external ||
                      storage.kind == plan::Storage::Kind::committed);
      Value& source = *slice_.externals()[static_cast<std::size_t>(storage.index)];
      value->scalar = source.scalar;
      std::memcpy(value->inline_data, source.inline_data, sizeof(value->inline_data));
      // Where the run read and perhaps wrote: not the buffer, where that is in other memory.
      if (!source.scalar) value->buffer = BufferRef(buffer_in(source, *pool_));
    }
    value->planned_only = !settings_.backend->executes();
    value->state = State::ready;  // last: another thread that holds a handle may look
  }
}

}  // namespace fusetape::core
