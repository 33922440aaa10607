// softmax, log_softmax and cross entropy along the last axis, with gradients. Rows go in blocks, so that exp
// runs over many at once.
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/pointwise_blocks.hpp"
#include "core/op_attrs.hpp"

namespace fusetape::backends::cpu {
namespace {

using core::AxisAttrs;
using core::CrossEntropyAttrs;
using plan::Graph;
using plan::GraphNode;
using plan::Group;
using plan::Pattern;

// A block of rows has about this many elements.
constexpr std::int64_t block_elements = 1024;
// Below this many elements for each, a second thread costs more than it brings.
constexpr std::int64_t least_elements = 1 << 13;

/// A dense {rows, length} matrix, cut into parts for threads and blocks of rows within them.
struct Rows {
  std::int64_t count = 0, length = 0;
  int parts = 1;

  explicit Rows(const Shape& shape) : length(shape.back()) {
    const std::int64_t elements = shape.elements();
    count = length == 0 ? 0 : elements / length;
    const std::int64_t wanted = std::min(count, elements / least_elements);
    parts = static_cast<int>(std::clamp<std::int64_t>(wanted, 1, omp_get_max_threads()));
  }

  std::int64_t per_block() const {
    return std::max<std::int64_t>(1, block_elements / std::max<std::int64_t>(1, length));
  }
  std::size_t block_floats() const { return static_cast<std::size_t>((per_block() * length + 15) / 16 * 16); }

  /// Calls f(part, first row, rows) for every block.
  template <class F>
  void for_blocks(F&& f) const {
    for_parts(parts, [&](int part) {
      const std::int64_t end = count * (part + 1) / parts;
      for (std::int64_t row = count * part / parts; row < end; row += per_block()) {
        f(part, row, std::min(per_block(), end - row));
      }
    });
  }
};

void exp_block(const float* x, float* y, std::int64_t count) {
  static const BlockFunction exp = block_functions()[static_cast<std::size_t>(Code::exp)];
  exp({.in = {x}, .out = y, .count = static_cast<std::size_t>(count)});
}

/// The largest element; a NaN need not win, it shows in the sums.
float largest(const float* x, std::int64_t length) {
  float most = x[0];
  for (std::int64_t i = 1; i < length; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

double sum(const float* x, std::int64_t length) {
  double total = 0;
  for (std::int64_t i = 0; i < length; ++i) total += x[i];
  return total;
}

/// y = e^(x − largest of the row), for a block of rows.
void exp_rows(const float* x, float* y, std::int64_t rows, std::int64_t length) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* const from = x + row * length;
    const float most = largest(from, length);
    for (std::int64_t i = 0; i < length; ++i) y[row * length + i] = from[i] - most;
  }
  exp_block(y, y, rows * length);
}

enum class Op : std::uint8_t { softmax, log_softmax, softmax_grad, log_softmax_grad };

class SoftmaxKernel final : public Kernel {
 public:
  SoftmaxKernel(const Graph& graph, const GraphNode& node, Op op)
      : inputs_(node.inputs), y_(node.outputs[0]), op_(op), rows_(graph.value(y_).shape) {}

  std::size_t scratch_bytes() const override {
    if (op_ != Op::log_softmax) return 0;
    return static_cast<std::size_t>(rows_.parts) * rows_.block_floats() * sizeof(float);
  }

  std::vector<std::pair<int, int>> in_place() const override {
    if (op_ == Op::softmax_grad) return {{inputs_[0], y_}, {inputs_[1], y_}};
    // The gradient of log_softmax writes e^y before it reads g.
    return {{inputs_.back(), y_}};
  }

  void run(const KernelArgs& args) override {
    const float* const a = args.in<float>(inputs_[0]);
    const float* const b = inputs_.size() > 1 ? args.in<float>(inputs_[1]) : nullptr;
    const std::int64_t length = rows_.length;
    rows_.for_blocks([&](int part, std::int64_t first, std::int64_t rows) {
      const std::int64_t at = first * length;
      float* const y = args.out<float>(y_) + at;
      float* const scratch =
          reinterpret_cast<float*>(args.scratch) + static_cast<std::size_t>(part) * rows_.block_floats();
      switch (op_) {
        case Op::softmax:
          softmax(a + at, y, rows);
          break;
        case Op::log_softmax:
          log_softmax(a + at, y, rows, scratch);
          break;
        case Op::softmax_grad:
          softmax_grad(a + at, b + at, y, rows);
          break;
        case Op::log_softmax_grad:
          log_softmax_grad(a + at, b + at, y, rows);
          break;
      }
    });
  }

