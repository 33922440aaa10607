#include "backends/cpu/tune/timed_group.hpp"

#include <omp.h>

#include <algorithm>
#include <bit>

#include "backends/cpu/conv/rows/row_convolution.hpp"
#include "backends/cpu/conv/winograd_candidate.hpp"
#include "backends/cpu/instructions.hpp"
#include "backends/cpu/tune/timed_convolution.hpp"
#include "core/op/op_list.hpp"
#include "core/plan/plan.hpp"
#include "core/plan/rules/rules.hpp"

namespace fusetape::backends::cpu::tune {
namespace {

using plan::Convolution;
using plan::Graph;
using plan::GraphNode;
using plan::Group;

constexpr double quick_flops = 5e7;  ///< a thread, of one run: about a millisecond with all that is around it

/// The kernels of a plan, one after the other.
class PlanKernel final : public Kernel {
 public:
  explicit PlanKernel(std::unique_ptr<plan::Plan> plan) : plan_(std::move(plan)) {
    for (const plan::Step& step : plan_->steps) {
      scratch_ = std::max(scratch_, step.kernel->scratch_bytes());
      room_ = std::max(room_, step.kernel->room_bytes());
    }
  }
  void run(const KernelArgs& args) override {
    for (const plan::Step& step : plan_->steps) step.kernel->run(args);
  }
  std::size_t scratch_bytes() const override { return scratch_; }
  std::size_t room_bytes() const override { return room_; }

 private:
  std::unique_ptr<plan::Plan> plan_;
  std::size_t scratch_ = 0, room_ = 0;
};

/// The group's nodes with values of their own, on so many images.
class Extract {
 public:
  Extract(const Graph& graph, const Group& group, std::int64_t images)
      : graph_(graph), images_(images), ids_(graph.values.size(), -1) {
    out_.conv_algorithm = graph.conv_algorithm;
    for (const int id : group.nodes) note_weights(graph.node(id));
    for (const int id : group.nodes) {
      GraphNode node = graph.node(id);
      for (int& input : node.inputs) input = value(input, -1);
      for (int& output : node.outputs) output = value(output, static_cast<int>(out_.nodes.size()));
      out_.nodes.push_back(std::move(node));
    }
    for (const int output : group.outputs)
      out_.values[static_cast<std::size_t>(ids_[static_cast<std::size_t>(output)])].keep = true;
  }
  Graph take() && { return std::move(out_); }

 private:
  int value(int id, int producer) {
    int& mine = ids_[static_cast<std::size_t>(id)];
    if (mine < 0) {
      mine = static_cast<int>(out_.values.size());
      const plan::GraphValue& from = graph_.value(id);
      plan::GraphValue made{.shape = from.shape,
                            .dtype = from.dtype,
                            .producer = producer,
                            .output = from.output,
                            .scalar = from.scalar};
      if (is_image(id)) made.shape[0] = images_;
      out_.values.push_back(std::move(made));
      if (producer < 0) out_.inputs.push_back(mine);
    }
    return mine;
  }
  void note_weights(const GraphNode& node) {
    if (plan::conv_pass(*node.op)) weights_.push_back(plan::convolution_of(node, -1).w);
    if (node.is(ops::cast_op) && is_weights(node.inputs[0])) weights_.push_back(node.outputs[0]);
  }
  bool is_weights(int id) const { return std::find(weights_.begin(), weights_.end(), id) != weights_.end(); }
  /// All but weights and what belongs to a channel.
  bool is_image(int id) const { return graph_.value(id).shape.rank() == 4 && !is_weights(id); }

