#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>
#include <unordered_set>

#include "core/op/op_list.hpp"
#include "core/plan/passes/cost.hpp"
#include "core/plan/passes/passes.hpp"
#include "core/plan/passes/rewrite.hpp"
#include "core/plan/rules/norm_roles.hpp"

/// What backward gets of forward's intermediate values: the value itself, one bit of it, or the means to
/// compute it again. A mask is read of the same stored value, a recomputation runs the same arithmetic on the
/// same operands, and every sum has the same order whichever groups form: equal to the bit in f32 and bf16 on
/// CPU, but where it changes which convolution carries a norm, and so sums a statistic. The reference's batch
/// norm has its statistics unrounded in forward: equal to a rounding.
namespace fusetape::plan {
namespace {

/// The share of a step's estimated time that `balanced` may spend.
constexpr double balanced_share = 0.03;
/// Starting a kernel: what it costs to compute a small value again, however few its bytes.
constexpr double seconds_to_start = 1e-5;
/// Longer recipes would be worth little: they read as much as they save.
constexpr std::size_t longest_recipe = 8;

bool in_forward(const GraphNode& node) { return node.phase == Phase::forward && !node.recomputed; }

/// Whether a batch norm, whole or taken apart, makes the value.
bool makes_norm(const Graph& graph, int value) {
  return graph.producer_if(value, ops::batch_norm_op) != nullptr ||
         graph.producer_if(value, ops::batch_norm_apply_op) != nullptr;
}

// ---- masks ----

/// The norm gradients that read the mask's result will read bits instead of y; elsewhere a mask needs a pass
/// of its own.
bool free_of_charge(const Graph& graph, const GraphNode& relu, const GraphNode& gradient) {
  const GraphNode* sum = graph.producer_if(relu.inputs[0], ops::add_op);
  if (sum == nullptr) return false;
  const bool norm = std::any_of(sum->inputs.begin(), sum->inputs.end(), [&](int summand) {
    return graph.producer_if(summand, ops::batch_norm_op) != nullptr;
  });
  const std::vector<int>& readers = graph.value(gradient.outputs[0]).consumers;
  return norm && graph.value(relu.outputs[0]).shape.back() % 8 == 0 &&
         std::any_of(readers.begin(), readers.end(),
                     [&](int reader) { return graph.node(reader).is(ops::batch_norm_grad_op); });
}

/// Whether the mask is all that backward reads of y.
bool only_for_masks(const Graph& graph, int y) {
  const std::vector<int>& readers = graph.value(y).consumers;
  return !graph.value(y).keep && std::all_of(readers.begin(), readers.end(), [&](int reader) {
    const GraphNode& node = graph.node(reader);
    return (in_forward(node) && !node.op->view) || (node.is(ops::relu_grad_op) && node.inputs[0] != y);
  });
}

/// relu_grad(g, relu(norm(x))) and its like: a fusion rule computes what it reads from x again, where the
/// gradient goes to that norm and the backend has such a kernel.
bool reads_x_instead(const Graph& graph, const Backend& backend, const GraphNode& node) {
  const std::vector<int>& readers = graph.value(node.outputs[0]).consumers;
  return std::any_of(readers.begin(), readers.end(), [&](int reader) {
    if (!is_norm_gradient(graph.node(reader))) return false;
    const bool of_relu = node.is(ops::relu_grad_op);
    NormBackward roles{.g = node.inputs[0], .recompute = true, .gradient = of_relu ? nullptr : node.op};
    roles.norm[0] = norm_roles(graph, reader);
    const GraphNode* norm = norm_before(graph, node, roles.norm[0]);
    if (norm == nullptr || (of_relu && !norm->is(ops::group_norm_op))) return norm != nullptr;
    roles.norm[0].gamma = norm->inputs[1];
    roles.norm[0].beta = norm->inputs[2];
    const int id = static_cast<int>(&node - graph.nodes.data());
    const Group group{
        .roles = roles, .rule = "activation_grad+batch_norm_grad, from x", .nodes = {id, reader}};
    return backend.supports(graph, group).ok;
  });
}

/// The mask of a norm's own ReLU is recomputed from x by a fusion rule: neither y nor bits are read.
bool recomputed_by_rule(const Graph& graph, const Backend& backend, const GraphNode& relu) {
  if (makes_norm(graph, relu.inputs[0])) return true;
  if (graph.producer_if(relu.inputs[0], ops::group_norm_op) == nullptr) return false;
  const std::vector<int>& readers = graph.value(relu.outputs[0]).consumers;
  return std::any_of(readers.begin(), readers.end(), [&](int reader) {
    return graph.node(reader).is(ops::relu_grad_op) && reads_x_instead(graph, backend, graph.node(reader));
  });
}

void replace_by_mask(Graph& graph, Rewrite& rewrite, int relu_node) {
  const GraphNode relu = graph.node(relu_node);
  const int y = relu.outputs[0];
  const std::int64_t bytes = (graph.value(y).elements() + 7) / 8;
  const int mask = rewrite.new_value(Shape{bytes}, DType::u8);
  GraphNode pack = relu;
  pack.op = &ops::relu_mask_op;
  pack.attrs = {};
  pack.inputs = {y};
  pack.outputs = {mask};
  rewrite.insert(relu_node + 1, std::move(pack));
  for (int reader : graph.value(y).consumers) {
    GraphNode& node = graph.nodes[static_cast<std::size_t>(reader)];
    if (!node.is(ops::relu_grad_op) || node.inputs[1] != y) continue;
    node.op = &ops::relu_grad_mask_op;
    node.inputs[1] = mask;
  }
}

void keep_masks(Graph& graph, const Backend& backend, Retention retention) {
  Rewrite rewrite(graph);
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const GraphNode& relu = graph.nodes[n];
    if (relu.dead || !relu.is(ops::relu_op) || !in_forward(relu) || recomputed_by_rule(graph, backend, relu))
      continue;
    const int y = relu.outputs[0];
    bool masks = false, broadcast = false, free = true;
    for (int reader : graph.value(y).consumers) {
      const GraphNode& gradient = graph.node(reader);
      if (!gradient.is(ops::relu_grad_op) || gradient.inputs[1] != y) continue;
      const bool whole = graph.value(gradient.inputs[0]).shape == graph.value(y).shape;
      masks = masks || whole;
      broadcast = broadcast || !whole;
      free = free && free_of_charge(graph, relu, gradient);
    }
    if (!masks || broadcast) continue;
    const bool saves_memory = retention != Retention::fastest && only_for_masks(graph, y);
    if (free || saves_memory) replace_by_mask(graph, rewrite, static_cast<int>(n));
  }
  rewrite.apply();
}

// ---- recomputation ----

/// How to compute a value again from what backward has anyway.
struct Recipe {
  int value = -1;            ///< no view
  std::vector<int> names;    ///< it and its views, as far as backward reads them
  std::vector<int> nodes;    ///< to be repeated, in recorded order
  std::vector<int> sources;  ///< forward values that they read, whose memory stays; slice inputs apart
  double bytes = 0;          ///< moved, as one kernel
};

class Recomputation {
 public:
  Recomputation(Graph& graph, const Options& options)
      : graph_(graph), options_(options), speed_(options.backend->speed()) {
    std::unordered_set<int> read_by_backward;
    for (const GraphNode& node : graph.nodes) {
      if (node.dead || in_forward(node)) continue;
      for (int input : node.inputs) {
        if (!computed_by_rule(node, input)) read_by_backward.insert(input);
      }
    }
    for (std::size_t v = 0; v < graph.values.size(); ++v) {
      const int value = static_cast<int>(v), producer = graph.values[v].producer;
      const bool of_forward = producer >= 0 && in_forward(graph.node(producer));
      if (of_forward && read_by_backward.count(value) != 0) names_[root_of(graph, value)].push_back(value);
      if (graph.values[v].keep) named_outside_.insert(root_of(graph, value));
    }
  }