 private:
  void softmax(const float* x, float* y, std::int64_t rows) const {
    const std::int64_t length = rows_.length;
    exp_rows(x, y, rows, length);
    for (std::int64_t row = 0; row < rows; ++row, y += length) {
      const auto scale = static_cast<float>(1 / sum(y, length));
      for (std::int64_t i = 0; i < length; ++i) y[i] *= scale;
    }
  }

  void log_softmax(const float* x, float* y, std::int64_t rows, float* powers) const {
    const std::int64_t length = rows_.length;
    exp_rows(x, powers, rows, length);
    for (std::int64_t row = 0; row < rows; ++row, x += length, y += length) {
      const float most = largest(x, length);
      const auto normaliser = static_cast<float>(std::log(sum(powers + row * length, length)));
      for (std::int64_t i = 0; i < length; ++i) y[i] = (x[i] - most) - normaliser;
    }
  }

  void softmax_grad(const float* g, const float* y, float* dx, std::int64_t rows) const {
    const std::int64_t length = rows_.length;
    for (std::int64_t row = 0; row < rows; ++row, g += length, y += length, dx += length) {
      double dot = 0;
      for (std::int64_t i = 0; i < length; ++i) dot += static_cast<double>(g[i]) * y[i];
      const auto shift = static_cast<float>(dot);
      for (std::int64_t i = 0; i < length; ++i) dx[i] = y[i] * (g[i] - shift);
    }
  }

  void log_softmax_grad(const float* g, const float* y, float* dx, std::int64_t rows) const {
    const std::int64_t length = rows_.length;
    exp_block(y, dx, rows * length);
    for (std::int64_t row = 0; row < rows; ++row, g += length, dx += length) {
      const auto total = static_cast<float>(sum(g, length));
      for (std::int64_t i = 0; i < length; ++i) dx[i] = g[i] - dx[i] * total;
    }
  }

  std::vector<int> inputs_;
  int y_;
  Op op_;
  Rows rows_;
};

/// cross_entropy and cross_entropy_grad. A label out of range is noted inside the parallel loop and thrown
/// behind it.
class CrossEntropyKernel final : public Kernel {
 public:
  CrossEntropyKernel(const Graph& graph, const GraphNode& node)
      : attrs_(node.attrs.as<CrossEntropyAttrs>()),
        gradient_(node.op->is("cross_entropy_grad")),
        logits_(node.inputs[gradient_ ? 1 : 0]),
        labels_(node.inputs[gradient_ ? 2 : 1]),
        g_(gradient_ ? node.inputs[0] : -1),
        y_(node.outputs[0]),
        label_type_(graph.value(labels_).dtype),
        rows_(graph.value(logits_).shape),
        at_(node.at),
        module_path_(node.module_path != nullptr ? *node.module_path : std::string()) {}

  std::vector<std::pair<int, int>> in_place() const override {
    if (!gradient_) return {};
    return {{logits_, y_}};
  }

  /// For each part: a block of powers, a sum and the first row with a bad label.
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
    if (!gradient_ && reduction() != Reduction::none) write_total(args, scratch);
  }

 private:
  enum class Reduction : std::uint8_t { mean, sum, none };
  struct Scratch {
    float* powers = nullptr;
    double* losses = nullptr;
    std::int64_t* bad_rows = nullptr;
    std::size_t bytes = 0;
  };

  Scratch carve(std::byte* base) const {
    ScratchCarver carver(base);
    Scratch scratch;
    scratch.powers = carver.take<float>(rows_.parts * static_cast<std::int64_t>(rows_.block_floats()));
    scratch.losses = carver.take<double>(rows_.parts);
    scratch.bad_rows = carver.take<std::int64_t>(rows_.parts);
    scratch.bytes = carver.used();
    return scratch;
  }

  Reduction reduction() const { return static_cast<Reduction>(attrs_.reduction); }

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
    const float* x = args.in<float>(logits_) + first * classes;
    float* const powers = scratch.powers + static_cast<std::size_t>(part) * rows_.block_floats();
    exp_rows(x, powers, rows, classes);
    for (std::int64_t row = 0; row < rows; ++row, x += classes) {
      const std::int64_t target = checked_label(args, scratch, part, first + row);
      const double normaliser = std::log(sum(powers + row * classes, classes)) + largest(x, classes);
      double loss = normaliser - x[target];
      if (attrs_.label_smoothing != 0) {
        double all = 0;
        for (std::int64_t i = 0; i < classes; ++i) all += normaliser - x[i];
        loss =
            (1 - attrs_.label_smoothing) * loss + attrs_.label_smoothing / static_cast<double>(classes) * all;
      }
      scratch.losses[part] += loss;
      if (reduction() == Reduction::none) args.out<float>(y_)[first + row] = static_cast<float>(loss);
    }
  }

