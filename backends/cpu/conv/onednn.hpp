#pragma once
#include <optional>
#include <string>

#include "backends/cpu/onednn_engine.hpp"

/// oneDNN's convolution as the kernels of this folder share it: what a group asks for, in oneDNN's terms, and
/// which of oneDNN's implementations answers.
namespace fusetape::backends::cpu::conv {

using plan::ConvPass;

/// relu(conv(x, w) + bias + z) or a gradient: operands as they are stored, and the geometry.
struct ConvDescription {
  ConvPass pass = ConvPass::forward;
  Operand x, w, bias, z, y;
  dnnl::memory::dims strides, dilates, padding, padding_end;
  bool relu = false;
  bool onto_y = false;      ///< forward: added to what y holds
  bool short_sums = false;  ///< forward: long sums of products in several parts, which err less
  /// bf16 operands are converted to f32 in scratch, and results back: where oneDNN has no kernel with this
  /// CPU's bf16 instructions, or none that is sound.
  bool through_f32 = false;
  std::string implementation;  ///< taken where it is offered; empty or elsewhere: the built-in choice

  bool strided() const { return strides[0] > 1 || strides[1] > 1; }
  bool dilated() const { return dilates[0] > 0 || dilates[1] > 0; }
  /// An operand as the primitive is offered it.
  dnnl::memory::desc offered(const Operand& operand) const;
};

/// Of the roles all but the norms.
ConvDescription describe_convolution(const plan::Graph& graph, const plan::Convolution& roles);
/// With through_f32 as this CPU and oneDNN's soundness have it.
ConvDescription choose_arithmetic(ConvDescription conv);

// These throw dnnl::error where oneDNN has no sound implementation.
dnnl::convolution_forward::primitive_desc forward_desc(const ConvDescription& conv);
dnnl::convolution_backward_data::primitive_desc grad_input_desc(const ConvDescription& conv);
dnnl::convolution_backward_weights::primitive_desc grad_weight_desc(const ConvDescription& conv);

/// The name of the implementation for the convolution's pass: "brgconv:avx512_core".
std::string implementation_of(const ConvDescription& conv);
/// Every sound implementation for the pass with the instructions of the built-in choice, by name.
std::vector<std::string> implementations_of(const ConvDescription& conv);
/// Whether what is added to y's buffer is added last, as if it were read beside it: so do brgconv and, with
/// few channels at least, the direct kernels of AVX-512. Those of AVX2 begin their sums with it: other bits.
/// Nobody looked at the others, which are taken for such.
bool adds_last(const ConvDescription& conv);
/// "onednn:brgconv:avx512_core"
std::string kernel_name(const ConvDescription& conv, const std::string& implementation);

/// The convolution for its pass, with what stands behind it.
std::unique_ptr<Kernel> make_convolution(const ConvDescription& conv);
/// Whether oneDNN adds z to these images at more than the price of a pass of its own, unless into z's buffer.
bool adds_slowly(const plan::Graph& graph, const plan::Convolution& roles);
/// relu(conv(x, w) + bias + z)
std::unique_ptr<Kernel> make_forward_convolution(const ConvDescription& conv);
/// The same as one primitive, or a few. Its ReLU turns a NaN into 0.
std::unique_ptr<Kernel> make_forward_primitives(const ConvDescription& conv);
/// Whether `conv` asks for short sums and has long ones; then the kernel that splits them by rows of the
/// filter.
bool has_long_sums(const ConvDescription& conv);
std::unique_ptr<Kernel> make_split_convolution(const ConvDescription& conv);

// Groups whose operands are made anew in each run, by files of their own.
Support supports_folded_convolution(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_folded_convolution(const plan::Graph& graph, const plan::Group& group);
Support supports_grad_input_add(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_grad_input_add(const plan::Graph& graph, const plan::Group& group);
Support supports_conv_siblings(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_conv_siblings(const plan::Graph& graph, const plan::Group& group);

/// Of a candidate whose kind the group is not.
inline const Support not_mine{.ok = false, .reason = ""};
/// Whether every value is f32 or bf16 and has elements; ids of -1 are passed over.
Support fits_onednn(const plan::Graph& graph, std::initializer_list<int> values);

}  // namespace fusetape::backends::cpu::conv
