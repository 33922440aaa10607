#include <algorithm>
#include <map>
#include <unordered_set>

#include "backends/cpu/pointwise/pointwise.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::pointwise {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::GraphValue;
using plan::Group;

// Elements per block, at most. Without registers and constants nothing has to fit a cache.
constexpr std::size_t small_block = 1024;
constexpr std::size_t large_block = 16384;
// A longer period is gathered block by block: its runs are long enough for that to cost little. So are
// further periodic values.
constexpr std::int64_t longest_period = 512;
constexpr int most_periodic = 8;
constexpr std::size_t released = static_cast<std::size_t>(-1);

bool is_byte(DType dtype) { return dtype == DType::boolean || dtype == DType::u8; }
bool is_half(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16; }

class Builder {
 public:
  Builder(const Graph& graph, const Group& group)
      : graph_(graph),
        group_(group),
        shape_(chain_shape(graph, group)),
        outputs_(group.outputs.begin(), group.outputs.end()) {}

  Program build() {
    program_.count = shape_.elements();
    for (const int id : group_.nodes) {
      if (id != group_.reduction_node()) add_node(graph_.node(id));
    }
    if (group_.reduction_node() >= 0) add_reduced(graph_.node(group_.reduction_node()).inputs[0]);
    find_in_place();
    assign_registers();
    lay_out_storage();
    return std::move(program_);
  }

 private:
  bool is_output(int value) const { return outputs_.count(value) > 0; }
  bool read_inside(int value) const {
    const std::vector<int>& readers = graph_.value(value).consumers;
    return std::any_of(readers.begin(), readers.end(), [&](int reader) {
      return std::binary_search(group_.nodes.begin(), group_.nodes.end(), reader);
    });
  }
  BlockOperand new_block() { return {BlockOperand::Kind::block, virtual_blocks_++}; }

  Instruction& emit(Instruction instruction) {
    program_.instructions.push_back(instruction);
    return program_.instructions.back();
  }

  void add_node(const GraphNode& node) {
    const int result = node.outputs[0];
    const DType to = graph_.value(result).dtype;
    Instruction instruction{.function = block_function(*node.op)};
    const std::size_t tensors = tensors_of(node);
    for (std::size_t i = 0; i < tensors; ++i) instruction.in[i] = operand_of(node.inputs[i]);
    std::copy(node.inputs.begin() + static_cast<std::ptrdiff_t>(tensors), node.inputs.end(),
              instruction.numbers.begin());
    if (node.is(ops::cast_op) || node.is(ops::broadcast_to_op)) {
      add_moved(instruction.in[0], result, conversion(graph_.value(node.inputs[0]).dtype, to));
    } else {
      add_computed(node, instruction);
    }
    if (is_output(result) && !direct(result)) store(result, found_[result]);
  }

  /// Whether the last instruction itself writes what is wanted outside.
  bool direct(int result) const { return is_output(result) && graph_.value(result).dtype == DType::f32; }
  BlockOperand place_for(int result) {
    return direct(result) ? BlockOperand{BlockOperand::Kind::memory, result} : new_block();
  }
  /// A store rounds by itself, so only what is read here has to be rounded first.
  bool rounds(int result) const { return is_half(graph_.value(result).dtype) && read_inside(result); }

  void add_moved(BlockOperand from, int result, Conversion how) {
    if (how == Conversion::copy && !direct(result)) {
      found_[result] = from;
    } else if (how == Conversion::copy && brought_last(from)) {
      bring_to(result);
    } else if (is_half(graph_.value(result).dtype) && !rounds(result)) {
      found_[result] = as_block(from);
    } else {
      found_[result] = converted(from, how, place_for(result));
    }
  }

  void add_computed(const GraphNode& node, Instruction instruction) {
    const int result = node.outputs[0];
    instruction.out = place_for(result);
    found_[result] = emit(instruction).out;
    if (node.op->elements == core::Elements::floats && rounds(result) && !node.op->chooses) {
      const bool bf16 = graph_.value(result).dtype == DType::bf16;
      found_[result] =
          converted(instruction.out, bf16 ? Conversion::round_bf16 : Conversion::round_f16, new_block());
    }
  }

  BlockOperand converted(BlockOperand from, Conversion how, BlockOperand to) {
    return emit({.function = block_function(how), .in = {from}, .out = to}).out;
  }