  void run(double budget_seconds) {
    std::vector<Recipe> recipes = candidates();
    // The cheapest byte first; of equals the largest.
    std::stable_sort(recipes.begin(), recipes.end(), [&](const Recipe& a, const Recipe& b) {
      const double of_a = a.bytes / size(a), of_b = b.bytes / size(b);
      return of_a != of_b ? of_a < of_b : size(a) > size(b);
    });
    Rewrite rewrite(graph_);
    for (const Recipe& recipe : recipes) {
      const double seconds = recipe.bytes / speed_.bytes + seconds_to_start;
      // A value that moves faster than a kernel starts is worth its repetition only to who wants the last
      // byte.
      const bool small = size(recipe) < seconds_to_start * speed_.bytes;
      if (small && std::isfinite(budget_seconds)) continue;
      if (seconds > budget_seconds || needed_as_source_.count(recipe.value) != 0) continue;
      const bool sources_stay = std::none_of(recipe.sources.begin(), recipe.sources.end(),
                                             [&](int source) { return given_up_.count(source) != 0; });
      if (!sources_stay) continue;
      budget_seconds -= seconds;
      given_up_.insert(recipe.value);
      needed_as_source_.insert(recipe.sources.begin(), recipe.sources.end());
      repeat(recipe, rewrite);
    }
    rewrite.apply();
  }

