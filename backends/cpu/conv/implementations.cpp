#include <algorithm>
#include <optional>

#include "backends/cpu/conv/onednn.hpp"
#include "core/op/op_attrs.hpp"

/// Which of oneDNN's implementations computes a convolution: the fastest that is sound.
namespace fusetape::backends::cpu::conv {
namespace {

using dnnl::memory;
using plan::Graph;

constexpr memory::data_type f32 = memory::data_type::f32;
constexpr memory::data_type bf16 = memory::data_type::bf16;

// ---- descriptions -----------------------------------------------------------------------------------------

memory::data_type type_of(const plan::GraphValue& value) { return value.dtype == DType::bf16 ? bf16 : f32; }

Operand image(const Graph& graph, int id) {
  const Shape& s = graph.value(id).shape;
  return {id, {{s[0], s[3], s[1], s[2]}, type_of(graph.value(id)), memory::format_tag::nhwc}};
}

/// {O, kh, kw, I/g} as oneDNN names its axes: {O, I, kh, kw}, or {g, O/g, I/g, kh, kw}.
Operand weights(const Graph& graph, int id, std::int64_t groups) {
  const Shape& s = graph.value(id).shape;
  const memory::data_type type = type_of(graph.value(id));
  const std::int64_t out = s[0] / groups, kh = s[1], kw = s[2], in = s[3];
  const std::int64_t filter = kh * kw * in;
  if (groups == 1) return {id, {{out, in, kh, kw}, type, memory::dims{filter, 1, kw * in, in}}};
  return {id, {{groups, out, in, kh, kw}, type, memory::dims{out * filter, filter, 1, kw * in, in}}};
}

// ---- what is sound ----------------------------------------------------------------------------------------

/// Faults of oneDNN 3.2, found by comparing every implementation with double arithmetic over random shapes,
/// between guard bands and with NaN in its scratchpad.
bool unsound(const ConvDescription& conv, const std::string& implementation) {
  const memory::dims x = conv.x.stored.get_dims(), y = conv.y.stored.get_dims();
  if (implementation.starts_with("jit_1x1") || implementation.starts_with("jit_bf16_1x1")) {
    // Strided pixels are gathered by whole vectors, beyond the end of the scratchpad.
    if (conv.strided() && (x[1] % 16 != 0 || y[1] % 16 != 0)) return true;
    // bf16 channels are multiplied in pairs: the last of an odd number is paired with the next pixel's first.
    const std::int64_t summed = conv.pass == ConvPass::grad_input ? y[1] : x[1];
    return implementation.starts_with("jit_bf16") && conv.pass != ConvPass::grad_weight && summed % 2 != 0;
  }
  if (implementation.starts_with("jit_bf16") && conv.pass == ConvPass::grad_weight) {
    // It reads parts of its scratchpad that it never wrote.
    return conv.dilated() || x[3] < conv.strides[1];
  }
  return false;
}

template <class Make, class Accept>
auto first_that(Make make, Accept accept) -> std::optional<decltype(make())> {
  auto desc = make();
  do {
    if (accept(std::string(desc.impl_info_str()))) return desc;
  } while (desc.next_impl());
  return std::nullopt;
}

// ---- what is fast -----------------------------------------------------------------------------------------

/// In f32, an output of one vector of channels in rows as long as a register tile: brgconv convolves such a
/// row by a quarter faster, but adds another image to it at more than the price of a pass of its own.
bool one_vector_rows(const ConvDescription& conv) {
  const memory::dims y = conv.y.stored.get_dims();
  return conv.offered(conv.y).get_data_type() == f32 && y[1] <= 16 && y[3] >= 28;
}

/// Whether a forward convolution is faster in a direct kernel than in brgconv, which oneDNN offers first.
/// (oneDNN 3.2 in NHWC, AVX-512, one thread: strided by a fifth, else by 2 to 25 %, most in small images;
/// brgconv leads in f32 1×1 and beyond 64 channels. An image added by a direct kernel costs 2 to 4 %, by
/// brgconv 10 to 20 %.)
bool direct_is_faster(const ConvDescription& conv) {
  if (conv.strided()) return true;
  const memory::dims x = conv.x.stored.get_dims(), y = conv.y.stored.get_dims(), w = conv.w.stored.get_dims();
  if (x[1] > 64 || y[1] > 64 || one_vector_rows(conv)) return false;
  const bool single_place = w[w.size() - 2] * w[w.size() - 1] == 1;
  return conv.z.present() || !single_place || conv.offered(conv.x).get_data_type() == bf16;
}

std::string instructions_of(const std::string& implementation) {  // "brgconv:avx512_core"
  return implementation.substr(implementation.rfind(':') + 1);
}

/// The first sound implementation that oneDNN offers; with `prefer_direct`, rather a direct one with the same
/// instructions.
template <class Make>
auto choose(const ConvDescription& conv, bool prefer_direct, Make make) {
  if (!conv.implementation.empty()) {
    auto asked = first_that(
        make, [&](const std::string& name) { return name == conv.implementation && !unsound(conv, name); });
    if (asked) return *asked;
  }
  auto first = first_that(make, [&](const std::string& name) { return !unsound(conv, name); });
  if (!first) throw dnnl::error(dnnl_unimplemented, "no implementation of this convolution is sound");
  const std::string name = first->impl_info_str();
  if (!prefer_direct || !name.starts_with("brg")) return *first;
  auto direct = first_that(make, [&](const std::string& other) {
    return other.starts_with("jit") && instructions_of(other) == instructions_of(name) &&
           !unsound(conv, other);
  });
  return direct ? *direct : *first;
}

/// Weights of the images' type, in any layout; a gradient of weights may be wider than its images.
memory::desc any_weights(const ConvDescription& conv) {
  const Operand& typed = conv.pass == ConvPass::grad_weight ? conv.w : conv.x;
  return {conv.w.stored.get_dims(), conv.offered(typed).get_data_type(), memory::format_tag::any};
}

/// What a gradient's descriptor wants beside its own: the forward convolution, all in the images' type.
dnnl::convolution_forward::primitive_desc hint(const ConvDescription& conv) {
  const memory::desc x = conv.offered(conv.x), y = conv.offered(conv.y);
  const memory::desc w(conv.w.stored.get_dims(), x.get_data_type(), memory::format_tag::any);
  return {onednn_engine(),
          dnnl::prop_kind::forward_training,
          dnnl::algorithm::convolution_direct,
          x,
          w,
          y,
          conv.strides,
          conv.dilates,
          conv.padding,
          conv.padding_end,
          onednn_attributes()};
}

// ---- descriptors, made anew for each walk through the implementations
// --------------------------------------

auto forward_maker(const ConvDescription& conv) {
  dnnl::post_ops post;
  if (conv.onto_y) post.append_sum();
  if (conv.z.present()) post.append_binary(dnnl::algorithm::binary_add, conv.offered(conv.z));
  if (conv.relu) post.append_eltwise(dnnl::algorithm::eltwise_relu, 0, 0);
  dnnl::primitive_attr attributes = onednn_attributes();
  attributes.set_post_ops(post);
  const memory::desc bias = conv.bias.present() ? conv.offered(conv.bias) : memory::desc();
  return [&conv, attributes, bias] {
    return dnnl::convolution_forward::primitive_desc(
        onednn_engine(), dnnl::prop_kind::forward_training, dnnl::algorithm::convolution_direct,
        conv.offered(conv.x), any_weights(conv), bias, conv.offered(conv.y), conv.strides, conv.dilates,
        conv.padding, conv.padding_end, attributes);
  };
}

auto grad_input_maker(const ConvDescription& conv) {
  return [&conv, forward = hint(conv)] {
    return dnnl::convolution_backward_data::primitive_desc(
        onednn_engine(), dnnl::algorithm::convolution_direct, conv.offered(conv.x), any_weights(conv),
        conv.offered(conv.y), conv.strides, conv.dilates, conv.padding, conv.padding_end, forward,
        onednn_attributes());
  };
}

auto grad_weight_maker(const ConvDescription& conv) {
  return [&conv, forward = hint(conv)] {
    return dnnl::convolution_backward_weights::primitive_desc(
        onednn_engine(), dnnl::algorithm::convolution_direct, conv.offered(conv.x), any_weights(conv),
        conv.offered(conv.y), conv.strides, conv.dilates, conv.padding, conv.padding_end, forward,
        onednn_attributes());
  };
}

/// Whether oneDNN computes it with the CPU's bf16 instructions. What emulates them is slower than f32.
bool runs_in_bf16(const ConvDescription& conv) {
  try {
    const std::string implementation = implementation_of(conv);
    return implementation.ends_with("_bf16") || implementation.find("amx") != std::string::npos;
  } catch (const dnnl::error&) {
    return false;  // no bf16 at all on this CPU
  }
}

}  // namespace

memory::desc ConvDescription::offered(const Operand& operand) const {
  const memory::desc& stored = operand.stored;
  if (!through_f32 || !operand.present() || stored.get_data_type() == f32) return stored;
  return {stored.get_dims(), f32, stored.get_strides()};
}

ConvDescription describe_convolution(const Graph& graph, const plan::Convolution& roles) {
  const auto a = graph.node(roles.node).attrs.as<core::ConvAttrs>();
  ConvDescription conv{.pass = roles.pass, .relu = roles.activation != nullptr};
  conv.x = image(graph, roles.x);
  conv.y = image(graph, roles.y);
  if (roles.z >= 0) conv.z = image(graph, roles.z);
  conv.w = weights(graph, roles.w, a.groups);
  if (roles.bias >= 0) {
    const plan::GraphValue& bias = graph.value(roles.bias);
    conv.bias = {roles.bias, {{bias.shape[0]}, type_of(bias), memory::format_tag::x}};
  }
  conv.strides = {a.stride_h, a.stride_w};
  conv.dilates = {a.dilation_h - 1, a.dilation_w - 1};
  conv.padding = conv.padding_end = {a.pad_h, a.pad_w};
  return conv;
}

ConvDescription choose_arithmetic(ConvDescription conv) {
  conv.through_f32 = conv.x.stored.get_data_type() == bf16 && !runs_in_bf16(conv);
  return conv;
}

dnnl::convolution_forward::primitive_desc forward_desc(const ConvDescription& conv) {
  return choose(conv, direct_is_faster(conv), forward_maker(conv));
}

dnnl::convolution_backward_data::primitive_desc grad_input_desc(const ConvDescription& conv) {
  return choose(conv, true, grad_input_maker(conv));
}

dnnl::convolution_backward_weights::primitive_desc grad_weight_desc(const ConvDescription& conv) {
  return choose(conv, false, grad_weight_maker(conv));
}

std::string implementation_of(const ConvDescription& conv) {
  switch (conv.pass) {
    case ConvPass::grad_input:
      return grad_input_desc(conv).impl_info_str();
    case ConvPass::grad_weight:
      return grad_weight_desc(conv).impl_info_str();
    case ConvPass::forward:
      break;
  }
  return forward_desc(conv).impl_info_str();
}

std::vector<std::string> implementations_of(const ConvDescription& conv) {
  std::vector<std::string> names{implementation_of(conv)};
  const auto collect = [&](const std::string& name) {
    const bool known = std::find(names.begin(), names.end(), name) != names.end();
    if (!known && instructions_of(name) == instructions_of(names[0]) && !unsound(conv, name))
      names.push_back(name);
    return false;
  };
  switch (conv.pass) {
    case ConvPass::forward:
      first_that(forward_maker(conv), collect);
      break;
    case ConvPass::grad_input:
      first_that(grad_input_maker(conv), collect);
      break;
    case ConvPass::grad_weight:
      first_that(grad_weight_maker(conv), collect);
      break;
  }
  return names;
}

bool adds_slowly(const Graph& graph, const plan::Convolution& roles) {
  const ConvDescription conv = describe_convolution(graph, roles);
  return !conv.strided() && one_vector_rows(conv);
}

bool adds_last(const ConvDescription& conv) {
  const std::string name = implementation_of(conv);
  return name.starts_with("brg") || name.find("avx512") != std::string::npos;
}

std::string kernel_name(const ConvDescription& conv, const std::string& implementation) {
  return "onednn:" + implementation + (conv.through_f32 ? ", through f32" : "");
}

}  // namespace fusetape::backends::cpu::conv
