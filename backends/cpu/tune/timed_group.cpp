#include "backends/cpu/tune/timed_group.hpp"

#include <omp.h>

#include <algorithm>
#include <bit>

#include "backends/cpu/conv/rows/row_convolution.hpp"
#include "core/op/op_list.hpp"
#include "core/plan/plan.hpp"
#include "core/plan/rules/rules.hpp"

namespace fusetape::backends::cpu::tune {
namespace {

using plan::Convolution;
using plan::Graph;
using plan::GraphNode;
using plan::Group;

constexpr std::int64_t most_images = 32;
constexpr double least_flops = 1e6;  ///< 10 µs: no choice is worth the time to make it
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
      : graph_(graph), conv_(*group.as<Convolution>()), images_(images), ids_(graph.values.size(), -1) {
    out_.conv_algorithm = graph.conv_algorithm;
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
  /// All but weights and what belongs to a channel.
  bool is_image(int id) const {
    const Shape& shape = graph_.value(id).shape;
    return shape.rank() == 4 && shape[0] == graph_.value(conv_.x).shape[0] &&
           shape != graph_.value(conv_.w).shape;
  }

  const Graph& graph_;
  const Convolution conv_;
  std::int64_t images_;
  std::vector<int> ids_;
  Graph out_;
};

double flops_of_image(const Graph& graph, const Convolution& conv) {
  const Shape& y = graph.value(conv.y).shape;
  return 2.0 * static_cast<double>(y[1] * y[2]) * static_cast<double>(graph.value(conv.w).elements());
}

std::string key_of(const Graph& graph, const Group& group) {
  std::string key = "carried " + group.name;
  for (const plan::GraphValue& value : graph.values) {
    key += " ";
    for (const std::int64_t extent : value.shape) key += std::to_string(extent) + "x";
    key += std::string(name_of(value.dtype)) + (value.keep ? "!" : "");
  }
  const auto a = std::find_if(graph.nodes.begin(), graph.nodes.end(), [](const GraphNode& node) {
                   return plan::conv_pass(*node.op).has_value();
                 })->attrs.as<core::ConvAttrs>();
  for (const std::int64_t each :
       {a.stride_h, a.stride_w, a.pad_h, a.pad_w, a.dilation_h, a.dilation_w, a.groups})
    key += " " + std::to_string(each);
  return key + ", threads " + std::to_string(omp_get_max_threads());
}

/// A plan of its own keeps forward's values for backward: what was to be computed again is there.
void read_what_was_kept(Graph& graph) {
  std::vector<char> gone(graph.values.size(), 0);
  std::erase_if(graph.nodes, [&](const GraphNode& node) {
    const bool again = node.recomputed && (node.is(ops::batch_norm_apply_op) || node.op->activation);
    if (again) gone[static_cast<std::size_t>(node.outputs[0])] = 1;
    return again;
  });
  for (std::size_t id = 0; id < graph.values.size(); ++id) {
    if (gone[id] == 0) continue;
    graph.inputs.push_back(static_cast<int>(id));
  }
  for (plan::GraphValue& value : graph.values) value.producer = -1;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for (const int output : graph.nodes[n].outputs)
      graph.values[static_cast<std::size_t>(output)].producer = static_cast<int>(n);
  }
}

}  // namespace

std::optional<TimedGroup> TimedGroup::of(const Graph& graph, const Group& group) {
  const auto* conv = group.as<Convolution>();
  if (conv == nullptr || !conv->carries() || !conv::rows_compute(graph, graph.node(conv->node)))
    return std::nullopt;
  const auto batch = static_cast<std::uint64_t>(graph.value(conv->x).shape[0]);
  const double image = flops_of_image(graph, *conv);
  if (image * static_cast<double>(batch) < least_flops) return std::nullopt;
  TimedGroup timed;
  const auto most = std::min<std::int64_t>(most_images, static_cast<std::int64_t>(std::bit_ceil(batch)));
  const double wanted = quick_flops * omp_get_max_threads() / image;
  timed.images_ = std::clamp<std::int64_t>(static_cast<std::int64_t>(wanted), 1, most);
  timed.flops_ = image * static_cast<double>(timed.images_);
  timed.graph_ = Extract(graph, group, timed.images_).take();
  timed.key_ = key_of(timed.graph_, group);
  return timed;
}

std::unique_ptr<Kernel> TimedGroup::make(const plan::TunedKernel& kernel, Backend& backend) {
  Graph graph = graph_;
  plan::RuleSet rules = plan::all_rules & ~plan::rules_named("carry");
  if (kernel.kernel == apart) {
    read_what_was_kept(graph);
    rules &= ~plan::rules_named("transform");
  }
  const plan::Options options{.rules = rules, .threads = omp_get_max_threads(), .backend = &backend};
  auto made = std::make_unique<PlanKernel>(plan::make_plan(std::move(graph), options));
  made->name = kernel.kernel;
  return made;
}

}  // namespace fusetape::backends::cpu::tune
