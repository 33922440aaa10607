#include <algorithm>
#include <optional>
#include <string>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/conv/onednn.hpp"
#include "core/op/op_list.hpp"

/// Convolution with what stands behind it, and its two gradients, through oneDNN in f32 and bf16.
/// Activations stay plain NHWC; the weights, small beside them, are reordered into the layout that oneDNN
/// wants, inside each run.
namespace fusetape::backends::cpu::conv {
namespace {

using dnnl::memory;
using plan::Graph;
using plan::Group;

/// The roles of a group that is one convolution, without any part of a norm.
const plan::Convolution* plain_roles(const Group& group) {
  const auto* roles = group.as<plan::Convolution>();
  if (roles == nullptr || roles->carries() || roles->folded.present()) return nullptr;
  return roles->pass == ConvPass::grad_input && roles->z >= 0 ? nullptr : roles;
}

// ---- kernels ----------------------------------------------------------------------------------------------

std::unique_ptr<OnednnKernel> make_grad_input(const ConvDescription& conv) {
  auto kernel = std::make_unique<OnednnKernel>();
  const auto desc = grad_input_desc(conv);
  const memory dy = kernel->read(conv.y, desc.diff_dst_desc()), w = kernel->read(conv.w, desc.weights_desc());
  const memory dx = kernel->place(conv.x, desc.diff_src_desc());
  kernel->add(dnnl::convolution_backward_data(desc),
              {{DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DIFF_SRC, dx}},
              desc.scratchpad_desc());
  kernel->store(dx, conv.x);
  kernel->name = kernel_name(conv, desc.impl_info_str());
  return kernel;
}

std::unique_ptr<OnednnKernel> make_grad_weight(const ConvDescription& conv) {
  auto kernel = std::make_unique<OnednnKernel>();
  const auto desc = grad_weight_desc(conv);
  const memory x = kernel->read(conv.x, desc.src_desc()), dy = kernel->read(conv.y, desc.diff_dst_desc());
  const memory dw = kernel->place(conv.w, desc.diff_weights_desc());
  kernel->add(dnnl::convolution_backward_weights(desc),
              {{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_WEIGHTS, dw}},
              desc.scratchpad_desc());
  kernel->store(dw, conv.w);
  kernel->name = kernel_name(conv, desc.impl_info_str());
  return kernel;
}

Support plain_supports(const Graph& graph, const Group& group) {
  const plan::Convolution* roles = plain_roles(group);
  if (roles == nullptr) return not_mine;
  Support fits = fits_onednn(graph, {roles->x, roles->w, roles->bias, roles->z, roles->y});
  if (!fits.ok) return fits;
  return supported_by_onednn(
      [&] { implementation_of(choose_arithmetic(describe_convolution(graph, *roles))); });
}

std::unique_ptr<Kernel> make_plain(const Graph& graph, const Group& group) {
  const plan::Convolution& roles = *plain_roles(group);
  ConvDescription conv = choose_arithmetic(describe_convolution(graph, roles));
  // What was timed added no image to its result: that has a built-in order of its own.
  const auto& tuned = graph.node(roles.node).tuned;
  if (tuned != nullptr && !conv.z.present()) conv.implementation = tuned->kernel;
  std::unique_ptr<Kernel> kernel = make_convolution(conv);
  const bool as_timed = kernel->name == kernel_name(conv, conv.implementation);
  if (tuned != nullptr && as_timed) kernel->why = tuned->why;
  kernel->tensor_passes = conv.z.present() ? 3 : 2;  // beside the weights
  return kernel;
}

// ---- candidates -------------------------------------------------------------------------------------------

/// Whether z's buffer cannot become y's.
bool outlives(const Graph& graph, int z, const Group& group) {
  const plan::GraphValue& value = graph.value(z);
  const bool of_the_caller = value.producer < 0 && !value.donated;
  return value.keep || of_the_caller ||
         std::any_of(value.consumers.begin(), value.consumers.end(),
                     [&](int reader) { return reader > group.nodes.back(); });
}

/// What stands behind the convolution and cannot be its epilogue; ok where all of it can.
Support supports_epilogue(const Graph& graph, const Group& group) {
  const auto& roles = *group.as<plan::Convolution>();
  if (roles.activation != nullptr && roles.activation != &ops::relu_op)
    return {.ok = false, .reason = "no activation but relu"};
  if (roles.before_activation >= 0) {
    const std::string rest = group.name.substr(0, group.name.rfind("+relu"));
    return {
        .ok = false,
        .reason =
            "oneDNN writes only a convolution's end result, and what the ReLU reads has another reader: " +
            (rest == "conv2d" ? "the convolution and the ReLU run apart"
                              : rest + " is fused, and the ReLU runs apart")};
  }
  // A ReLU that keeps NaN needs z again, and so its buffer.
  if (roles.z >= 0 && (roles.activation != nullptr || outlives(graph, roles.z, group)) &&
      adds_slowly(graph, roles)) {
    return {
        .ok = false,
        .reason =
            "slower than the convolution and the add apart: of few channels in f32, oneDNN adds fast only "
            "into the summand's own buffer"};
  }
  return {};
}

template <Support supports(const Graph&, const Group&)>
Support with_epilogue(const Graph& graph, const Group& group) {
  const Support body = supports(graph, group);
  return body.ok ? supports_epilogue(graph, group) : body;
}

template <std::unique_ptr<Kernel> make(const Graph&, const Group&)>
std::unique_ptr<Kernel> with_our_errors(const Graph& graph, const Group& group) {
  try {
    return make(graph, group);
  } catch (const dnnl::error& error) {
    rethrow_onednn(graph.node(group.nodes[0]), error);
  }
}

constexpr Candidate candidates[] = {
    {"onednn:convolution", with_epilogue<plain_supports>, with_our_errors<make_plain>},
    {"onednn:convolution, folded", with_epilogue<supports_folded_convolution>,
     with_our_errors<make_folded_convolution>},
    {"onednn:conv2d_grad_input+add", supports_grad_input_add, with_our_errors<make_grad_input_add>},
    {"onednn:siblings", supports_conv_siblings, with_our_errors<make_conv_siblings>},
};

}  // namespace

std::unique_ptr<Kernel> make_convolution(const ConvDescription& conv) {
  switch (conv.pass) {
    case ConvPass::grad_input:
      return make_grad_input(conv);
    case ConvPass::grad_weight:
      return make_grad_weight(conv);
    case ConvPass::forward:
      break;
  }
  return make_forward_convolution(conv);
}

Support fits_onednn(const Graph& graph, std::initializer_list<int> values) {
  for (int id : values) {
    if (id < 0) continue;
    const plan::GraphValue& value = graph.value(id);
    if (value.dtype != DType::f32 && value.dtype != DType::bf16)
      return {.ok = false, .reason = "f32 and bf16 only, not " + std::string(name_of(value.dtype))};
    if (value.elements() == 0) return {.ok = false, .reason = "an empty tensor"};
  }
  return {};
}

std::span<const Candidate> onednn_convolutions() { return candidates; }

}  // namespace fusetape::backends::cpu::conv
