#include <algorithm>
#include <cfenv>
#include <optional>
#include <string>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/conv_onednn.hpp"
#include "core/half.hpp"

/// Convolution, its two gradients, and conv+bias+relu through oneDNN, in f32 and bf16. Activations stay plain
/// NHWC; the weights, small beside them, are reordered into the layout that oneDNN wants, inside each run.
namespace fusetape::backends::cpu {
namespace {

using dnnl::memory;
using plan::Graph;
using plan::Group;
using plan::Pattern;

std::optional<ConvRoles> roles_of(const Graph& graph, const Group& group) {
  if (group.pattern == Pattern::convolution) {
    const plan::Convolution& roles = group.conv;
    return ConvRoles{.node = roles.conv_node,
                     .x = roles.x,
                     .w = roles.w,
                     .bias = roles.bias,
                     .y = roles.y,
                     .relu = roles.relu};
  }
  if (group.pattern == Pattern::conv_grad_weight_cast) {
    const plan::ConvGradWeightCast& roles = group.conv_grad_cast;
    return ConvRoles{
        .pass = ConvPass::grad_weight, .node = roles.conv_node, .x = roles.x, .w = roles.dw, .y = roles.g};
  }
  if (group.pattern != Pattern::single) return std::nullopt;
  const int id = group.nodes[0];
  const plan::GraphNode& node = graph.node(id);
  if (node.op->is("conv2d")) {
    return ConvRoles{.node = id, .x = node.inputs[0], .w = node.inputs[1], .y = node.outputs[0]};
  }
  if (node.op->is("conv2d_grad_input")) {
    return ConvRoles{.pass = ConvPass::grad_input,
                     .node = id,
                     .x = node.outputs[0],
                     .w = node.inputs[1],
                     .y = node.inputs[0]};
  }
  if (node.op->is("conv2d_grad_weight")) {
    return ConvRoles{.pass = ConvPass::grad_weight,
                     .node = id,
                     .x = node.inputs[0],
                     .w = node.outputs[0],
                     .y = node.inputs[1]};
  }
  return std::nullopt;
}

// ---- kernels ----------------------------------------------------------------------------------------------

std::unique_ptr<OnednnKernel> make_forward(const Convolution& conv, bool relu) {
  auto kernel = std::make_unique<OnednnKernel>();
  const auto desc = forward_desc(conv, relu);
  const memory x = kernel->read(conv.x, desc.src_desc()), w = kernel->read(conv.w, desc.weights_desc());
  const memory y = kernel->place(conv.y, desc.dst_desc());
  std::vector<OnednnKernel::Argument> arguments{{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}};
  if (conv.bias.present()) {
    arguments.emplace_back(DNNL_ARG_BIAS, kernel->read(conv.bias, conv.offered(conv.bias)));
  }
  kernel->add(dnnl::convolution_forward(desc), arguments, desc.scratchpad_desc());
  kernel->store(y, conv.y);
  kernel->name = kernel_name(conv, desc.impl_info_str());
  return kernel;
}

std::unique_ptr<OnednnKernel> make_grad_input(const Convolution& conv) {
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

std::unique_ptr<OnednnKernel> make_grad_weight(const Convolution& conv) {
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

/// oneDNN's ReLU turns a NaN into 0 (it is maxps(x, 0)), ours keeps it. maxps of a NaN sets the processor's
/// sticky invalid flag, so that a run without one costs two looks at the flags; a run with one is done again,
/// with the ReLU apart.
class NanKeepingRelu final : public Kernel {
 public:
  NanKeepingRelu(const plan::GraphValue& y, const Convolution& conv)
      : y_(conv.y.value),
        elements_(y.elements()),
        dtype_(y.dtype),
        fused_(make_forward(conv, true)),
        plain_(make_forward(conv, false)) {
    name = fused_->name;
  }

  void run(const KernelArgs& args) override {
#pragma omp parallel
    std::feclearexcept(FE_INVALID);
    fused_->run(args);
    if (!invalid_on_any_thread()) return;
    plain_->run(args);
    if (dtype_ == DType::bf16) {
      std::uint16_t* y = args.out<std::uint16_t>(y_);
#pragma omp parallel for simd schedule(static)
      for (std::int64_t i = 0; i < elements_; ++i) y[i] = core::from_bf16(y[i]) <= 0 ? 0 : y[i];
    } else {
      float* y = args.out<float>(y_);
#pragma omp parallel for simd schedule(static)
      for (std::int64_t i = 0; i < elements_; ++i) y[i] = y[i] <= 0 ? 0 : y[i];
    }
  }

  std::size_t scratch_bytes() const override {
    return std::max(fused_->scratch_bytes(), plain_->scratch_bytes());
  }

 private:
  static bool invalid_on_any_thread() {
    int invalid = 0;
#pragma omp parallel reduction(| : invalid)
    invalid |= std::fetestexcept(FE_INVALID);
    return invalid != 0;
  }

  int y_;
  std::int64_t elements_;
  DType dtype_;
  std::unique_ptr<OnednnKernel> fused_, plain_;
};

// ---- the candidate ----------------------------------------------------------------------------------------

Support supports(const Graph& graph, const Group& group) {
  const std::optional<ConvRoles> roles = roles_of(graph, group);
  if (!roles) return {.ok = false, .reason = ""};
  for (int id : {roles->x, roles->w, roles->bias, roles->y}) {
    if (id < 0) continue;
    const plan::GraphValue& value = graph.value(id);
    if (value.dtype != DType::f32 && value.dtype != DType::bf16)
      return {.ok = false, .reason = "f32 and bf16 only, not " + std::string(name_of(value.dtype))};
    if (value.elements() == 0) return {.ok = false, .reason = "an empty tensor"};
  }
  return supported_by_onednn([&] { implementation_of(describe_convolution(graph, *roles)); });
}

std::unique_ptr<Kernel> make_of_pass(const Graph& graph, const Convolution& conv) {
  switch (conv.pass) {
    case ConvPass::grad_input:
      return make_grad_input(conv);
    case ConvPass::grad_weight:
      return make_grad_weight(conv);
    case ConvPass::forward:
      break;
  }
  if (conv.relu) return std::make_unique<NanKeepingRelu>(graph.value(conv.y.value), conv);
  return make_forward(conv, false);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  const ConvRoles roles = *roles_of(graph, group);
  try {
    std::unique_ptr<Kernel> kernel = make_of_pass(graph, describe_convolution(graph, roles));
    kernel->tensor_passes = 2;  // beside the weights
    return kernel;
  } catch (const dnnl::error& error) {
    rethrow_onednn(graph.node(roles.node), error);
  }
}

constexpr Candidate candidates[] = {{"onednn:convolution", supports, make}};

}  // namespace

std::span<const Candidate> onednn_convolutions() { return candidates; }

}  // namespace fusetape::backends::cpu