  const Graph& graph_;
  std::int64_t images_;
  std::vector<int> ids_, weights_;
  Graph out_;
};

std::string key_of(const Graph& graph, const Group& group) {
  std::string key = "carried " + group.name;
  for (const plan::GraphValue& value : graph.values) {
    key += " ";
    for (const std::int64_t extent : value.shape) key += std::to_string(extent) + "x";
    key += std::string(name_of(value.dtype)) + (value.keep ? "!" : "");
  }
  const auto conv = std::find_if(graph.nodes.begin(), graph.nodes.end(),
                                 [](const GraphNode& node) { return plan::conv_pass(*node.op).has_value(); });
  return key + setting_of(*conv);
}

/// The node that this one repeats, if it is there.
const GraphNode* original_of(const Graph& graph, const GraphNode& copy) {
  const auto found = std::find_if(graph.nodes.begin(), graph.nodes.end(), [&](const GraphNode& node) {
    return !node.recomputed && node.op == copy.op && node.inputs == copy.inputs;
  });
  return found != graph.nodes.end() ? &*found : nullptr;
}

/// Without what each reader makes for itself: kernels of their own find what forward kept, and what another
/// made.
Graph without_repetitions(Graph graph) {
  std::vector<std::pair<int, int>> instead;
  for (const GraphNode& node : graph.nodes) {
    const GraphNode* original = node.recomputed ? original_of(graph, node) : nullptr;
    if (original != nullptr) instead.emplace_back(node.outputs[0], original->outputs[0]);
  }
  std::erase_if(graph.nodes, [](const GraphNode& node) {
    const bool made =
        node.is(ops::batch_norm_apply_op) || node.is(ops::batch_norm_grad_apply_op) || node.op->activation;
    return node.recomputed && made;
  });
  for (GraphNode& node : graph.nodes) {
    for (const auto& [from, to] : instead) std::replace(node.inputs.begin(), node.inputs.end(), from, to);
  }
  for (plan::GraphValue& value : graph.values) value.producer = -1;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for (const int output : graph.nodes[n].outputs)
      graph.values[static_cast<std::size_t>(output)].producer = static_cast<int>(n);
  }
  graph.inputs.clear();
  for (std::size_t id = 0; id < graph.values.size(); ++id) {
    if (graph.values[id].producer < 0) graph.inputs.push_back(static_cast<int>(id));
  }
  return graph;
}

/// Whether it will be timed by itself, but has not been yet: the race against it would say little.
bool waits_for_its_own(const Graph& graph, int conv) {
  return conv >= 0 && graph.node(conv).tuned == nullptr &&
         TimedConvolution::of(graph, graph.node(conv)).has_value();
}

}  // namespace

bool TimedGroup::is_in_question(const Graph& graph, const Group& group) {
  const auto* conv = group.as<Convolution>();
  if (conv == nullptr || !conv->carries()) return false;
  const GraphNode& node = graph.node(conv->node);
  if (graph.value(node.inputs[0]).dtype == DType::bf16 && conv::rows_compute(graph, node))
    return multiplies_bf16();
  const auto in_question = [&](int of) {
    return of >= 0 && conv::winograd_is_in_question(graph, graph.node(of));
  };
  return in_question(conv->node) || in_question(conv->weights_node);
}

std::optional<TimedGroup> TimedGroup::of(const Graph& graph, const Group& group) {
  const auto* conv = group.as<Convolution>();
  if (conv == nullptr || !conv->carries()) return std::nullopt;
  if (!conv::rows_compute(graph, graph.node(conv->node)) && !is_in_question(graph, group))
    return std::nullopt;
  if (waits_for_its_own(graph, conv->node) || waits_for_its_own(graph, conv->weights_node))
    return std::nullopt;
  const auto batch = static_cast<std::uint64_t>(graph.value(conv->x).shape[0]);
  const double image = flops_of_image(graph, graph.node(conv->node));
  if (image * static_cast<double>(batch) < least_flops) return std::nullopt;
  TimedGroup timed;
  const auto most = std::min<std::int64_t>(most_images, static_cast<std::int64_t>(std::bit_ceil(batch)));
  const double wanted = quick_flops * omp_get_max_threads() / image;
  timed.images_ = std::clamp<std::int64_t>(static_cast<std::int64_t>(wanted), 1, most);
  timed.flops_ = image * static_cast<double>(timed.images_);
  timed.together_ = Extract(graph, group, timed.images_).take();
  // Of a checkpoint's segment all is computed again, however it is done.
  const bool again = graph.node(conv->node).recomputed;
  timed.graph_ = again ? timed.together_ : without_repetitions(timed.together_);
  timed.key_ = key_of(timed.together_, group) + (again ? ", recomputed" : "");
  return timed;
}

std::unique_ptr<Kernel> TimedGroup::make(const plan::TunedKernel& kernel, Backend& backend) {
  Graph graph = kernel.kernel == apart ? graph_ : together_;
  plan::RuleSet rules = plan::all_rules & ~plan::rules_named("carry");
  if (kernel.kernel == apart) rules &= ~plan::rules_named("transform");
  const plan::Options options{.rules = rules, .threads = omp_get_max_threads(), .backend = &backend};
  auto made = std::make_unique<PlanKernel>(plan::make_plan(std::move(graph), options));
  made->name = kernel.kernel;
  return made;
}

}  // namespace fusetape::backends::cpu::tune
