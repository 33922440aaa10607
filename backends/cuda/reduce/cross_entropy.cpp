// Cross entropy of logits and labels, and its gradient. A label that is no class is noted on the device, and
// thrown by whoever waits for it.
#include "backends/cuda/kernels/cross_entropy.hpp"
#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/element_types.hpp"
#include "backends/cuda/faults.hpp"
#include "backends/cuda/kernels/sums.hpp"
#include "backends/cuda/lines.hpp"
#include "backends/label_error.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cuda::reduce {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

enum class Reduction : std::uint8_t { mean, sum, none };

template <class T>
class CrossEntropyKernel final : public DeviceKernel, public NotesFaults {
 public:
  CrossEntropyKernel(const Graph& graph, const GraphNode& node, DeviceApi& device)
      : DeviceKernel(graph, device),
        gradient_(node.is(ops::cross_entropy_grad_op)),
        g_(gradient_ ? node.inputs[0] : -1),
        logits_(node.inputs[gradient_ ? 1 : 0]),
        labels_(node.inputs[gradient_ ? 2 : 1]),
        smoothing_(node.inputs[gradient_ ? 3 : 2]),
        y_(node.outputs[0]),
        byte_labels_(graph.value(labels_).dtype == DType::u8),
        rows_(lines_of(graph.value(logits_).shape, [](int axis) { return axis == 1; })),
        reduction_(static_cast<Reduction>(node.attrs.as<core::CrossEntropyAttrs>().reduction)),
        label_error_(node) {}
  ~CrossEntropyKernel() override {
    if (faults_ != nullptr) faults_->remove(site_);
  }
  CrossEntropyKernel(const CrossEntropyKernel&) = delete;
  CrossEntropyKernel& operator=(const CrossEntropyKernel&) = delete;

  void note_to(std::shared_ptr<Faults> faults) override {
    faults_ = std::move(faults);
    site_ = faults_->add([classes = rows_.length, error = label_error_](const Fault& fault) {
      return error(classes, fault.row, fault.value);
    });
  }

  std::size_t scratch_bytes() const override {
    return has_total() ? static_cast<std::size_t>(rows_.blocks()) * sizeof(double) : 0;
  }

  std::vector<std::pair<int, int>> in_place() const override {
    if (!gradient_) return {};
    return {{logits_, y_}};
  }

  void run(const KernelArgs& args) override {
    auto* const sums = reinterpret_cast<double*>(args.scratch);
    if (rows_.count > 0) gradient_ ? differentiate(args) : add_losses(args, sums);
    if (!has_total()) return;
    const std::int64_t blocks = rows_.blocks();
    const double divisor = reduction_ == Reduction::mean ? static_cast<double>(rows_.count) : 1;
    const SumsTo<T> to{.parts = nullptr, .y = args.out<T>(y_), .sums = 1, .divisor = divisor};
    launch<SumTotals<T>>(ChannelTotals::grid(1), {sums, blocks, to},
                         {{piece(sums, blocks)}, {whole(args, y_)}});
  }

 private:
  bool has_total() const { return !gradient_ && reduction_ != Reduction::none; }
  Labels labels(const KernelArgs& args) const {
    return {args.in<void>(labels_), byte_labels_, faults_->place(), site_};
  }
  /// With the fault, of which other kernels may have noted one.
  Access access(const KernelArgs& args, const Range& result) const {
    const Range fault = piece(faults_->place(), 1);
    return {{whole(args, logits_), whole(args, labels_), whole(args, smoothing_), fault}, {result, fault}};
  }

  void add_losses(const KernelArgs& args, double* sums) const {
    const bool total = has_total();
    launch<CrossEntropy<T>>({.x = rows_.blocks()},
                            {args.in<T>(logits_), labels(args), total ? nullptr : args.out<T>(y_), sums,
                             rows_, args.in<double>(smoothing_)},
                            access(args, total ? piece(sums, rows_.blocks()) : whole(args, y_)));
  }

  void differentiate(const KernelArgs& args) const {
    Access all = access(args, whole(args, y_));
    all.reads.push_back(whole(args, g_));
    launch<CrossEntropyGrad<T>>(
        {.x = rows_.blocks()},
        {args.in<T>(g_), args.in<T>(logits_), labels(args), args.out<T>(y_), rows_,
         args.in<double>(smoothing_), reduction_ == Reduction::none, reduction_ == Reduction::mean},
        all);
  }

  bool gradient_;
  int g_, logits_, labels_, smoothing_, y_;
  bool byte_labels_;
  Lines rows_;
  Reduction reduction_;
  LabelError label_error_;
  std::shared_ptr<Faults> faults_;
  unsigned site_ = 0;
};

Support supports(const Graph& graph, const Group& group, Device&) {
  const GraphNode& node = graph.node(group.nodes[0]);
  const bool ours = node.is(ops::cross_entropy_op) || node.is(ops::cross_entropy_grad_op);
  if (!group.single() || !ours) return {.ok = false, .reason = {}};
  return f32_or_half_only(graph, node);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group, Device& device) {
  const GraphNode& node = graph.node(group.nodes[0]);
  std::unique_ptr<Kernel> kernel;
  with_element_type(graph.value(node.outputs[0]).dtype, [&](auto element) {
    kernel = std::make_unique<CrossEntropyKernel<decltype(element)>>(graph, node, device.api);
  });
  return kernel;
}

constexpr Candidate candidates[] = {{"cuda:cross_entropy", supports, make}};

}  // namespace

std::span<const Candidate> cross_entropies() { return candidates; }

}  // namespace fusetape::backends::cuda::reduce
