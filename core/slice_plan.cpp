// The slice's key and graph, and the plan that is found by the one or made of the other.
#include <algorithm>
#include <cstdio>
#include <numeric>

#include "core/check.hpp"
#include "core/explain.hpp"
#include "core/slice.hpp"

namespace fusetape::core {
namespace {

std::uint64_t word_of(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

}  // namespace

void Slice::write_key() {
  plan::PlanCache::Key& key = tape_.key_;
  key.clear();
  const Settings& settings = tape_.settings;
  key.push_back(word_of(settings.backend));
  key.push_back(settings.rules);
  key.push_back(settings.key());
  key.push_back(static_cast<std::uint64_t>(settings.threads));
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

}  // namespace fusetape::core
