#include <algorithm>
#include <cfenv>

#include "backends/cpu/conv/onednn.hpp"
#include "core/numerics/half.hpp"

/// relu(conv(x, w) + bias + z) through oneDNN.
namespace fusetape::backends::cpu::conv {
namespace {

using dnnl::memory;

std::unique_ptr<Kernel> make_primitive(const ConvDescription& conv) {
  auto kernel = std::make_unique<OnednnKernel>();
  const auto desc = forward_desc(conv);
  const memory x = kernel->read(conv.x, desc.src_desc()), w = kernel->read(conv.w, desc.weights_desc());
  const memory y = kernel->place(conv.y, desc.dst_desc());
  std::vector<OnednnKernel::Argument> arguments{{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}};
  if (conv.bias.present()) {
    arguments.emplace_back(DNNL_ARG_BIAS, kernel->read(conv.bias, conv.offered(conv.bias)));
  }
  if (conv.z.present()) {
    const int post_op = conv.onto_y ? 1 : 0;
    arguments.emplace_back(DNNL_ARG_ATTR_MULTIPLE_POST_OP(post_op) | DNNL_ARG_SRC_1,
                           kernel->read(conv.z, conv.offered(conv.z)));
  }
  kernel->add(dnnl::convolution_forward(desc), arguments, desc.scratchpad_desc());
  kernel->store(y, conv.y);
  kernel->name = kernel_name(conv, desc.impl_info_str());
  return kernel;
}

ConvDescription without_relu(ConvDescription conv) {
  conv.relu = false;
  return conv;
}

ConvDescription onto_z(ConvDescription conv) {
  conv.z = {};
  conv.onto_y = true;
  return conv;
}

/// oneDNN's ReLU turns a NaN into 0 (it is maxps(x, 0)), ours keeps it. maxps of a NaN sets the processor's
/// sticky invalid flag, so that a run without one costs two looks at the flags; a run with one is done again,
/// with the ReLU apart. For that z must still be there: it lends no buffer here.
class NanKeepingRelu final : public Kernel {
 public:
  explicit NanKeepingRelu(const ConvDescription& conv)
      : y_(conv.y.value),
        bf16_(conv.y.stored.get_data_type() == memory::data_type::bf16),
        elements_(static_cast<std::int64_t>(conv.y.stored.get_size() / (bf16_ ? 2 : 4))),
        fused_(make_forward_primitives(conv)),
        plain_(make_forward_primitives(without_relu(conv))) {
    name = fused_->name;
  }

  void run(const KernelArgs& args) override {
#pragma omp parallel
    std::feclearexcept(FE_INVALID);
    fused_->run(args);
    if (!invalid_on_any_thread()) return;
    plain_->run(args);
    if (bf16_) {
      auto* y = args.out<std::uint16_t>(y_);
#pragma omp parallel for simd schedule(static)
      for (std::int64_t i = 0; i < elements_; ++i) y[i] = core::from_bf16(y[i]) <= 0 ? 0 : y[i];
    } else {
      auto* y = args.out<float>(y_);
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
  bool bf16_;
  std::int64_t elements_;
  std::unique_ptr<Kernel> fused_, plain_;
};

/// Adds into z's buffer where the plan made it y's, and reads z beside it otherwise.
class AddsWhereItLies final : public Kernel {
 public:
  explicit AddsWhereItLies(const ConvDescription& conv)
      : z_(conv.z.value),
        y_(conv.y.value),
        in_place_(make_forward_primitives(onto_z(conv))),
        beside_(make_forward_primitives(conv)) {
    name = in_place_->name;
  }

  void run(const KernelArgs& args) override {
    (args.values[z_] == args.values[y_] ? in_place_ : beside_)->run(args);
  }
  std::size_t scratch_bytes() const override {
    return std::max(in_place_->scratch_bytes(), beside_->scratch_bytes());
  }
  std::vector<std::pair<int, int>> in_place() const override { return {{z_, y_}}; }

 private:
  int z_, y_;
  std::unique_ptr<Kernel> in_place_, beside_;
};

}  // namespace

std::unique_ptr<Kernel> make_forward_convolution(const ConvDescription& conv) {
  if (conv.relu) return std::make_unique<NanKeepingRelu>(conv);
  // A z that is x, too, has to stay until the last pixel is read; one in bf16 may be converted before that.
  const bool lends_buffer = conv.z.present() && conv.z.value != conv.x.value && !conv.through_f32;
  if (lends_buffer && adds_last(onto_z(conv))) return std::make_unique<AddsWhereItLies>(conv);
  return make_forward_primitives(conv);
}

std::unique_ptr<Kernel> make_forward_primitives(const ConvDescription& conv) {
  return has_long_sums(conv) ? make_split_convolution(conv) : make_primitive(conv);
}

}  // namespace fusetape::backends::cpu::conv
