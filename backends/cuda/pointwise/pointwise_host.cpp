// Pointwise programs on the host: what the tests run in a device's place.
#include <algorithm>
#include <cstring>

#include "backends/cuda/pointwise/pointwise_program.hpp"
#include "core/check.hpp"
#include "core/numerics/reference.hpp"

namespace fusetape::backends::cuda::pointwise {
namespace {

constexpr std::size_t most_width = 8;

using Elements = std::array<double, most_width>;
using Input = PointwiseProgram::Input;

/// A device faults on an access that is not aligned to its size: so does the host.
void require_aligned(const void* data, DType dtype, std::size_t elements) {
  const std::size_t bytes = std::min<std::size_t>(size_of(dtype) * elements, 16);
  FUSETAPE_ASSERT(reinterpret_cast<std::uintptr_t>(data) % bytes == 0);
}

/// As in the text, nothing depends on the first axis's extent: programs that differ only there are one.
std::int64_t offset_in(const BroadcastView& view, std::int64_t at) {
  std::int64_t offset = 0;
  for (auto axis = static_cast<std::size_t>(view.rank); axis-- > 0;) {
    offset += (axis == 0 ? at : at % view.extent[axis]) * view.stride[axis];
    at /= view.extent[axis];
  }
  return offset;
}

class Evaluator {
 public:
  Evaluator(const PointwiseProgram& program, const void* args)
      : program_(program),
        in_(static_cast<const std::byte* const*>(args)),
        out_(static_cast<std::byte* const*>(args) + program.inputs.size()),
        slots_(program.inputs.size() + program.steps.size()) {
    std::memcpy(&count_, out_ + program.results(), sizeof(count_));
  }

  std::int64_t count() const { return count_; }

  /// Elements [at, at + width).
  void run(std::int64_t at, std::size_t width) {
    compute(at, width);
    for (std::size_t i = 0; i < program_.outputs.size(); ++i) {
      const int step = program_.outputs[i].step;
      const DType dtype = program_.step(step).dtype;
      std::byte* to = out_[i] + at * static_cast<std::int64_t>(size_of(dtype));
      require_aligned(to, dtype, width);
      core::from_doubles(slots_[program_.inputs.size() + static_cast<std::size_t>(step)].data(), dtype,
                         static_cast<std::int64_t>(width), to);
    }
  }

  /// A thread's part of a sum, or of several.
  void add_up(std::int64_t thread) {
    const PointwiseProgram::Sum& sum = *program_.sum;
    const std::int64_t columns = program_.sum_columns(), column = thread % columns;
    const std::int64_t part = thread / columns % sum.parts, outer = thread / columns / sum.parts;
    const auto width = static_cast<std::size_t>(program_.width);
    const Elements& added = slots_[static_cast<std::size_t>(sum.operand)];
    std::array<float, most_width> sums{};
    for (std::int64_t row = part; row < sum.rows; row += sum.parts) {
      run(((outer * sum.rows + row) * columns + column) * program_.width, width);
      for (std::size_t k = 0; k < width; ++k) sums[k] += static_cast<float>(added[k]);
    }
    float* const to =
        reinterpret_cast<float*>(out_[program_.outputs.size()]) + part * sum.results() + outer * sum.inner;
    if (sum.along_rows()) {
      to[0] = sums[0];
      for (std::size_t k = 1; k < width; ++k) to[0] += sums[k];
    } else {
      std::copy_n(sums.begin(), width, to + column * program_.width);
    }
  }

 private:
  void compute(std::int64_t at, std::size_t width) {
    for (std::size_t i = 0; i < program_.inputs.size(); ++i) read(i, at, width);
    for (std::size_t i = 0; i < program_.steps.size(); ++i) run_step(i, width);
  }

  void read(std::size_t i, std::int64_t at, std::size_t width) {
    const Input& input = program_.inputs[i];
    const auto size = static_cast<std::int64_t>(size_of(input.dtype));
    if (input.kind == Input::Kind::packed) {
      require_aligned(in_[i] + at * size, input.dtype, width);
      core::to_doubles(in_[i] + at * size, input.dtype, static_cast<std::int64_t>(width), slots_[i].data());
      return;
    }
    for (std::size_t k = 0; k < width; ++k) {
      const bool scalar = input.kind == Input::Kind::scalar;
      const std::int64_t place = scalar ? 0 : offset_in(input.view, at + static_cast<std::int64_t>(k));
      core::to_doubles(in_[i] + place * size, input.dtype, 1, &slots_[i][k]);
    }
  }

  void run_step(std::size_t i, std::size_t width) {
    const PointwiseProgram::Step& step = program_.steps[i];
    Elements& result = slots_[program_.inputs.size() + i];
    double operands[4];
    for (std::size_t k = 0; k < width; ++k) {
      for (std::size_t j = 0; j < step.operands.size(); ++j)
        operands[j] = slots_[static_cast<std::size_t>(step.operands[j])][k];
      result[k] = step.op->pointwise(operands, step.attrs);
    }
    std::byte rounded[most_width * sizeof(double)];
    core::from_doubles(result.data(), step.dtype, static_cast<std::int64_t>(width), rounded);
    core::to_doubles(rounded, step.dtype, static_cast<std::int64_t>(width), result.data());
  }

  const PointwiseProgram& program_;
  const std::byte* const* in_;
  std::byte* const* out_;
  std::int64_t count_ = 0;
  std::vector<Elements> slots_;
};

}  // namespace

HostBlock pointwise_on_host(std::shared_ptr<const PointwiseProgram> program) {
  return [program = std::move(program)](const void* args, Thread block, HostOrder order) {
    constexpr unsigned threads = PointwiseProgram::threads;
    Evaluator evaluator(*program, args);
    const std::int64_t stride = std::int64_t{block.blocks_x} * threads;
    const std::int64_t packs = evaluator.count() / program->width;
    for (unsigned i = 0; i < threads; ++i) {
      const unsigned thread = (order.first + i * order.step) % threads;
      const std::int64_t first = std::int64_t{block.block_x} * threads + thread;
      if (program->sum) {
        if (first < program->sum_threads()) evaluator.add_up(first);
        continue;
      }
      for (std::int64_t j = first; j < packs; j += stride)
        evaluator.run(j * program->width, static_cast<std::size_t>(program->width));
      for (std::int64_t j = packs * program->width + first; j < evaluator.count(); j += stride)
        evaluator.run(j, 1);
    }
  };
}

}  // namespace fusetape::backends::cuda::pointwise
