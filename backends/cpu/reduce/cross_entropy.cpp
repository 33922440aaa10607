// Cross entropy of logits and labels, and its gradient: softmax inside, one pass.
#include <cmath>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/reduce/softmax_rows.hpp"
#include "backends/label_error.hpp"
#include "core/numerics/loss_formulas.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::reduce {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;
using namespace softmax_rows;

/// cross_entropy and cross_entropy_grad. A label out of range is noted inside the parallel loop and thrown
/// behind it.
class CrossEntropyKernel final : public Kernel {
 public:
  CrossEntropyKernel(const Graph& graph, const GraphNode& node)
      : reduction_(static_cast<Reduction>(node.attrs.as<core::CrossEntropyAttrs>().reduction)),
        gradient_(node.is(ops::cross_entropy_grad_op)),
        logits_(node.inputs[gradient_ ? 1 : 0]),
        labels_(node.inputs[gradient_ ? 2 : 1]),
        smoothing_(node.inputs[gradient_ ? 3 : 2]),
        g_(gradient_ ? node.inputs[0] : -1),
        y_(node.outputs[0]),
        dtype_(graph.value(logits_).dtype),
        label_type_(graph.value(labels_).dtype),
        rows_(graph.value(logits_).shape),
        label_error_(node) {}

  std::vector<std::pair<int, int>> in_place() const override {
    if (!gradient_) return {};
    return {{logits_, y_}};
  }

  /// For each part: a block of powers, of widened logits and of gradients before they are narrowed, a sum and
  /// the first row with a bad label.
  std::size_t scratch_bytes() const override { return carve(nullptr).bytes; }

  void run(const KernelArgs& args) override {
    const Scratch scratch = carve(args.scratch);
    std::fill_n(scratch.losses, rows_.parts, 0.0);
    std::fill_n(scratch.bad_rows, rows_.parts, std::int64_t{-1});
    rows_.for_blocks([&](int part, std::int64_t first, std::int64_t rows) {
      if (gradient_) {
        gradient_block(args, scratch, part, first, rows);
      } else {
        loss_block(args, scratch, part, first, rows);
      }
    });
    for (int part = 0; part < rows_.parts; ++part) {
      if (scratch.bad_rows[part] >= 0) fail(args, scratch.bad_rows[part]);
    }
    if (!gradient_ && reduction_ != Reduction::none) write_total(args, scratch);
  }

 private:
  enum class Reduction : std::uint8_t { mean, sum, none };
  struct Scratch {
    float *powers = nullptr, *logits = nullptr, *gradients = nullptr;
    double* losses = nullptr;
    std::int64_t* bad_rows = nullptr;
    std::size_t bytes = 0;
  };

  Scratch carve(std::byte* base) const {
    ScratchCarver carver(base);
    Scratch scratch;
    const std::int64_t blocks = rows_.parts * static_cast<std::int64_t>(rows_.block_floats());
    scratch.powers = carver.take<float>(blocks);
    scratch.logits = carver.take<float>(dtype_ == DType::f32 ? 0 : blocks);
    scratch.gradients = carver.take<float>(dtype_ == DType::f32 ? 0 : blocks);
    scratch.losses = carver.take<double>(rows_.parts);
    scratch.bad_rows = carver.take<std::int64_t>(rows_.parts);
    scratch.bytes = carver.used();
    return scratch;
  }

  float* block_of(float* blocks, int part) const {
    return blocks + static_cast<std::size_t>(part) * rows_.block_floats();
  }
  const float* logits(const KernelArgs& args, const Scratch& scratch, int part, std::int64_t first,
                      std::int64_t rows) const {
    return read_floats(dtype_, args.in<std::byte>(logits_), first * rows_.length, rows * rows_.length,
                       block_of(scratch.logits, part));
  }
  double incoming(const KernelArgs& args, std::int64_t row) const {
    float g = 0;
    return *read_floats(dtype_, args.in<std::byte>(g_), row, 1, &g);
  }
  void write_loss(const KernelArgs& args, std::int64_t row, double loss) const {
    const auto rounded = static_cast<float>(loss);
    store_block(dtype_, &rounded, args.out<std::byte>(y_) + row * static_cast<std::int64_t>(size_of(dtype_)),
                1);
  }

  std::int64_t label(const KernelArgs& args, std::int64_t row) const {
    return label_type_ == DType::u8 ? args.in<std::uint8_t>(labels_)[row]
                                    : args.in<std::int64_t>(labels_)[row];
  }

