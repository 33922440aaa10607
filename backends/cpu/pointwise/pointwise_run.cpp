#include <algorithm>
#include <cstring>
#include <utility>

#include "backends/cpu/pointwise/pointwise.hpp"

namespace fusetape::backends::cpu::pointwise {
namespace {

/// Appends copies of the `period` floats before `to` until `count` are written: each copy takes all that is
/// there.
void repeat(float* to, std::size_t period, std::size_t count) {
  const float* const from = to - period;
  for (std::size_t done = 0; done < count;) {
    const std::size_t length = std::min(period + done, count - done);
    std::memcpy(to + done, from, length * sizeof(float));
    done += length;
  }
}

/// A value's elements [start, start + count) of its broadcast view, as floats.
void gather(const BroadcastView& view, DType dtype, const void* from, std::int64_t start, std::size_t count,
            float* to) {
  const auto size = static_cast<std::int64_t>(size_of(dtype));
  const auto last = static_cast<std::size_t>(view.rank - 1);
  const auto row = static_cast<std::size_t>(view.extent[last]);
  std::array<std::int64_t, Shape::max_rank> at{};
  std::int64_t rest = start;
  std::int64_t source = 0;
  for (std::size_t axis = last + 1; axis-- > 0;) {
    at[axis] = rest % view.extent[axis];
    rest /= view.extent[axis];
    source += at[axis] * view.stride[axis];
  }
  const auto advance = [&](std::size_t axis, std::int64_t by) {
    at[axis] += by;
    source += by * view.stride[axis];
    for (; axis > 0 && at[axis] == view.extent[axis]; --axis) {
      at[axis] = 0;
      source += view.stride[axis - 1] - view.extent[axis] * view.stride[axis];
      ++at[axis - 1];
    }
  };
  while (count > 0) {
    const std::size_t run = std::min(count, row - static_cast<std::size_t>(at[last]));
    const auto* elements = static_cast<const std::byte*>(from) + source * size;
    if (view.stride[last] == 0) {
      float value = 0;
      load_block(dtype, elements, &value, 1);
      std::fill_n(to, run, value);
    } else {
      load_block(dtype, elements, to, run);
    }
    const bool whole = run == row;
    to += run;
    count -= run;
    advance(last, static_cast<std::int64_t>(run));
    // A whole row that is repeated need not be fetched again.
    if (!whole || last == 0 || view.stride[last - 1] != 0 || at[last - 1] == 0) continue;
    const std::size_t rows =
        std::min(count / row, static_cast<std::size_t>(view.extent[last - 1] - at[last - 1]));
    if (rows == 0) continue;
    repeat(to, row, rows * row);
    to += rows * row;
    count -= rows * row;
    advance(last - 1, static_cast<std::int64_t>(rows));
  }
}

/// An instruction's numbers, rounded as its loop reads them.
std::array<float, 2> numbers_of(const KernelArgs& args, const Instruction& instruction) {
  std::array<float, 2> numbers{};
  for (std::size_t i = 0; i < 2; ++i) {
    if (instruction.numbers[i] >= 0)
      numbers[i] = static_cast<float>(*args.in<double>(instruction.numbers[i]));
  }
  return numbers;
}

}  // namespace

ProgramRun::ProgramRun(Program program) : program_(std::move(program)) {}

void ProgramRun::begin(const KernelArgs& args, float* storage) const {
  for (const Constant& constant : program_.constants) {
    float* const buffer = storage + constant.offset;
    const auto period = static_cast<std::size_t>(constant.period);
    load_block(constant.dtype, args.in<std::byte>(constant.value), buffer, period);
    repeat(buffer + period, period, constant.floats(program_.block_size) - period);
  }
}

void ProgramRun::block(const KernelArgs& args, float* storage, std::int64_t start, std::size_t count,
                       float* result) const {
  for (const Instruction& instruction : program_.instructions) {
    const auto element = [&] {
      return args.out<std::byte>(instruction.value) +
             start * static_cast<std::int64_t>(size_of(instruction.dtype));
    };
    switch (instruction.kind) {
      case Instruction::Kind::compute:
        compute(args, storage, instruction, start, count, result);
        break;
      case Instruction::Kind::load:
        load_block(instruction.dtype, element(), locate(args, storage, instruction.out, start, result),
                   count);
        break;
      case Instruction::Kind::gather:
        gather(program_.views[static_cast<std::size_t>(instruction.view)], instruction.dtype,
               args.in<std::byte>(instruction.value), start, count,
               locate(args, storage, instruction.out, start, result));
        break;
      case Instruction::Kind::store:
        store_block(instruction.dtype, locate(args, storage, instruction.in[0], start, result), element(),
                    count);
        break;
    }
  }
}

void ProgramRun::compute(const KernelArgs& args, float* storage, const Instruction& instruction,
                         std::int64_t start, std::size_t count, float* result) const {
  BlockArgs block{
      .repeats = instruction.scalars != 0, .count = count, .numbers = numbers_of(args, instruction)};
  for (std::size_t i = 0; i < 3; ++i) {
    block.in[i] = locate(args, storage, instruction.in[i], start, result);
    if ((instruction.scalars >> i & 1) != 0) block.mask[i] = 0;
  }
  block.out = locate(args, storage, instruction.out, start, result);
  instruction.function(block);
}

float* ProgramRun::locate(const KernelArgs& args, float* storage, BlockOperand operand, std::int64_t start,
                          float* result) const {
  switch (operand.kind) {
    case BlockOperand::Kind::none:
      return nullptr;
    case BlockOperand::Kind::memory:
      return args.out<float>(operand.index) + start;
    case BlockOperand::Kind::block:
      return storage + static_cast<std::size_t>(operand.index) * program_.block_size;
    case BlockOperand::Kind::result:
      return result;
    case BlockOperand::Kind::constant:
      break;
  }
  const Constant& constant = program_.constants[static_cast<std::size_t>(operand.index)];
  const std::int64_t shift = constant.period == 1 ? 0 : start % constant.period;
  return storage + constant.offset + shift;
}

}  // namespace fusetape::backends::cpu::pointwise