  void write_total(const KernelArgs& args, const Scratch& scratch) const {
    double total = 0;
    for (int part = 0; part < rows_.parts; ++part) total += scratch.losses[part];
    if (reduction() == Reduction::mean) total /= static_cast<double>(rows_.count);
    *args.out<float>(y_) = static_cast<float>(total);
  }

  /// dx = g·(softmax(x) − target), over the number of rows for the mean.
  void gradient_block(const KernelArgs& args, const Scratch& scratch, int part, std::int64_t first,
                      std::int64_t rows) const {
    const std::int64_t classes = rows_.length;
    const double everywhere = attrs_.label_smoothing / static_cast<double>(classes);
    float* dx = args.out<float>(y_) + first * classes;
    exp_rows(args.in<float>(logits_) + first * classes, dx, rows, classes);
    for (std::int64_t row = 0; row < rows; ++row, dx += classes) {
      const std::int64_t target = checked_label(args, scratch, part, first + row);
      double scale = args.in<float>(g_)[reduction() == Reduction::none ? first + row : 0];
      if (reduction() == Reduction::mean) scale /= static_cast<double>(rows_.count);
      const double to_probability = 1 / sum(dx, classes);
      const double at_target = dx[target] * to_probability - (1 - attrs_.label_smoothing) - everywhere;
      const auto factor = static_cast<float>(scale * to_probability),
                 shift = static_cast<float>(scale * everywhere);
      for (std::int64_t i = 0; i < classes; ++i) dx[i] = dx[i] * factor - shift;
      dx[target] = static_cast<float>(scale * at_target);
    }
  }

  [[noreturn]] void fail(const KernelArgs& args, std::int64_t row) const {
    throw Error("cross_entropy",
                "expected labels in [0, " + std::to_string(rows_.length) + "), got labels[" +
                    std::to_string(row) + "] = " + std::to_string(label(args, row)),
                at_, module_path_);
  }

  CrossEntropyAttrs attrs_;
  bool gradient_;
  int logits_, labels_, g_, y_;
  DType label_type_;
  Rows rows_;
  Location at_;
  std::string module_path_;
};

struct SoftmaxOp {
  std::string_view name;
  Op op;
};
constexpr SoftmaxOp softmax_ops[] = {{"softmax", Op::softmax},
                                     {"log_softmax", Op::log_softmax},
                                     {"softmax_grad", Op::softmax_grad},
                                     {"log_softmax_grad", Op::log_softmax_grad}};

const SoftmaxOp* find_softmax(const GraphNode& node) {
  for (const SoftmaxOp& row : softmax_ops) {
    if (node.op->is(row.name)) return &row;
  }
  return nullptr;
}

bool is_cross_entropy(const GraphNode& node) {
  return node.op->is("cross_entropy") || node.op->is("cross_entropy_grad");
}

Support f32_only(const Graph& graph, const GraphNode& node) {
  for (const int input : node.inputs) {
    const DType dtype = graph.value(input).dtype;
    if (is_floating(dtype) && dtype != DType::f32)
      return {.ok = false, .reason = "f32 only, not " + std::string(name_of(dtype))};
  }
  return {};
}

Support supports_softmax(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (group.pattern != Pattern::single || find_softmax(node) == nullptr) return {.ok = false, .reason = {}};
  const Shape& shape = graph.value(node.inputs[0]).shape;
  if (shape.rank() == 0 || node.attrs.as<AxisAttrs>().axis != shape.rank() - 1) {
    return {.ok = false, .reason = "an axis that is not the last"};
  }
  return f32_only(graph, node);
}

std::unique_ptr<Kernel> make_softmax(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  return std::make_unique<SoftmaxKernel>(graph, node, find_softmax(node)->op);
}

Support supports_cross_entropy(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (group.pattern != Pattern::single || !is_cross_entropy(node)) return {.ok = false, .reason = {}};
  return f32_only(graph, node);
}

std::unique_ptr<Kernel> make_cross_entropy(const Graph& graph, const Group& group) {
  return std::make_unique<CrossEntropyKernel>(graph, graph.node(group.nodes[0]));
}

constexpr Candidate candidates[] = {{"highway:softmax", supports_softmax, make_softmax},
                                    {"highway:cross_entropy", supports_cross_entropy, make_cross_entropy}};

}  // namespace

std::span<const Candidate> softmaxes() { return candidates; }

}  // namespace fusetape::backends::cpu
