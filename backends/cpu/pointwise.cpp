#include "backends/cpu/pointwise.hpp"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "backends/cpu/candidates.hpp"

namespace fusetape::backends::cpu {
namespace {

using plan::Graph;
using plan::Group;
using plan::Pattern;

// Below this many elements a second thread costs more than it brings.
constexpr std::int64_t parallel_from = 16384;

/// A value's elements [start, start + count) of its broadcast view, as floats.
void gather(const BroadcastView& view, DType dtype, const void* from, std::int64_t start, std::size_t count,
            float* to) {
  const auto size = static_cast<std::int64_t>(size_of(dtype));
  const auto last = static_cast<std::size_t>(view.rank - 1);
  std::array<std::int64_t, Shape::max_rank> at{};
  std::int64_t rest = start;
  std::int64_t source = 0;
  for (std::size_t axis = last + 1; axis-- > 0;) {
    at[axis] = rest % view.extent[axis];
    rest /= view.extent[axis];
    source += at[axis] * view.stride[axis];
  }
  while (count > 0) {
    const std::size_t run = std::min(count, static_cast<std::size_t>(view.extent[last] - at[last]));
    const auto* elements = static_cast<const std::byte*>(from) + source * size;
    if (view.stride[last] == 0) {
      float value = 0;
      load_block(dtype, elements, &value, 1);
      std::fill_n(to, run, value);
    } else if (dtype == DType::f32) {
      std::memcpy(to, elements, run * sizeof(float));
    } else {
      load_block(dtype, elements, to, run);
    }
    to += run;
    count -= run;
    at[last] += static_cast<std::int64_t>(run);
    source += static_cast<std::int64_t>(run) * view.stride[last];
    for (std::size_t axis = last; axis > 0 && at[axis] == view.extent[axis]; --axis) {
      at[axis] = 0;
      source += view.stride[axis - 1] - view.extent[axis] * view.stride[axis];
      ++at[axis - 1];
    }
  }
}

class PointwiseKernel final : public Kernel {
 public:
  explicit PointwiseKernel(Program program)
      : program_(std::move(program)), functions_(block_functions()), threads_(omp_get_max_threads()) {
    const auto block = static_cast<std::int64_t>(program_.block_size);
    blocks_ = (program_.count + block - 1) / block;
    if (program_.count < parallel_from) threads_ = 1;
  }

  std::size_t scratch_bytes() const override {
    return static_cast<std::size_t>(threads_) * program_.thread_floats * sizeof(float);
  }
  std::vector<std::pair<int, int>> in_place() const override { return program_.in_place; }

  void run(const KernelArgs& args) override {
    const int threads = std::min(threads_, omp_get_max_threads());
    if (threads == 1) {
      run_part(args, 0, 1);
      return;
    }
#pragma omp parallel num_threads(threads)
    run_part(args, omp_get_thread_num(), omp_get_num_threads());
  }

 private:
  void run_part(const KernelArgs& args, int thread, int threads) {
    auto* storage =
        reinterpret_cast<float*>(args.scratch) + static_cast<std::size_t>(thread) * program_.thread_floats;
    const std::int64_t first = blocks_ * thread / threads;
    const std::int64_t end = blocks_ * (thread + 1) / threads;
    if (first == end) return;
    fill_constants(args, storage);
    for (std::int64_t block = first; block < end; ++block) run_block(args, storage, block);
  }

  void fill_constants(const KernelArgs& args, float* storage) const {
    for (const Constant& constant : program_.constants) {
      float* const buffer = storage + constant.offset;
      const auto period = static_cast<std::size_t>(constant.period);
      const std::size_t length = program_.block_size + period;
      load_block(constant.dtype, args.in<std::byte>(constant.value), buffer, period);
      // Doubling: each copy takes all that is there.
      for (std::size_t done = period; done < length; done *= 2) {
        std::memcpy(buffer + done, buffer, std::min(done, length - done) * sizeof(float));
      }
    }
  }

  void run_block(const KernelArgs& args, float* storage, std::int64_t block) const {
    const std::int64_t start = block * static_cast<std::int64_t>(program_.block_size);
    const auto count = static_cast<std::size_t>(
        std::min(static_cast<std::int64_t>(program_.block_size), program_.count - start));
    for (const Instruction& instruction : program_.instructions) {
      switch (instruction.kind) {
        case Instruction::Kind::compute: {
          BlockArgs block_args{.count = count, .low = instruction.low, .high = instruction.high};
          for (std::size_t i = 0; i < 3; ++i)
            block_args.in[i] = locate(args, storage, instruction.in[i], start);
          block_args.out = locate(args, storage, instruction.out, start);
          functions_[static_cast<std::size_t>(instruction.code)](block_args);
          break;
        }
        case Instruction::Kind::load:
          load_block(instruction.dtype, element(args, instruction, start),
                     locate(args, storage, instruction.out, start), count);
          break;
        case Instruction::Kind::gather:
          gather(program_.views[static_cast<std::size_t>(instruction.view)], instruction.dtype,
                 args.in<std::byte>(instruction.value), start, count,
                 locate(args, storage, instruction.out, start));
          break;
        case Instruction::Kind::store:
          store_block(instruction.dtype, locate(args, storage, instruction.in[0], start),
                      element(args, instruction, start), count);
          break;
      }
    }
  }

  static std::byte* element(const KernelArgs& args, const Instruction& instruction, std::int64_t start) {
    return args.out<std::byte>(instruction.value) +
           start * static_cast<std::int64_t>(size_of(instruction.dtype));
  }

  float* locate(const KernelArgs& args, float* storage, Operand operand, std::int64_t start) const {
    switch (operand.kind) {
      case Operand::Kind::none:
        return nullptr;
      case Operand::Kind::memory:
        return args.out<float>(operand.index) + start;
      case Operand::Kind::block:
        return storage + static_cast<std::size_t>(operand.index) * program_.block_size;
      case Operand::Kind::constant:
        break;
    }
    const Constant& constant = program_.constants[static_cast<std::size_t>(operand.index)];
    return storage + constant.offset + start % constant.period;
  }

  Program program_;
  const BlockFunction* functions_;
  int threads_ = 1;
  std::int64_t blocks_ = 0;
};

Support supports_pointwise(const Graph& graph, const Group& group) {
  if (group.pattern != Pattern::pointwise && group.pattern != Pattern::single)
    return {.ok = false, .reason = {}};
  bool foreign = false;
  std::string reason = pointwise_refusal(graph, group, foreign);
  if (reason.empty()) return {};
  if (foreign && group.pattern == Pattern::single) reason.clear();
  return {.ok = false, .reason = reason};
}

std::unique_ptr<Kernel> make_pointwise(const Graph& graph, const Group& group) {
  return std::make_unique<PointwiseKernel>(compile_pointwise(graph, group));
}

constexpr Candidate candidates[] = {{"highway:pointwise", supports_pointwise, make_pointwise}};

}  // namespace

std::span<const Candidate> pointwise_programs() { return candidates; }

}  // namespace fusetape::backends::cpu