  void store(int value, BlockOperand from) {
    emit({.kind = Instruction::Kind::store,
          .dtype = graph_.value(value).dtype,
          .value = value,
          .in = {as_block(from)}});
  }

  /// Scalars as a whole block, for what reads one element after the other.
  BlockOperand as_block(BlockOperand operand) {
    if (!is_scalar(operand)) return operand;
    return converted(operand, Conversion::copy, new_block());
  }
  bool is_scalar(const BlockOperand& operand) const {
    return operand.kind == BlockOperand::Kind::constant &&
           program_.constants[static_cast<std::size_t>(operand.index)].period == 1;
  }

  /// What is reduced goes to the caller's room, unless it has a place in memory.
  void add_reduced(int value) {
    BlockOperand reduced = operand_of(value);
    if (reduced.kind == BlockOperand::Kind::constant) {
      reduced = converted(reduced, Conversion::copy, new_block());
    }
    if (reduced.kind == BlockOperand::Kind::block) {
      const auto redirect = [&](BlockOperand& operand) {
        if (operand.kind == BlockOperand::Kind::block && operand.index == reduced.index)
          operand = {BlockOperand::Kind::result, -1};
      };
      for (Instruction& instruction : program_.instructions) {
        for (BlockOperand& operand : instruction.in) redirect(operand);
        redirect(instruction.out);
      }
      reduced = {BlockOperand::Kind::result, -1};
    }
    program_.reduced = reduced;
  }

  /// Whether the last instruction brought this block in from outside: then it may as well bring it to where
  /// it is copied.
  bool brought_last(const BlockOperand& operand) const {
    if (operand.kind != BlockOperand::Kind::block || program_.instructions.empty()) return false;
    const Instruction& last = program_.instructions.back();
    const bool brings = last.kind == Instruction::Kind::load || last.kind == Instruction::Kind::gather;
    return brings && last.out.kind == BlockOperand::Kind::block && last.out.index == operand.index;
  }

  /// Makes the last instruction leave its block in the memory of a result, for all values that are the same.
  void bring_to(int result) {
    BlockOperand& out = program_.instructions.back().out;
    const int block = out.index;
    out = {BlockOperand::Kind::memory, result};
    for (auto& [value, operand] : found_) {
      if (operand.kind == BlockOperand::Kind::block && operand.index == block) operand = out;
    }
    found_[result] = out;
  }

  /// What a cast does to a block of floats; copy: nothing.
  static Conversion conversion(DType from, DType to) {
    if (from == to || to == DType::f32 || to == DType::u8) return Conversion::copy;
    if (is_byte(from))
      return to == DType::boolean && from == DType::u8 ? Conversion::to_bool : Conversion::copy;
    if (to == DType::boolean) return Conversion::to_bool;
    return to == DType::bf16 ? Conversion::round_bf16 : Conversion::round_f16;
  }

  BlockOperand operand_of(int value) {
    const auto known = found_.find(value);
    if (known != found_.end()) return known->second;
    return found_[value] = leaf(value);
  }

  /// A value from outside: read where it is, if it can be; else brought into a block at its first use.
  BlockOperand leaf(int value) {
    const GraphValue& info = graph_.value(value);
    const BroadcastView view = broadcast_view(info.shape, shape_);
    if (view.rank == 1 && view.stride[0] == 1 && info.elements() == program_.count) {
      if (info.dtype == DType::f32) return {BlockOperand::Kind::memory, value};
      const BlockOperand block = new_block();
      emit({.kind = Instruction::Kind::load, .dtype = info.dtype, .value = value, .out = block});
      return block;
    }
    const bool scalar = info.elements() == 1;
    const bool periodic = view.rank == 2 && view.stride[0] == 0 && view.extent[1] <= longest_period;
    if (scalar || (periodic && ++periodic_ <= most_periodic)) {
      const std::int64_t period = scalar ? 1 : view.extent[1];
      program_.constants.push_back({.value = value, .dtype = info.dtype, .period = period});
      return {BlockOperand::Kind::constant, static_cast<int>(program_.constants.size()) - 1};
    }
    program_.views.push_back(view);
    const BlockOperand block = new_block();
    emit({.kind = Instruction::Kind::gather,
          .dtype = info.dtype,
          .value = value,
          .view = static_cast<int>(program_.views.size()) - 1,
          .out = block});
    return block;
  }