 private:
  double size(const Recipe& recipe) const { return static_cast<double>(graph_.value(recipe.value).bytes()); }

  bool computed_by_rule(const GraphNode& node, int input) const {
    const bool reads = node.op->gradient_of != nullptr && node.inputs[1] == input && node.inputs[0] != input;
    return reads && reads_x_instead(graph_, *options_.backend, node);
  }

  std::vector<Recipe> candidates() {
    std::vector<Recipe> recipes;
    for (std::size_t v = 0; v < graph_.values.size(); ++v) {
      const int value = static_cast<int>(v);
      if (!kept_for_backward(value)) continue;
      Recipe recipe{.value = value, .names = names_.at(value)};
      const bool found = extend(recipe, value) &&
                         std::all_of(recipe.names.begin(), recipe.names.end(),
                                     [&](int name) { return name == value || extend(recipe, name); });
      if (!found) continue;
      std::sort(recipe.nodes.begin(), recipe.nodes.end());
      recipe.bytes = size(recipe);
      for (int source : recipe.sources) recipe.bytes += static_cast<double>(graph_.value(source).bytes());
      for (int node : recipe.nodes) recipe.bytes += bytes_within(recipe, graph_.node(node));
      recipes.push_back(std::move(recipe));
    }
    return recipes;
  }

  /// What a node moves beside the recipe's sources and its value: the kernel ends before a view that the
  /// recipe goes on from, and a group norm may read its x twice.
  double bytes_within(const Recipe& recipe, const GraphNode& node) const {
    const bool goes_on = node.op->view && std::find(recipe.names.begin(), recipe.names.end(),
                                                    node.outputs[0]) == recipe.names.end();
    if (goes_on) return 2 * static_cast<double>(graph_.value(node.outputs[0]).bytes());
    return node.is(ops::group_norm_op) ? static_cast<double>(graph_.value(node.inputs[0]).bytes()) : 0;
  }

  /// Whether the memory of a forward value of this slice lives on only because backward reads it.
  bool kept_for_backward(int value) const {
    const GraphValue& info = graph_.value(value);
    if (info.producer < 0 || names_.count(value) == 0 || named_outside_.count(value) != 0) return false;
    return in_forward(graph_.node(info.producer));
  }

  /// Cheap to do again: views, pointwise ops, a batch norm's y from its x and statistics, and a group norm
  /// whole, where the backend has a kernel for it.
  bool repeatable(int value) const {
    const GraphValue& info = graph_.value(value);
    const GraphNode& producer = graph_.node(info.producer);
    if (info.output == 0 && producer.is(ops::group_norm_op)) return has_kernel(info.producer);
    return producer.op->view || producer.op->pointwise != nullptr || producer.is(ops::batch_norm_apply_op) ||
           (info.output == 0 && producer.is(ops::batch_norm_op));
  }

  /// A group of one node runs on every backend, if need be by the reference's loops: what is asked for here
  /// is a group that a rule made.
  bool has_kernel(int node) const {
    Group group = single_group(graph_, node);
    group.rule = "computed again";
    return options_.backend->supports(graph_, group).ok;
  }