  /// The row's label, or 0 after noting that it is none.
  std::int64_t checked_label(const KernelArgs& args, const Scratch& scratch, int part,
                             std::int64_t row) const {
    const std::int64_t found = label(args, row);
    if (found >= 0 && found < rows_.length) return found;
    if (scratch.bad_rows[part] < 0) scratch.bad_rows[part] = row;
    return 0;
  }

  void loss_block(const KernelArgs& args, const Scratch& scratch, int part, std::int64_t first,
                  std::int64_t rows) const {
    const std::int64_t classes = rows_.length;
    const double smoothing = *args.in<double>(smoothing_);
    const float* x = logits(args, scratch, part, first, rows);
    float* const powers = block_of(scratch.powers, part);
    exp_rows(x, powers, rows, classes);
    for (std::int64_t row = 0; row < rows; ++row, x += classes) {
      const std::int64_t target = checked_label(args, scratch, part, first + row);
      const double log_sum = std::log(sum(powers + row * classes, classes)), most = largest(x, classes);
      double loss = log_sum - (x[target] - most);
      if (smoothing != 0) {
        double all = 0;
        for (std::int64_t i = 0; i < classes; ++i) all += log_sum - (x[i] - most);
        loss = core::smoothed_loss(loss, all, smoothing, static_cast<double>(classes));
      }
      scratch.losses[part] += loss;
      if (reduction_ == Reduction::none) write_loss(args, first + row, loss);
    }
  }

  void write_total(const KernelArgs& args, const Scratch& scratch) const {
    double total = 0;
    for (int part = 0; part < rows_.parts; ++part) total += scratch.losses[part];
    if (reduction_ == Reduction::mean) total /= static_cast<double>(rows_.count);
    write_loss(args, 0, total);
  }

  /// dx = g·(softmax(x) − target), over the number of rows for the mean.
  void gradient_block(const KernelArgs& args, const Scratch& scratch, int part, std::int64_t first,
                      std::int64_t rows) const {
    const std::int64_t classes = rows_.length;
    const double smoothing = *args.in<double>(smoothing_);
    const double everywhere = smoothing / static_cast<double>(classes);
    float* dx =
        float_room(dtype_, args.out<std::byte>(y_), first * classes, block_of(scratch.gradients, part));
    float* const gradients = dx;
    exp_rows(logits(args, scratch, part, first, rows), dx, rows, classes);
    for (std::int64_t row = 0; row < rows; ++row, dx += classes) {
      const std::int64_t target = checked_label(args, scratch, part, first + row);
      double scale = incoming(args, reduction_ == Reduction::none ? first + row : 0);
      if (reduction_ == Reduction::mean) scale /= static_cast<double>(rows_.count);
      const double to_probability = 1 / sum(dx, classes);
      const double at_target = dx[target] * to_probability - (1 - smoothing) - everywhere;
      const auto factor = static_cast<float>(scale * to_probability),
                 shift = static_cast<float>(scale * everywhere);
      for (std::int64_t i = 0; i < classes; ++i) dx[i] = dx[i] * factor - shift;
      dx[target] = static_cast<float>(scale * at_target);
    }
    write_floats(dtype_, gradients, args.out<std::byte>(y_), first * classes, rows * classes);
  }

  [[noreturn]] void fail(const KernelArgs& args, std::int64_t row) const {
    throw label_error_(rows_.length, row, label(args, row));
  }

  Reduction reduction_;
  bool gradient_;
  int logits_, labels_, smoothing_, g_, y_;
  DType dtype_, label_type_;
  Rows rows_;
  LabelError label_error_;
};

bool is_cross_entropy(const GraphNode& node) {
  return node.is(ops::cross_entropy_op) || node.is(ops::cross_entropy_grad_op);
}

Support supports_cross_entropy(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (!group.single() || !is_cross_entropy(node)) return {.ok = false, .reason = {}};
  return f32_or_half(graph, node);
}

std::unique_ptr<Kernel> make_cross_entropy(const Graph& graph, const Group& group) {
  return std::make_unique<CrossEntropyKernel>(graph, graph.node(group.nodes[0]));
}

constexpr Candidate candidates[] = {{"highway:cross_entropy", supports_cross_entropy, make_cross_entropy}};

}  // namespace

std::span<const Candidate> cross_entropies() { return candidates; }

}  // namespace fusetape::backends::cpu::reduce
