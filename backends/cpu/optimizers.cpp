#include <omp.h>

#include <cmath>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "backends/cpu/grad_norm.hpp"
#include "backends/cpu/optimizers_simd.hpp"
#include "core/op_attrs.hpp"

/// sgd_update and adam_update: one node, or all parameters of a model in one kernel, with the clipping of
/// their gradients.
namespace fusetape::backends::cpu {
namespace {

using plan::Graph;
using plan::Group;
using plan::Pattern;

constexpr int tensors = 4;  ///< p, g and up to two states; their new values, and the clipped gradient

/// One node. Its values lie behind each other in the kernel's count of elements, which the threads share out
/// evenly.
struct Update {
  bool adam = false;
  std::int64_t variant = 0;             ///< nesterov, or decoupled
  DType dtype = DType::f32;             ///< of the tensors; scalars are f32
  std::vector<int> inputs;              ///< as the op has them
  int scale = -1;                       ///< of the gradient's dtype; -1: none
  int in[tensors] = {-1, -1, -1, -1};   ///< p, g (before it is clipped), velocity, or m, v
  int out[tensors] = {-1, -1, -1, -1};  ///< their new values; of g, the clipped one where it is wanted
  std::int64_t begin = 0, end = 0;
};

/// The same tensors by pointer.
struct Operands {
  const float* in[tensors] = {};
  float* out[tensors] = {};
};

float scalar(const KernelArgs& args, int value) { return *args.in<float>(value); }

float gradient_scale(const KernelArgs& args, const Update& update) {
  if (update.scale < 0) return 1;
  float scale = 0;
  return *read_floats(update.dtype, args.in<std::byte>(update.scale), 0, 1, &scale);
}

void run_sgd(const KernelArgs& args, const Update& update, const Operands& at, std::int64_t begin,
             std::int64_t end) {
  const std::vector<int>& in = update.inputs;
  const SgdSpan span{.lr = scalar(args, in[2]),
                     .weight_decay = scalar(args, in[3]),
                     .momentum = at.in[2] != nullptr ? scalar(args, in[5]) : 0,
                     .scale = gradient_scale(args, update),
                     .nesterov = update.variant != 0,
                     .p = at.in[0],
                     .g = at.in[1],
                     .v = at.in[2],
                     .new_p = at.out[0],
                     .new_g = at.out[1],
                     .new_v = at.out[2]};
  update_sgd(span, begin, end);
}

void run_adam(const KernelArgs& args, const Update& update, const Operands& at, std::int64_t begin,
              std::int64_t end) {
  const std::vector<int>& in = update.inputs;
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
                      .scale = gradient_scale(args, update),
                      .p = at.in[0],
                      .g = at.in[1],
                      .m = at.in[2],
                      .v = at.in[3],
                      .new_p = at.out[0],
                      .new_g = at.out[1],
                      .new_m = at.out[2],
                      .new_v = at.out[3]};
  update_adam(span, begin, end);
}

void run_floats(const KernelArgs& args, const Update& update, std::int64_t begin, std::int64_t end) {
  Operands at;
  for (int i = 0; i < tensors; ++i) {
    if (update.in[i] >= 0) at.in[i] = args.in<float>(update.in[i]);
    if (update.out[i] >= 0) at.out[i] = args.out<float>(update.out[i]);
  }
  (update.adam ? run_adam : run_sgd)(args, update, at, begin, end);
}

/// Block by block through floats. The results may lie where the operands do.
void run_halves(const KernelArgs& args, const Update& update, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t block = 512;
  float in[tensors][block], out[tensors][block];
  Operands at;
  for (int i = 0; i < tensors; ++i) {
    if (update.in[i] >= 0) at.in[i] = in[i];
    if (update.out[i] >= 0) at.out[i] = out[i];
  }
  for (std::int64_t first = begin; first < end; first += block) {
    const std::int64_t count = std::min(block, end - first);
    for (int i = 0; i < tensors; ++i) {
      if (update.in[i] >= 0) read_floats(update.dtype, args.in<std::byte>(update.in[i]), first, count, in[i]);
    }
    (update.adam ? run_adam : run_sgd)(args, update, at, 0, count);
    for (int i = 0; i < tensors; ++i) {
      if (update.out[i] >= 0)
        write_floats(update.dtype, out[i], args.out<std::byte>(update.out[i]), first, count);
    }
  }
}

class OptimizerKernel final : public Kernel {
 public:
  OptimizerKernel(const Graph& graph, const Group& group) {
    for (int id : group.nodes) {
      if (!graph.node(id).op->is("mul")) add(graph, group, graph.node(id));
    }
    constexpr std::int64_t least_elements = 1 << 14;  // below it a second thread costs more than it brings
    const std::int64_t wanted = std::max<std::int64_t>(1, elements_ / least_elements);
    parts_ = static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), wanted));
    const Update& first = updates_.front();
    name = "highway:" + group.name;
    tensor_passes = first.adam ? 7 : first.in[2] >= 0 ? 5 : 3;
    if (first.out[1] >= 0) ++tensor_passes;
  }

  void run(const KernelArgs& args) override {
    for_parts(parts_, [&](int part) {
      const std::int64_t begin = elements_ * part / parts_, end = elements_ * (part + 1) / parts_;
      for (const Update& update : updates_) {
        const std::int64_t from = std::max(begin, update.begin), to = std::min(end, update.end);
        if (from >= to) continue;
        const auto run_update = update.dtype == DType::f32 ? run_floats : run_halves;
        run_update(args, update, from - update.begin, to - update.begin);
      }
    });
  }

  /// Every new value in the place of the old one; a gradient only if no other update reads it.
  std::vector<std::pair<int, int>> in_place() const override {
    std::vector<std::pair<int, int>> pairs;
    for (const Update& update : updates_) {
      for (int i = 0; i < tensors; ++i) {
        if (update.out[i] >= 0 && readers_of(update.in[i]) == 1)
          pairs.emplace_back(update.in[i], update.out[i]);
      }
    }
    return pairs;
  }

 private:
  void add(const Graph& graph, const Group& group, const plan::GraphNode& node) {
    Update update{.adam = node.op->is("adam_update"), .inputs = node.inputs};
    update.variant =
        update.adam ? node.attrs.as<core::AdamAttrs>().decoupled : node.attrs.as<core::SgdAttrs>().nesterov;
    update.dtype = graph.value(node.inputs[0]).dtype;
    update.in[0] = node.inputs[0];
    update.in[1] = node.inputs[1];
    update.out[0] = node.outputs[0];
    for (std::size_t state = 1; state < node.outputs.size(); ++state) {
      update.in[state + 1] = node.inputs[update.adam ? state + 1 : 4];
      update.out[state + 1] = node.outputs[state];
    }
    if (group.updates.scale >= 0) add_clipping(graph, group, update);
    update.begin = elements_;
    update.end = elements_ + graph.value(node.inputs[0]).elements();
    elements_ = update.end;
    updates_.push_back(std::move(update));
  }

  /// Two updates may share a clipped gradient: the first of them writes it.
  void add_clipping(const Graph& graph, const Group& group, Update& update) const {
    const int clipped = update.in[1];
    const plan::GraphNode& mul = graph.node(graph.value(clipped).producer);
    const bool scale_last = mul.inputs[1] == group.updates.scale;
    update.in[1] = mul.inputs[scale_last ? 0 : 1];
    update.scale = group.updates.scale;
    const bool wanted = std::find(group.outputs.begin(), group.outputs.end(), clipped) != group.outputs.end();
    const bool written = std::any_of(updates_.begin(), updates_.end(),
                                     [&](const Update& other) { return other.out[1] == clipped; });
    if (wanted && !written) update.out[1] = clipped;
  }

  std::int64_t readers_of(int value) const {
    std::int64_t readers = 0;
    for (const Update& update : updates_) readers += std::count(update.in, update.in + tensors, value);
    return readers;
  }

  std::vector<Update> updates_;
  std::int64_t elements_ = 0;
  int parts_ = 1;
};

Support supports(const Graph& graph, const Group& group) {
  const bool candidate = group.pattern == Pattern::single || group.pattern == Pattern::optimizer;
  if (!candidate) return {.ok = false, .reason = ""};
  for (int id : group.nodes) {
    const plan::GraphNode& node = graph.node(id);
    const bool update = node.op->is("sgd_update") || node.op->is("adam_update");
    const bool clip = group.updates.scale >= 0 && node.op->is("mul");
    if (!update && !clip) return {.ok = false, .reason = ""};
    const DType dtype = graph.value(node.inputs[0]).dtype;
    if (!is_f32_or_half(dtype))
      return {.ok = false, .reason = "f32 and 16 bits only, not " + std::string(name_of(dtype))};
  }
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  return std::make_unique<OptimizerKernel>(graph, group);
}

constexpr Candidate candidates[] = {{"highway:optimizer", supports, make},
                                    {"cpu:grad_norm", supports_grad_norm, make_grad_norm}};

}  // namespace

std::span<const Candidate> optimizers() { return candidates; }

}  // namespace fusetape::backends::cpu
