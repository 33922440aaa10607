#include <omp.h>

#include <cmath>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/optimizers_simd.hpp"
#include "core/op_attrs.hpp"

/// sgd_update and adam_update: one node, or all parameters of a model in one kernel.
namespace fusetape::backends::cpu {
namespace {

using plan::Graph;
using plan::Group;

/// One node. Its values lie behind each other in the kernel's count of elements, which the threads share out
/// evenly.
struct Update {
  bool adam = false;
  std::int64_t variant = 0;  ///< nesterov, or decoupled
  std::vector<int> inputs, outputs;
  std::int64_t begin = 0, end = 0;
};

float scalar(const KernelArgs& args, int value) { return *args.in<float>(value); }

void run_sgd(const KernelArgs& args, const Update& update, std::int64_t begin, std::int64_t end) {
  const auto& in = update.inputs;
  SgdSpan span{.lr = scalar(args, in[2]),
               .weight_decay = scalar(args, in[3]),
               .nesterov = update.variant != 0,
               .p = args.in<float>(in[0]),
               .g = args.in<float>(in[1]),
               .new_p = args.out<float>(update.outputs[0])};
  if (in.size() > 4) {
    span.v = args.in<float>(in[4]);
    span.momentum = scalar(args, in[5]);
    span.new_v = args.out<float>(update.outputs[1]);
  }
  update_sgd(span, begin, end);
}

void run_adam(const KernelArgs& args, const Update& update, std::int64_t begin, std::int64_t end) {
  const auto& in = update.inputs;
  const double lr = scalar(args, in[4]), beta1 = scalar(args, in[5]), beta2 = scalar(args, in[6]);
  const double weight_decay = scalar(args, in[8]);
  const bool decoupled = update.variant != 0;
  const AdamSpan span{.step = static_cast<float>(lr / scalar(args, in[9])),
                      .beta1 = static_cast<float>(beta1),
                      .rest1 = static_cast<float>(1 - beta1),
                      .beta2 = static_cast<float>(beta2),
                      .rest2 = static_cast<float>(1 - beta2),
                      .eps = scalar(args, in[7]),
                      .root = static_cast<float>(1 / std::sqrt(static_cast<double>(scalar(args, in[10])))),
                      .decay = decoupled ? 0.0f : static_cast<float>(weight_decay),
                      .keep = decoupled ? static_cast<float>(1 - lr * weight_decay) : 1.0f,
                      .p = args.in<float>(in[0]),
                      .g = args.in<float>(in[1]),
                      .m = args.in<float>(in[2]),
                      .v = args.in<float>(in[3]),
                      .new_p = args.out<float>(update.outputs[0]),
                      .new_m = args.out<float>(update.outputs[1]),
                      .new_v = args.out<float>(update.outputs[2])};
  update_adam(span, begin, end);
}

class OptimizerKernel final : public Kernel {
 public:
  OptimizerKernel(const Graph& graph, const Group& group) {
    for (int id : group.nodes) add(graph, graph.node(id));
    constexpr std::int64_t least_elements = 1 << 14;  // below it a second thread costs more than it brings
    const std::int64_t wanted = std::max<std::int64_t>(1, elements_ / least_elements);
    parts_ = static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), wanted));
    const Update& first = updates_.front();
    name = first.adam ? "highway:adam_update" : "highway:sgd_update";
    tensor_passes = first.adam ? 7 : first.inputs.size() > 4 ? 5 : 3;
  }

  void run(const KernelArgs& args) override {
    for_parts(parts_, [&](int part) {
      const std::int64_t begin = elements_ * part / parts_, end = elements_ * (part + 1) / parts_;
      for (const Update& update : updates_) {
        const std::int64_t from = std::max(begin, update.begin), to = std::min(end, update.end);
        if (from >= to) continue;
        (update.adam ? run_adam : run_sgd)(args, update, from - update.begin, to - update.begin);
      }
    });
  }

  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs;
    for (const Update& update : updates_) {
      pairs.emplace_back(update.inputs[0], update.outputs[0]);
      if (update.adam) {
        pairs.emplace_back(update.inputs[2], update.outputs[1]);
        pairs.emplace_back(update.inputs[3], update.outputs[2]);
      } else if (update.inputs.size() > 4) {
        pairs.emplace_back(update.inputs[4], update.outputs[1]);
      }
    }
    return pairs;
  }

 private:
  void add(const Graph& graph, const plan::GraphNode& node) {
    Update update{.adam = node.op->is("adam_update"), .inputs = node.inputs, .outputs = node.outputs};
    update.variant =
        update.adam ? node.attrs.as<core::AdamAttrs>().decoupled : node.attrs.as<core::SgdAttrs>().nesterov;
    update.begin = elements_;
    update.end = elements_ + graph.value(node.inputs[0]).elements();
    elements_ = update.end;
    updates_.push_back(std::move(update));
  }

  std::vector<Update> updates_;
  std::int64_t elements_ = 0;
  int parts_ = 1;
};

Support supports(const Graph& graph, const Group& group) {
  const bool candidate = group.pattern == plan::Pattern::single || group.pattern == plan::Pattern::optimizer;
  if (!candidate) return {.ok = false, .reason = ""};
  for (int id : group.nodes) {
    const plan::GraphNode& node = graph.node(id);
    if (!node.op->is("sgd_update") && !node.op->is("adam_update")) return {.ok = false, .reason = ""};
    for (int value : node.inputs) {
      const DType dtype = graph.value(value).dtype;
      if (dtype != DType::f32)
        return {.ok = false, .reason = "expected f32, got " + std::string(name_of(dtype))};
    }
  }
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  return std::make_unique<OptimizerKernel>(graph, group);
}

constexpr Candidate candidates[] = {{"highway:optimizer", supports, make}};

}  // namespace

std::span<const Candidate> optimizers() { return candidates; }

}  // namespace fusetape::backends::cpu
