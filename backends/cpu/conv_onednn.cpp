#include <algorithm>
#include <cfenv>
#include <optional>
#include <string>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/onednn_engine.hpp"
#include "core/op_attrs.hpp"

/// Convolution, its two gradients, and conv+bias+relu through oneDNN, in f32. Activations stay plain NHWC;
/// the weights, small beside them, are reordered into the layout that oneDNN wants, inside each run.
namespace fusetape::backends::cpu {
namespace {

using dnnl::memory;
using plan::Graph;
using plan::Group;
using plan::Pattern;

enum class Pass : std::uint8_t { forward, grad_input, grad_weight };

/// The group as one convolution between images x and y; in a gradient, x, w and y stand for the gradients
/// too.
struct Convolution {
  Pass pass = Pass::forward;
  int node = -1;
  int x = -1, w = -1, bias = -1, y = -1;  ///< values
  bool relu = false;
};

std::optional<Convolution> convolution_of(const Graph& graph, const Group& group) {
  if (group.pattern == Pattern::convolution) {
    const plan::Convolution& roles = group.conv;
    return Convolution{.node = roles.conv_node,
                       .x = roles.x,
                       .w = roles.w,
                       .bias = roles.bias,
                       .y = roles.y,
                       .relu = roles.relu};
  }
  if (group.pattern != Pattern::single) return std::nullopt;
  const int id = group.nodes[0];
  const plan::GraphNode& node = graph.node(id);
  if (node.op->is("conv2d")) {
    return Convolution{.node = id, .x = node.inputs[0], .w = node.inputs[1], .y = node.outputs[0]};
  }
  if (node.op->is("conv2d_grad_input")) {
    return Convolution{
        .pass = Pass::grad_input, .node = id, .x = node.outputs[0], .w = node.inputs[1], .y = node.inputs[0]};
  }
  if (node.op->is("conv2d_grad_weight")) {
    return Convolution{.pass = Pass::grad_weight,
                       .node = id,
                       .x = node.inputs[0],
                       .w = node.outputs[0],
                       .y = node.inputs[1]};
  }
  return std::nullopt;
}

// ---- descriptions -----------------------------------------------------------------------------------------

constexpr memory::data_type f32 = memory::data_type::f32;

memory::desc image(const Shape& s) { return {{s[0], s[3], s[1], s[2]}, f32, memory::format_tag::nhwc}; }

/// {O, kh, kw, I/g} as oneDNN names its axes: {O, I, kh, kw}, or {g, O/g, I/g, kh, kw}.
memory::desc plain_weights(const Shape& s, std::int64_t groups) {
  const std::int64_t out = s[0] / groups, kh = s[1], kw = s[2], in = s[3];
  const std::int64_t filter = kh * kw * in;
  if (groups == 1) return {{out, in, kh, kw}, f32, memory::dims{filter, 1, kw * in, in}};
  return {{groups, out, in, kh, kw}, f32, memory::dims{out * filter, filter, 1, kw * in, in}};
}

struct Descriptions {
  memory::desc x, plain_w, any_w, bias, y;
  memory::dims strides, dilates, padding;
};

Descriptions describe(const Graph& graph, const Convolution& conv) {
  const auto a = graph.node(conv.node).attrs.as<core::ConvAttrs>();
  Descriptions d;
  d.x = image(graph.value(conv.x).shape);
  d.y = image(graph.value(conv.y).shape);
  d.plain_w = plain_weights(graph.value(conv.w).shape, a.groups);
  d.any_w = memory::desc(d.plain_w.get_dims(), f32, memory::format_tag::any);
  if (conv.bias >= 0) d.bias = memory::desc({graph.value(conv.bias).shape[0]}, f32, memory::format_tag::x);
  d.strides = {a.stride_h, a.stride_w};
  d.dilates = {a.dilation_h - 1, a.dilation_w - 1};
  d.padding = {a.pad_h, a.pad_w};
  return d;
}

// ---- choice of an implementation --------------------------------------------------------------------------

bool strided(const Descriptions& d) { return d.strides[0] > 1 || d.strides[1] > 1; }

/// oneDNN 3.2's 1×1 kernel for AVX2 gathers strided pixels into its scratchpad by whole vectors, beyond the
/// scratchpad's end where the channels are no multiple of a vector.
bool overruns(const Descriptions& d, const std::string& implementation) {
  const bool whole_vectors = d.x.get_dims()[1] % 16 == 0 && d.y.get_dims()[1] % 16 == 0;
  return strided(d) && !whole_vectors && implementation.starts_with("jit_1x1");
}

template <class Make, class Accept>
auto first_that(Make make, Accept accept) -> std::optional<decltype(make())> {
  auto desc = make();
  do {
    if (accept(std::string(desc.impl_info_str()))) return desc;
  } while (desc.next_impl());
  return std::nullopt;
}

/// oneDNN offers its implementations in an order of its own, brgconv first. The direct ones are faster in
/// NHWC for backward-data (with a stride by half), and for strided forward convolutions.
template <class Make>
auto choose(const Descriptions& d, bool prefer_direct, Make make) {
  auto first = first_that(make, [&](const std::string& name) { return !overruns(d, name); });
  if (!first) throw dnnl::error(dnnl_unimplemented, "no implementation of this convolution is sound");
  const std::string name = first->impl_info_str();  // "brgconv:avx512_core"
  if (!prefer_direct || !name.starts_with("brg")) return *first;
  const std::string instructions = name.substr(name.rfind(':') + 1);
  auto direct = first_that(make, [&](const std::string& other) {
    return other.starts_with("jit") && other.ends_with(instructions) && !overruns(d, other);
  });
  return direct ? *direct : *first;
}

dnnl::convolution_forward::primitive_desc forward_desc(const Descriptions& d, bool relu) {
  dnnl::primitive_attr attributes = onednn_attributes();
  if (relu) {
    dnnl::post_ops post;
    post.append_eltwise(dnnl::algorithm::eltwise_relu, 0, 0);
    attributes.set_post_ops(post);
  }
  return choose(d, strided(d), [&] {
    return dnnl::convolution_forward::primitive_desc(
        onednn_engine(), dnnl::prop_kind::forward_training, dnnl::algorithm::convolution_direct, d.x, d.any_w,
        d.bias, d.y, d.strides, d.dilates, d.padding, d.padding, attributes);
  });
}

dnnl::convolution_backward_data::primitive_desc grad_input_desc(const Descriptions& d) {
  const auto hint = forward_desc(d, false);
  return choose(d, true, [&] {
    return dnnl::convolution_backward_data::primitive_desc(
        onednn_engine(), dnnl::algorithm::convolution_direct, d.x, d.any_w, d.y, d.strides, d.dilates,
        d.padding, d.padding, hint, onednn_attributes());
  });
}

dnnl::convolution_backward_weights::primitive_desc grad_weight_desc(const Descriptions& d) {
  const auto hint = forward_desc(d, false);
  return choose(d, false, [&] {
    return dnnl::convolution_backward_weights::primitive_desc(
        onednn_engine(), dnnl::algorithm::convolution_direct, d.x, d.any_w, d.y, d.strides, d.dilates,
        d.padding, d.padding, hint, onednn_attributes());
  });
}

// ---- kernels ----------------------------------------------------------------------------------------------

/// The weights as `wanted`: their own bytes, or packed into scratch by a first step.
memory packed_weights(OnednnKernel& kernel, const Convolution& conv, const Descriptions& d,
                      const memory::desc& wanted) {
  memory plain = kernel.value(conv.w, d.plain_w);
  if (wanted == d.plain_w) return plain;
  memory packed = kernel.scratch(wanted);
  kernel.add_reorder(plain, packed);
  return packed;
}

std::string named(const char* implementation) { return std::string("onednn:") + implementation; }

std::unique_ptr<OnednnKernel> make_forward(const Convolution& conv, const Descriptions& d, bool relu) {
  auto kernel = std::make_unique<OnednnKernel>();
  const auto desc = forward_desc(d, relu);
  const memory x = kernel->value(conv.x, d.x), y = kernel->value(conv.y, d.y);
  const memory w = packed_weights(*kernel, conv, d, desc.weights_desc());
  const dnnl::convolution_forward primitive(desc);
  if (conv.bias >= 0) {
    const memory bias = kernel->value(conv.bias, d.bias);
    kernel->add(primitive,
                {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_BIAS, bias}, {DNNL_ARG_DST, y}},
                desc.scratchpad_desc());
  } else {
    kernel->add(primitive, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}},
                desc.scratchpad_desc());
  }
  kernel->name = named(desc.impl_info_str());
  return kernel;
}