  /// Adds what makes `value` again; false: something on the way is too dear.
  bool extend(Recipe& recipe, int value) {
    const int producer = graph_.value(value).producer;
    if (!in_forward(graph_.node(producer)) || !repeatable(value)) return false;
    if (std::find(recipe.nodes.begin(), recipe.nodes.end(), producer) != recipe.nodes.end()) return true;
    recipe.nodes.push_back(producer);
    if (recipe.nodes.size() > longest_recipe) return false;
    const std::vector<int> operands = operands_again(graph_.node(producer));
    return std::all_of(operands.begin(), operands.end(), [&](int operand) {
      const int memory = root_of(graph_, operand);
      if (graph_.value(memory).producer < 0) return true;  // an input of the slice is there all along
      const bool stays = names_.count(memory) != 0 || named_outside_.count(memory) != 0;
      if (!stays || memory == recipe.value) return extend(recipe, operand);
      if (std::find(recipe.sources.begin(), recipe.sources.end(), memory) == recipe.sources.end())
        recipe.sources.push_back(memory);
      return true;
    });
  }

  static std::vector<int> operands_again(const GraphNode& node) {
    if (node.op->view) return {node.inputs[0]};  // what else a custom gradient is given is not shown
    if (!node.is(ops::batch_norm_op)) return node.inputs;
    return {node.inputs[0], node.inputs[1], node.inputs[2], node.outputs[1], node.outputs[2]};
  }

  /// Repeats the recipe's nodes before the first reader in backward, and gives their results to all of them.
  void repeat(const Recipe& recipe, Rewrite& rewrite) {
    std::vector<std::pair<int, int>> readers;  ///< node, which of the names it reads
    for (int name : recipe.names) {
      for (int reader : graph_.value(name).consumers) {
        const GraphNode& node = graph_.node(reader);
        if (!in_forward(node) && !computed_by_rule(node, name)) readers.emplace_back(reader, name);
      }
    }
    const int before = std::min_element(readers.begin(), readers.end())->first;
    std::unordered_map<int, int> again;
    for (int id : recipe.nodes) {
      const GraphNode& original = graph_.node(id);
      GraphNode node = original;
      node.recomputed = true;
      node.phase = graph_.node(before).phase;
      node.inputs = operands_again(original);
      if (original.is(ops::batch_norm_op)) {
        node.op = &ops::batch_norm_apply_op;
        node.outputs.resize(1);
      }
      for (int& input : node.inputs) {
        const auto found = again.find(input);
        if (found != again.end()) input = found->second;
      }
      for (int& output : node.outputs) {
        const GraphValue info = graph_.value(output);
        const int copy = rewrite.new_value(info.shape, info.dtype);
        again[output] = copy;
        output = copy;
      }
      rewrite.insert(before, std::move(node));
    }
    for (const auto& [reader, name] : readers) {
      for (int& input : graph_.nodes[static_cast<std::size_t>(reader)].inputs) {
        if (input == name) input = again.at(name);
      }
    }
  }

  Graph& graph_;
  const Options& options_;
  const Speed speed_;
  std::unordered_map<int, std::vector<int>> names_;  ///< by memory: what of it backward reads
  std::unordered_set<int> named_outside_;            ///< memory that somebody can name after the run
  std::unordered_set<int> given_up_, needed_as_source_;
};

}  // namespace

void decide_retention(Graph& graph, const Options& options) {
  const Speed speed = options.backend->speed();
  // Only where there is a backward in the same run; a forward-only run has to keep what it declared.
  const bool backward = std::any_of(graph.nodes.begin(), graph.nodes.end(),
                                    [](const GraphNode& node) { return !node.dead && !in_forward(node); });
  if (!backward) return;
  if (has_rule(options.rules, "mask")) keep_masks(graph, *options.backend, options.retention);
  if (!has_rule(options.rules, "recompute") || options.retention == Retention::fastest) return;
  const double budget = options.retention == Retention::smallest ? std::numeric_limits<double>::infinity()
                                                                 : balanced_share * seconds_of(graph, speed);
  Recomputation(graph, options).run(budget);
  drop_dead_nodes(graph);  // what only backward read, and now makes itself
  find_consumers(graph);
}

}  // namespace fusetape::plan
