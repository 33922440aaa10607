#pragma once
#include <string>

#include "backends/cpu/onednn_engine.hpp"

/// oneDNN's convolution as the kernels of conv_*.cpp share it: what a group asks for, in oneDNN's terms, and
/// which of oneDNN's implementations answers.
namespace fusetape::backends::cpu {

enum class ConvPass : std::uint8_t { forward, grad_input, grad_weight };

/// The group as one convolution between images x and y; in a gradient, x, w and y stand for the gradients
/// too.
struct ConvRoles {
  ConvPass pass = ConvPass::forward;
  int node = -1;
  int x = -1, w = -1, bias = -1, y = -1;  ///< values
  bool relu = false;
};

/// Operands as they are stored, and the geometry.
struct Convolution {
  ConvPass pass = ConvPass::forward;
  Operand x, w, bias, y;
  dnnl::memory::dims strides, dilates, padding;
  bool relu = false;
  /// bf16 operands are converted to f32 in scratch, and results back: where oneDNN has no kernel with this
  /// CPU's bf16 instructions, or none that is sound.
  bool through_f32 = false;

  bool strided() const { return strides[0] > 1 || strides[1] > 1; }
  bool dilated() const { return dilates[0] > 0 || dilates[1] > 0; }
  /// An operand as the primitive is offered it.
  dnnl::memory::desc offered(const Operand& operand) const;
};

/// Throws dnnl::error where oneDNN has no sound implementation.
Convolution describe_convolution(const plan::Graph& graph, const ConvRoles& roles);

dnnl::convolution_forward::primitive_desc forward_desc(const Convolution& conv, bool relu);
dnnl::convolution_backward_data::primitive_desc grad_input_desc(const Convolution& conv);
dnnl::convolution_backward_weights::primitive_desc grad_weight_desc(const Convolution& conv);

/// The name of the implementation for the convolution's pass: "brgconv:avx512_core".
std::string implementation_of(const Convolution& conv);
/// "onednn:brgconv:avx512_core"
std::string kernel_name(const Convolution& conv, const std::string& implementation);

}  // namespace fusetape::backends::cpu
