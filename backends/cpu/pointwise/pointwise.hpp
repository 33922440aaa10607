#pragma once
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "backends/cpu/pointwise_blocks.hpp"
#include "backends/pointwise_groups.hpp"

/// A group of pointwise nodes as a small program: straight-line instructions that run block by block, so that
/// what passes between nodes stays in the L1 cache. Each instruction rounds to the node's dtype, so a chain
/// gives the bits of its nodes run one by one.
namespace fusetape::backends::cpu::pointwise {

/// Where an instruction finds or leaves a block of floats.
struct BlockOperand {
  enum class Kind : std::uint8_t {
    none,
    memory,    ///< a full-size f32 value, in place; index: the value
    block,     ///< a register of the interpreter; index: which
    constant,  ///< a value that repeats every few elements; index: into Program::constants
    result,    ///< where the caller wants the block that it reduces
  };
  Kind kind = Kind::none;
  int index = -1;
};

/// A scalar (period 1), laid out once per run and thread as one vector, or a last-axes broadcast, in a buffer
/// longer than a block by its period.
struct Constant {
  int value = -1;
  DType dtype = DType::f32;
  std::int64_t period = 1;
  std::size_t offset = 0;  ///< in floats, in a thread's storage
  std::size_t floats(std::size_t block_size) const {
    return period == 1 ? scalar_room : block_size + static_cast<std::size_t>(period);
  }
};

struct Instruction {
  enum class Kind : std::uint8_t {
    compute,
    load,    ///< a full-size value of another dtype to out
    gather,  ///< a broadcast value to out
    store,   ///< in[0] to a value of another dtype
  };
  Kind kind = Kind::compute;
  BlockFunction function = nullptr;  ///< compute
  DType dtype = DType::f32;          ///< of `value`
  int value = -1;                    ///< load, gather, store
  int view = -1;                     ///< gather: into Program::views
  std::array<BlockOperand, 3> in{};
  BlockOperand out;
  std::array<int, 2> numbers{-1, -1};  ///< values: the op's (OpDef::numbers)
  std::uint8_t scalars = 0;            ///< bits of the operands that are one repeated vector
};

struct Program {
  std::int64_t count = 0;  ///< elements of the group's shape
  std::vector<Instruction> instructions;
  std::vector<Constant> constants;
  std::vector<BroadcastView> views;
  int blocks = 0;                 ///< interpreter registers
  std::size_t block_size = 0;     ///< elements
  std::size_t thread_floats = 0;  ///< storage of a thread: registers, then constants
  std::vector<std::pair<int, int>> in_place;
  BlockOperand reduced;  ///< what a sum or mean at the end reads: of kind result or memory
};

// Elements per block are as many as leave a program's registers in the L1 cache, at least so many: a program
// of more registers is refused.
constexpr std::size_t l1_floats = 6144;
constexpr std::size_t least_block = 128;
constexpr int most_blocks = static_cast<int>(l1_floats / least_block);

/// Why these nodes are no program; empty: they are. The reduction at the end of a chain is not looked at.
std::string pointwise_refusal(const plan::Graph& graph, const plan::Group& group);
Program compile_pointwise(const plan::Graph& graph, const plan::Group& group);

/// Runs a program over any range of its elements.
class ProgramRun {
 public:
  explicit ProgramRun(Program program);

  const Program& program() const { return program_; }
  /// Prepares a thread's storage of program().thread_floats floats.
  void begin(const KernelArgs& args, float* storage) const;
  /// Elements [start, start + count), count ≤ program().block_size. `result`: room for a reduced block.
  void block(const KernelArgs& args, float* storage, std::int64_t start, std::size_t count,
             float* result = nullptr) const;

 private:
  void compute(const KernelArgs& args, float* storage, const Instruction& instruction, std::int64_t start,
               std::size_t count, float* result) const;
  float* locate(const KernelArgs& args, float* storage, BlockOperand operand, std::int64_t start,
                float* result) const;

  Program program_;
};

}  // namespace fusetape::backends::cpu::pointwise
