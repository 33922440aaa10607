// softmax and log_softmax along the last axis, with gradients.
#include <cmath>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "backends/cpu/reduce/softmax_rows.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::reduce {
namespace {

using core::AxisAttrs;
using plan::Graph;
using plan::GraphNode;
using plan::Group;
using namespace softmax_rows;

enum class Op : std::uint8_t { softmax, log_softmax, softmax_grad, log_softmax_grad };

/// Rows block by block; 16-bit blocks are widened into a thread's scratch and narrowed from there.
class SoftmaxKernel final : public Kernel {
 public:
  SoftmaxKernel(const Graph& graph, const GraphNode& node, Op op)
      : inputs_(node.inputs),
        y_(node.outputs[0]),
        op_(op),
        dtype_(graph.value(y_).dtype),
        rows_(graph.value(y_).shape) {}

  std::size_t scratch_bytes() const override {
    return static_cast<std::size_t>(rows_.parts) * blocks() * rows_.block_floats() * sizeof(float);
  }

  std::vector<std::pair<int, int>> in_place() const override {
    if (op_ == Op::softmax_grad) return {{inputs_[0], y_}, {inputs_[1], y_}};
    // The gradient of log_softmax writes e^y before it reads g.
    return {{inputs_.back(), y_}};
  }

  void run(const KernelArgs& args) override {
    rows_.for_blocks([&](int part, std::int64_t first, std::int64_t rows) {
      float* const scratch = reinterpret_cast<float*>(args.scratch) +
                             static_cast<std::size_t>(part) * blocks() * rows_.block_floats();
      run_block(args, scratch, first * rows_.length, rows);
    });
  }

 private:
  /// Of a thread's scratch: what a block passes through, first and second operand, result.
  enum Block : std::uint8_t { powers, first_operand, second_operand, result };
  std::size_t blocks() const { return dtype_ == DType::f32 ? 1 : 4; }

  void run_block(const KernelArgs& args, float* scratch, std::int64_t at, std::int64_t rows) const {
    const std::int64_t count = rows * rows_.length;
    const auto block = [&](Block which) { return scratch + which * rows_.block_floats(); };
    const auto operand = [&](std::size_t i, Block which) -> const float* {
      if (i >= inputs_.size()) return nullptr;
      return read_floats(dtype_, args.in<std::byte>(inputs_[i]), at, count, block(which));
    };
    const float *a = operand(0, first_operand), *b = operand(1, second_operand);
    float* const y = float_room(dtype_, args.out<std::byte>(y_), at, block(result));
    switch (op_) {
      case Op::softmax:
        softmax(a, y, rows);
        break;
      case Op::log_softmax:
        log_softmax(a, y, rows, block(powers));
        break;
      case Op::softmax_grad:
        softmax_grad(a, b, y, rows);
        break;
      case Op::log_softmax_grad:
        log_softmax_grad(a, b, y, rows);
        break;
    }
    write_floats(dtype_, y, args.out<std::byte>(y_), at, count);
  }

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
  DType dtype_;
  Rows rows_;
};

struct SoftmaxOp {
  const core::OpDef* op;
  Op code;
};
constexpr SoftmaxOp softmax_ops[] = {{&ops::softmax_op, Op::softmax},
                                     {&ops::log_softmax_op, Op::log_softmax},
                                     {&ops::softmax_grad_op, Op::softmax_grad},
                                     {&ops::log_softmax_grad_op, Op::log_softmax_grad}};

const SoftmaxOp* find_softmax(const GraphNode& node) {
  for (const SoftmaxOp& row : softmax_ops) {
    if (node.op == row.op) return &row;
  }
  return nullptr;
}

Support supports_softmax(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  if (!group.single() || find_softmax(node) == nullptr) return {.ok = false, .reason = {}};
  const Shape& shape = graph.value(node.inputs[0]).shape;
  if (shape.rank() == 0 || node.attrs.as<AxisAttrs>().axis != shape.rank() - 1) {
    return {.ok = false, .reason = "an axis that is not the last"};
  }
  return f32_or_half(graph, node);
}

std::unique_ptr<Kernel> make_softmax(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  return std::make_unique<SoftmaxKernel>(graph, node, find_softmax(node)->code);
}

constexpr Candidate candidates[] = {{"highway:softmax", supports_softmax, make_softmax}};

}  // namespace

std::span<const Candidate> softmaxes() { return candidates; }

}  // namespace fusetape::backends::cpu::reduce