std::unique_ptr<OnednnKernel> make_grad_input(const Convolution& conv, const Descriptions& d) {
  auto kernel = std::make_unique<OnednnKernel>();
  const auto desc = grad_input_desc(d);
  const memory dx = kernel->value(conv.x, d.x), dy = kernel->value(conv.y, d.y);
  const memory w = packed_weights(*kernel, conv, d, desc.weights_desc());
  kernel->add(dnnl::convolution_backward_data(desc),
              {{DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DIFF_SRC, dx}},
              desc.scratchpad_desc());
  kernel->name = named(desc.impl_info_str());
  return kernel;
}

std::unique_ptr<OnednnKernel> make_grad_weight(const Convolution& conv, const Descriptions& d) {
  auto kernel = std::make_unique<OnednnKernel>();
  const auto desc = grad_weight_desc(d);
  const memory x = kernel->value(conv.x, d.x), dy = kernel->value(conv.y, d.y);
  const memory plain = kernel->value(conv.w, d.plain_w);
  const memory::desc wanted = desc.diff_weights_desc();
  const memory dw = wanted == d.plain_w ? plain : kernel->scratch(wanted);
  kernel->add(dnnl::convolution_backward_weights(desc),
              {{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_WEIGHTS, dw}},
              desc.scratchpad_desc());
  if (wanted != d.plain_w) kernel->add_reorder(dw, plain);
  kernel->name = named(desc.impl_info_str());
  return kernel;
}

