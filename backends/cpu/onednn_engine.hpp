#pragma once
#include <dnnl.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backends/backend.hpp"

/// The one place where oneDNN is set up: its engine and stream, kernels made of its primitives, and its
/// errors as ours.
namespace fusetape::backends::cpu {

const dnnl::engine& onednn_engine();

/// What oneDNN threw while a group's primitives were made, as an Error at the node's source line.
[[noreturn]] void rethrow_onednn(const plan::GraphNode& node, const dnnl::error& error);

/// Whether oneDNN can do what `body` asks for: it makes a primitive descriptor, which throws otherwise.
template <class Body>
Support supported_by_onednn(Body&& body) {
  try {
    body();
    return {};
  } catch (const dnnl::error& error) {
    return {.ok = false, .reason = std::string("oneDNN: ") + error.what()};
  }
}

/// A graph value, and how its elements lie in memory.
struct Operand {
  int value = -1;  ///< -1: absent
  dnnl::memory::desc stored;

  bool present() const { return value >= 0; }
};

/// Primitives that run in order. Primitives, memories and argument lists are made once; a run only sets the
/// memories' pointers.
class OnednnKernel final : public Kernel {
 public:
  /// The memory of a graph value, under one description of it.
  dnnl::memory value(int id, const dnnl::memory::desc& desc);
  /// A part of the scratch of its own.
  dnnl::memory scratch(const dnnl::memory::desc& desc);
  /// The operand as `wanted`: its own bytes, or reordered and converted into scratch by a step added here.
  dnnl::memory read(const Operand& operand, const dnnl::memory::desc& wanted);
  /// Where a primitive that writes `wanted` puts the operand: its own bytes, or scratch. After the primitive,
  /// store() adds the step that brings it home from there.
  dnnl::memory place(const Operand& operand, const dnnl::memory::desc& wanted);
  void store(const dnnl::memory& written, const Operand& operand);

  using Argument = std::pair<int, dnnl::memory>;
  /// `scratchpad`: what the primitive's descriptor asks for.
  void add(const dnnl::primitive& primitive, const std::vector<Argument>& arguments,
           const dnnl::memory::desc& scratchpad);
  /// f32 from or to 16 bits that lie as a tensor does is our own loop: without AVX-512 oneDNN's takes 100
  /// ns an element (3.2, its reference implementation).
  void add_reorder(const dnnl::memory& from, const dnnl::memory& to);

  void run(const KernelArgs& args) override;
  std::size_t scratch_bytes() const override { return scratch_bytes_; }

 private:
  struct ValueMemory {
    dnnl::memory memory;
    int id;
  };
  struct ScratchMemory {
    dnnl::memory memory;
    std::size_t offset;
  };
  /// Between f32 and 16 bits, in one order of memory.
  struct Conversion {
    DType from = DType::f32, to = DType::f32;
    std::int64_t count = 0;
    void run(const void* in, void* out) const;
  };
  struct Step {
    dnnl::primitive primitive;
    std::vector<dnnl_exec_arg_t> arguments;
    Conversion conversion;  ///< with a count, in place of the primitive: of argument 0 to argument 1
  };
  void add_conversion(const dnnl::memory& from, const dnnl::memory& to);
  std::vector<ValueMemory> values_;
  std::vector<ScratchMemory> scratch_;
  std::vector<Step> steps_;
  std::size_t scratch_bytes_ = 0;
};

/// The attributes of every primitive here: its scratchpad is ours to give.
dnnl::primitive_attr onednn_attributes();

}  // namespace fusetape::backends::cpu
