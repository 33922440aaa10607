#include "core/tape/tape.hpp"
#include "core/backends.hpp"
#include "core/op/op_list.hpp"

#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/autograd/autocast.hpp"
#include "core/check.hpp"
#include "core/op/op_attrs.hpp"
#include "core/tape/fork.hpp"
#include "core/tape/module_scope.hpp"
#include "core/tape/segment.hpp"

namespace fusetape::core {
namespace {

std::atomic<std::uint64_t> next_sequence{1};

Tensor cast_to(DType dtype, const Tensor& x, Location at) {
  if (x.dtype() == dtype) return x;
  return record_one(ops::cast_op, {x}, Attrs::of(CastAttrs{static_cast<std::int64_t>(dtype)}), at);
}

}  // namespace

Tape& Tape::current(Location at) {
  if (thread_ends) {
    throw Error(
        "tape",
        "expected a thread that goes on, got a call at its end, from the destructor of something static or "
        "thread_local",
        at);
  }
  static thread_local Tape tape;
  return tape;
}

Tape* Tape::alive() { return thread_ends ? nullptr : &current(); }

Tape::Tape() : settings(settings_of_environment()) {
  host_pool();  // outlives every tape
  settings.threads = omp_get_max_threads();
  if (settings.threads > max_threads) {
    throw Error("OMP_NUM_THREADS", "expected at most " + std::to_string(max_threads) + " threads, got " +
                                       std::to_string(settings.threads));
  }
  const char* set = std::getenv("FUSETAPE_BACKEND");
  const char* name = set != nullptr ? set : "cpu";
  settings.backend = backend_named(name);
  if (settings.backend == nullptr) {
    throw Error("FUSETAPE_BACKEND", std::string("expected cpu, cuda, reference or null, got '") + name + "'");
  }
}

Tape::~Tape() {
  if (!pending_.empty()) lose_pending("the thread that recorded it ended before anything ran it");
}

void Tape::lose_pending(const std::string& why) {
  const auto failure = std::make_shared<const std::string>(why);
  for (Node* node : pending_) {
    node->failure = failure;
    for (int i = 0; i < node->output_count; ++i) node->output(i).state = State::lost;
    node->history = false;
  }
  journal.undo();
  finish_slice();
}

/// A user's own forward is code of theirs in the middle of a run.
void Tape::refuse_while_running(std::string_view what, Location at) const {
  if (!running_) return;
  throw Error(std::string(what),
              "expected a custom op's forward to work on the elements that it is given, got an op inside it",
              at);
}

void Tape::check_input(const OpDef& op, const Tensor& input, std::size_t index, Location at) const {
  const auto fail = [&](const std::string& what) { throw Error(std::string(op.name), what, at); };
  if (!input.defined()) fail("input " + std::to_string(index) + " is an undefined tensor");
  const Value& value = *input.value();
  if (value.state == State::lost) fail("an input was lost: " + *value.node->failure);
  if (value.state == State::pending && value.node->tape != this) {
    fail("input " + std::to_string(index) +
         " is still pending on another thread; materialize it there before handing it over");
  }
  FUSETAPE_ASSERT(value.state != State::dropped);
}

Outputs Tape::record(const OpDef& op, std::span<const Tensor> inputs, const Attrs& attrs, Location at) {
  const SourceContext& source = source_context();
  if (source.override_location) at = source.at;
  refuse_while_running(op.name, at);

  InlineVector<TensorInfo, 16> infos;
  std::uint32_t wanted = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check_input(op, inputs[i], i, at);
    infos.push_back({inputs[i].shape(), inputs[i].dtype(), inputs[i].value()->number});
    if (inputs[i].requires_grad()) wanted |= bit(static_cast<int>(i));
  }
  autocast_inputs(op, {infos.begin(), infos.size()});
  const std::size_t tensors = inputs.size() - static_cast<std::size_t>(op.numbers);
  InferContext infer(op.name, {infos.begin(), tensors}, attrs, at);
  op.infer(infer);
  for (const TensorInfo& output : infer.outputs) {
    if (output.dtype > DType::boolean) infer.fail("a DType", std::to_string(static_cast<int>(output.dtype)));
    if (!countable(output.shape))
      infer.fail("extents of at least 0 and at most 2^56 elements", to_string(output.shape));
  }

  // Nothing can fail from here on: the casts of a failed call would stay on the tape.
  InlineVector<Tensor, 12> casts;
  const bool as_given =
      std::equal(infos.begin(), infos.end(), inputs.begin(),
                 [](const TensorInfo& taken, const Tensor& input) { return taken.dtype == input.dtype(); });
  if (!as_given) {
    for (std::size_t i = 0; i < inputs.size(); ++i) casts.push_back(cast_to(infos[i].dtype, inputs[i], at));
    inputs = {casts.begin(), casts.size()};
  }

  Node* node = make_node(static_cast<int>(infer.outputs.size()));
  node->op = &op;
  node->attrs = attrs;
  node->at = at;
  node->module_path = source.module_path;
  node->phase = source.phase;
  node->recomputed = source.recomputed;
  node->history = wanted != 0 && settings.grad && op.gradient != nullptr;
  node->wanted = wanted;
  node->saves = op.saves_of(wanted);
  for (const Tensor& input : inputs) node->inputs.push_back(input.value());
  for (int i = 0; i < node->output_count; ++i) {
    Value& value = node->output(i);
    value.shape = infer.outputs[static_cast<std::size_t>(i)].shape;
    value.dtype = infer.outputs[static_cast<std::size_t>(i)].dtype;
    value.requires_grad =
        node->history && (op.differentiable_outputs & bit(i)) != 0 && is_floating(value.dtype);
  }
  append(node);