/// oneDNN's ReLU turns a NaN into 0 (it is maxps(x, 0)), ours keeps it. maxps of a NaN sets the processor's
/// sticky invalid flag, so that a run without one costs two looks at the flags; a run with one is done again,
/// with the ReLU apart.
class NanKeepingRelu final : public Kernel {
 public:
  NanKeepingRelu(const Graph& graph, const Convolution& conv, const Descriptions& d)
      : y_(conv.y),
        elements_(graph.value(conv.y).elements()),
        fused_(make_forward(conv, d, true)),
        plain_(make_forward(conv, d, false)) {
    name = fused_->name;
  }

  void run(const KernelArgs& args) override {
#pragma omp parallel
    std::feclearexcept(FE_INVALID);
    fused_->run(args);
    if (!invalid_on_any_thread()) return;
    plain_->run(args);
    float* y = args.out<float>(y_);
#pragma omp parallel for simd schedule(static)
    for (std::int64_t i = 0; i < elements_; ++i) y[i] = y[i] <= 0 ? 0 : y[i];
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
  std::unique_ptr<OnednnKernel> fused_, plain_;
};

// ---- the candidate ----------------------------------------------------------------------------------------

Support supports(const Graph& graph, const Group& group) {
  const std::optional<Convolution> conv = convolution_of(graph, group);
  if (!conv) return {.ok = false, .reason = ""};
  for (int id : {conv->x, conv->w, conv->bias, conv->y}) {
    if (id < 0) continue;
    const plan::GraphValue& value = graph.value(id);
    if (value.dtype != DType::f32)
      return {.ok = false, .reason = "f32 only, not " + std::string(name_of(value.dtype))};
    if (value.elements() == 0) return {.ok = false, .reason = "an empty tensor"};
  }
  return supported_by_onednn([&] {
    const Descriptions d = describe(graph, *conv);
    switch (conv->pass) {
      case Pass::forward:
        forward_desc(d, conv->relu);
        break;
      case Pass::grad_input:
        grad_input_desc(d);
        break;
      case Pass::grad_weight:
        grad_weight_desc(d);
        break;
    }
  });
}

std::unique_ptr<Kernel> make_of_pass(const Graph& graph, const Convolution& conv) {
  const Descriptions d = describe(graph, conv);
  switch (conv.pass) {
    case Pass::grad_input:
      return make_grad_input(conv, d);
    case Pass::grad_weight:
      return make_grad_weight(conv, d);
    case Pass::forward:
      break;
  }
  if (conv.relu) return std::make_unique<NanKeepingRelu>(graph, conv, d);
  return make_forward(conv, d, false);
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  const Convolution conv = *convolution_of(graph, group);
  try {
    std::unique_ptr<Kernel> kernel = make_of_pass(graph, conv);
    kernel->tensor_passes = 2;  // beside the weights
    return kernel;
  } catch (const dnnl::error& error) {
    rethrow_onednn(graph.node(conv.node), error);
  }
}

constexpr Candidate candidates[] = {{"onednn:convolution", supports, make}};

}  // namespace

std::span<const Candidate> onednn_convolutions() { return candidates; }

}  // namespace fusetape::backends::cpu
