#include <algorithm>

#include "backends/cpu/conv/prepared.hpp"
#include "core/numerics/half.hpp"
#include "core/op/op_attrs.hpp"

/// dx = conv2d_grad_input(g, w) + other. oneDNN's backward-data adds nothing. Without a stride it is a
/// forward convolution of g with the filters turned around, which adds, in the same direct kernels and at
/// their speed.
namespace fusetape::backends::cpu::conv {
namespace {

using dnnl::memory;
using plan::Graph;
using plan::Group;

/// w {O, kh, kw, I/g}, turned by half a circle in the image plane.
class TurnedConvolution final : public PreparedConvolution {
 public:
  TurnedConvolution(const Graph& graph, const plan::Convolution& roles, const ConvDescription& conv)
      : PreparedConvolution(conv),
        w_(roles.w),
        bf16_(graph.value(roles.w).dtype == DType::bf16),
        shape_(graph.value(roles.w).shape) {
    tensor_passes = 3;  // beside the weights
  }

 private:
  void prepare(const KernelArgs& args, float* weights, float*) const override {
    const std::int64_t filters = shape_[0], places = shape_[1] * shape_[2], run = shape_[3];
#pragma omp parallel for schedule(static)
    for (std::int64_t o = 0; o < filters; ++o) {
      for (std::int64_t p = 0; p < places; ++p) {
        const std::int64_t from = (o * places + p) * run;
        float* to = weights + (o * places + places - 1 - p) * run;
        if (bf16_) {
          std::transform(args.in<std::uint16_t>(w_) + from, args.in<std::uint16_t>(w_) + from + run, to,
                         core::from_bf16);
        } else {
          std::copy_n(args.in<float>(w_) + from, run, to);
        }
      }
    }
  }

  int w_;
  bool bf16_;
  Shape shape_;
};

/// Weights that lie as {O, kh, kw, I/g}, as those of a convolution from O channels to I.
memory::desc exchanged(const memory::desc& w) {
  memory::dims dims = w.get_dims(), strides = w.get_strides();
  const std::size_t out = dims.size() - 4;  // behind the groups, where there are any
  std::swap(dims[out], dims[out + 1]);
  std::swap(strides[out], strides[out + 1]);
  return {dims, memory::data_type::f32, strides};
}

ConvDescription describe(const Graph& graph, const plan::Convolution& roles) {
  // The forward convolution whose gradient this is, then its reverse.
  ConvDescription conv = describe_convolution(graph, roles);
  conv.pass = ConvPass::forward;
  std::swap(conv.x, conv.y);
  conv.w.stored = exchanged(conv.w.stored);
  const memory::dims w = conv.w.stored.get_dims();
  for (std::size_t axis : {0u, 1u}) {
    const std::int64_t reach = (w[w.size() - 2 + axis] - 1) * (conv.dilates[axis] + 1);
    conv.padding[axis] = conv.padding_end[axis] = reach - conv.padding[axis];
  }
  return choose_arithmetic(conv);
}

}  // namespace

Support supports_grad_input_add(const Graph& graph, const Group& group) {
  const auto* roles = group.as<plan::Convolution>();
  const bool ours =
      roles != nullptr && roles->pass == ConvPass::grad_input && roles->z >= 0 && !roles->carries();
  if (!ours) return not_mine;
  Support fits = fits_onednn(graph, {roles->y, roles->w, roles->z, roles->x});
  if (!fits.ok) return fits;
  const auto a = graph.node(roles->node).attrs.as<core::ConvAttrs>();
  if (a.stride_h != 1 || a.stride_w != 1) {
    return {.ok = false,
            .reason =
                "slower than the two apart: with a stride, oneDNN adds only in brgconv_strided, at half the "
                "speed of its direct backward-data"};
  }
  if (a.pad_h > (a.kernel_h - 1) * a.dilation_h || a.pad_w > (a.kernel_w - 1) * a.dilation_w) {
    return {.ok = false, .reason = "padding beyond the kernel's reach"};
  }
  return supported_by_onednn([&] { implementation_of(describe(graph, *roles)); });
}

std::unique_ptr<Kernel> make_grad_input_add(const Graph& graph, const Group& group) {
  const auto& roles = *group.as<plan::Convolution>();
  return std::make_unique<TurnedConvolution>(graph, roles, describe(graph, roles));
}

}  // namespace fusetape::backends::cpu::conv
