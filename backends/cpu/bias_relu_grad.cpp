#include <omp.h>

#include "backends/cpu/batch_norm_simd.hpp"
#include "backends/cpu/candidates.hpp"

/// g' = g·[!(y ≤ 0)] and db = Σ g' over all but the last axis, in one pass.
namespace fusetape::backends::cpu {
namespace {

using plan::Graph;
using plan::Group;

class BiasReluGradKernel final : public Kernel {
 public:
  BiasReluGradKernel(const Graph& graph, const Group& group)
      : roles_(group.bias_grad), rows_(rows_of(graph.value(roles_.g).shape)) {
    name = "highway:bias_relu_grad";
    tensor_passes = 3;
  }

  void run(const KernelArgs& args) override {
    const std::int64_t row = rows_.padded_width();
    ScratchCarver carver(args.scratch);
    float* block_sums = carver.take<float>(row * rows_.parts());
    double* sums = carver.take<double>(row * rows_.parts());
    const NormBackward tensors{.norms = 0,
                               .mask = MaskFrom::output,
                               .g = args.in<float>(roles_.g),
                               .y = args.in<float>(roles_.y),
                               .masked = args.out<float>(roles_.masked)};
    for_parts(rows_.parts(), [&](int part) {
      NormBackward norm = tensors;
      norm.sum_g = block_sums + part * row;
      double* sum = sums + part * row;
      std::fill_n(sum, row, 0.0);
      rows_.for_blocks(part, false, [&](const RowBlock& block) {
        std::fill_n(norm.sum_g, row, 0.0f);
        add_gradient_sums(block, norm);
        for (std::int64_t j = 0; j < block.width; ++j) sum[j] += norm.sum_g[j];
      });
    });
    float* bias_grad = args.out<float>(roles_.bias_grad);
    for (std::int64_t c = 0; c < rows_.channels(); ++c)
      bias_grad[c] = static_cast<float>(rows_.total(sums, c));
  }

  std::size_t scratch_bytes() const override {
    const std::int64_t all_parts = rows_.padded_width() * rows_.parts();
    ScratchCarver carver(nullptr);
    carver.take<float>(all_parts);
    carver.take<double>(all_parts);
    return carver.used();
  }

  std::vector<std::pair<int, int>> in_place() const override {
    return {{roles_.g, roles_.masked}, {roles_.y, roles_.masked}};
  }

 private:
  static ChannelRows rows_of(const Shape& shape) {
    return ChannelRows(shape.elements() / shape.back(), shape.back(), omp_get_max_threads());
  }

  plan::BiasReluGrad roles_;
  ChannelRows rows_;
};

Support supports(const Graph& graph, const Group& group) {
  if (group.pattern != plan::Pattern::bias_relu_grad) return {.ok = false, .reason = ""};
  const plan::BiasReluGrad& roles = group.bias_grad;
  if (roles.y < 0) return {.ok = false, .reason = "no ReLU"};
  const Shape& shape = graph.value(roles.g).shape;
  if (shape.rank() == 0 || shape.elements() == 0) return {.ok = false, .reason = "no rows of channels"};
  for (int value : {roles.g, roles.y, roles.masked, roles.bias_grad}) {
    const DType dtype = graph.value(value).dtype;
    if (dtype != DType::f32)
      return {.ok = false, .reason = "expected f32, got " + std::string(name_of(dtype))};
  }
  if (!(graph.value(roles.y).shape == shape)) return {.ok = false, .reason = "operands broadcast"};
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  return std::make_unique<BiasReluGradKernel>(graph, group);
}

constexpr Candidate candidates[] = {{"highway:bias_relu_grad", supports, make}};

}  // namespace

std::span<const Candidate> bias_relu_gradients() { return candidates; }

}  // namespace fusetape::backends::cpu