  /// An output may take an input's buffer if no instruction after the one that writes it reads the input.
  void find_in_place() {
    std::map<int, std::size_t> last_read, written;
    for (std::size_t i = 0; i < program_.instructions.size(); ++i) {
      const Instruction& instruction = program_.instructions[i];
      for (const BlockOperand& operand : instruction.in) {
        if (operand.kind == BlockOperand::Kind::memory) last_read[operand.index] = i;
      }
      if (instruction.kind == Instruction::Kind::load) last_read[instruction.value] = i;
      if (instruction.kind == Instruction::Kind::store) written[instruction.value] = i;
      if (instruction.out.kind == BlockOperand::Kind::memory) written[instruction.out.index] = i;
    }
    if (program_.reduced.kind == BlockOperand::Kind::memory)
      last_read[program_.reduced.index] = program_.instructions.size();
    std::vector<int> free_inputs;
    for (const int in : dying_inputs(graph_, group_)) {
      if (last_read.count(in) > 0) free_inputs.push_back(in);
    }
    for (const int out : group_.outputs) {
      const auto write = written.find(out);
      if (write == written.end()) continue;  // the reduction's
      for (const int in : free_inputs) {
        if (last_read[in] > write->second) continue;
        if (graph_.value(in).dtype == graph_.value(out).dtype) program_.in_place.emplace_back(in, out);
      }
    }
  }

  /// Linear scan: a block's register is free after its last use. Each is written once, and may be written
  /// over an operand's.
  void assign_registers() {
    std::vector<std::size_t> last_use(static_cast<std::size_t>(virtual_blocks_), 0);
    for (std::size_t i = 0; i < program_.instructions.size(); ++i) {
      const Instruction& instruction = program_.instructions[i];
      for (const BlockOperand& operand : instruction.in) note_use(operand, i, last_use);
      note_use(instruction.out, i, last_use);
    }
    std::vector<int> assigned(static_cast<std::size_t>(virtual_blocks_), -1), free;
    const auto release = [&](std::size_t block, std::size_t i) {
      if (last_use[block] != i) return;
      free.push_back(assigned[block]);
      last_use[block] = released;
    };
    for (std::size_t i = 0; i < program_.instructions.size(); ++i) {
      Instruction& instruction = program_.instructions[i];
      for (BlockOperand& operand : instruction.in) {
        if (operand.kind != BlockOperand::Kind::block) continue;
        const auto block = static_cast<std::size_t>(operand.index);
        operand.index = assigned[block];
        release(block, i);
      }
      if (instruction.out.kind != BlockOperand::Kind::block) continue;
      const auto block = static_cast<std::size_t>(instruction.out.index);
      if (free.empty()) free.push_back(program_.blocks++);
      assigned[block] = instruction.out.index = free.back();
      free.pop_back();
      release(block, i);
    }
  }

  static void note_use(const BlockOperand& operand, std::size_t i, std::vector<std::size_t>& last_use) {
    if (operand.kind == BlockOperand::Kind::block) last_use[static_cast<std::size_t>(operand.index)] = i;
  }

  void lay_out_storage() {
    const bool free_of_storage =
        program_.blocks == 0 && periodic_ == 0 && program_.reduced.kind == BlockOperand::Kind::none;
    program_.block_size = free_of_storage ? large_block : small_block;
    const auto blocks = static_cast<std::size_t>(program_.blocks);
    while (blocks * program_.block_size > l1_floats && program_.block_size > least_block)
      program_.block_size /= 2;
    std::size_t floats = blocks * program_.block_size;
    for (Constant& constant : program_.constants) {
      constant.offset = floats;
      floats += (constant.floats(program_.block_size) + 15) / 16 * 16;
    }
    program_.thread_floats = floats;
    for (Instruction& instruction : program_.instructions) {
      for (std::size_t i = 0; i < instruction.in.size(); ++i) {
        if (is_scalar(instruction.in[i])) instruction.scalars |= static_cast<std::uint8_t>(1u << i);
      }
    }
  }

  const Graph& graph_;
  const Group& group_;
  const Shape& shape_;
  const std::unordered_set<int> outputs_;
  Program program_;
  int virtual_blocks_ = 0;
  int periodic_ = 0;
  std::map<int, BlockOperand> found_;  ///< where each value is
};

}  // namespace

Program compile_pointwise(const Graph& graph, const Group& group) { return Builder(graph, group).build(); }

}  // namespace fusetape::backends::cpu::pointwise