  Outputs outputs;
  for (int i = 0; i < node->output_count; ++i) outputs.push_back(Tensor(&node->output(i)));
  if (settings.eager) {
    flush(at);
  } else if (pending_.size() > max_pending_nodes || pending_bytes_ > max_pending_bytes) {
    if (!warned_about_cut_) {
      std::fprintf(stderr,
                   "fusetape: %zu ops are recorded and nothing asked for a value; running them now. Call "
                   "materialize() or an optimizer's step() to choose the place (%s:%u)\n",
                   pending_.size(), at.file_name(), at.line());
      warned_about_cut_ = true;
    }
    flush(at);
  } else if (pending_histories_ == 0 && source.phase == plan::Phase::forward) {
    run_if_inputs_pile_up(at);
  }
  return outputs;
}

void Tape::append(Node* node) {
  node->tape = this;
  node->sequence = next_sequence.fetch_add(1, std::memory_order_relaxed);
  for (Value* input : node->inputs) {
    reference(input->node);
    hold(*input);
    if (!input->scalar && input->state == State::ready)
      input_bytes_ += static_cast<std::int64_t>(input->bytes());
  }
  if (node->history) ++pending_histories_;
  for (int i = 0; i < node->output_count; ++i) {
    const Value& value = node->output(i);
    pending_bytes_ += value.shape.elements() * static_cast<std::int64_t>(size_of(value.dtype));
  }
  reference(node);
  pending_.push_back(node);
  if (segment == nullptr) return;
  for (Segment* around = segment.get(); around != nullptr; around = around->parent.get()) around->add(*node);
  if (node->history) node->segment = segment;
}

void Tape::flush(Location at) {
  if (pending_.empty()) return;
  refuse_while_running("run", at);
  const plan::Backend& backend = *settings.backend;
  if (backend.executes() && (settings.threads > 1 || !backend.on_host())) rely_on_threads(at);
  running_ = true;
  struct Reset {
    bool& flag;
    ~Reset() { flag = false; }
  } reset{running_};
  try {
    executor.run(pending_, journal, segment.get(), at);
  } catch (const Error& error) {
    lose_pending(error.what());
    throw;
  } catch (const std::exception& error) {
    const std::string reason = reason_of(error);
    lose_pending(reason);
    throw Error("run", reason, at);
  }
  finish_slice();
}

/// A leaf's holds are those of its pending readers and nobody else's. Counted anew each time: users drop
/// their handles without telling.
std::int64_t Tape::bytes_held_by_pending_ops() {
  for (const Node* node : pending_) {
    for (Value* input : node->inputs) {
      if (!input->scalar && input->state == State::ready) inputs_.push_back(input);
    }
  }
  std::sort(inputs_.begin(), inputs_.end());
  std::int64_t bytes = 0;
  for (auto first = inputs_.begin(); first != inputs_.end();) {
    const auto end = std::upper_bound(first, inputs_.end(), *first);
    if ((*first)->holds.load(std::memory_order_acquire) == end - first) {
      bytes += static_cast<std::int64_t>((*first)->bytes());
    }
    first = end;
  }
  inputs_.clear();
  return bytes;
}

void Tape::run_if_inputs_pile_up(Location at) {
  if (input_bytes_ <= settings.pending_limit || input_bytes_ < next_input_check_ || running_) return;
  const std::int64_t held = bytes_held_by_pending_ops();
  if (held > settings.pending_limit) return flush(at);
  // Not before it can be too much, nor at each op that is left until then.
  next_input_check_ = input_bytes_ + std::max(settings.pending_limit - held, settings.pending_limit / 8);
}

void Tape::finish_slice() {
  std::vector<Node*> done;
  done.swap(pending_);
  pending_bytes_ = input_bytes_ = next_input_check_ = 0;
  pending_histories_ = 0;
  const auto hold_outside_of = [](Segment* around) {
    for (; around != nullptr; around = around->parent.get()) around->hold_outside();
  };
  hold_outside_of(segment.get());
  for (Node* node : done) {
    if (node->history && node->live) hold_outside_of(node->segment.get());
  }
  journal.forget();
  for (Node* node : done) {
    const bool keep_history = node->history && node->live;
    node->executed = true;
    if (keep_history) for_each_kept(*node, hold);
    for (Value* input : node->inputs) unhold(*input);
    if (!keep_history) {
      node->history = false;
      forget_history(*node);
    }
  }
  for (Node* node : done) dereference(node);
  done.clear();
  done.swap(pending_);  // keeps the capacity
}

QueuedRun flush_step(Location at) {
  Tape& tape = Tape::current(at);
  if (tape.pending_nodes() == 0) return {};
  tape.flush(at);
  plan::Backend* const backend = tape.settings.backend;
  return {backend, backend->last_run()};
}

Outputs record(const OpDef& op, std::span<const Tensor> inputs, const Attrs& attrs, Location at) {
  return Tape::current(at).record(op, inputs, attrs, at);
}

Tensor record_one(const OpDef& op, std::initializer_list<Tensor> inputs, const Attrs& attrs, Location at) {
  Outputs outputs = record(op, inputs, attrs, at);
  return std::move(outputs[0]);
}

SourceContext& source_context() {
  static thread_local SourceContext context;
  return context;
}

Location current_location(Location otherwise) {
  const SourceContext& source = source_context();
  return source.has_location ? source.at : otherwise;
}

}  // namespace fusetape::core
