#include "backends/cpu/update/grad_norm.hpp"

#include <omp.h>

#include <cmath>
#include <numeric>

#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::update {
namespace {

using plan::Graph;
using plan::Group;

/// Σ x² in double: no square of a float overflows there, and each is exact.
double sum_of_squares(const float* x, std::int64_t count) {
  constexpr std::int64_t lanes = 16;  // independent: a chain of additions would wait for each one
  double sums[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      const double value = x[i + lane];
      sums[lane] += value * value;
    }
  }
  for (; i < count; ++i) sums[0] += static_cast<double>(x[i]) * x[i];
  return std::accumulate(sums, sums + lanes, 0.0);
}

/// The gradients lie behind each other in the kernel's count of elements, which the threads share out evenly;
/// the sums of the parts combine in their order.
class GradNormKernel final : public Kernel {
 public:
  GradNormKernel(const Graph& graph, const plan::GraphNode& node) : norm_(node.outputs[0]) {
    for (int id : node.inputs) {
      const plan::GraphValue& value = graph.value(id);
      gradients_.push_back({id, value.dtype, elements_, elements_ + value.elements()});
      elements_ += value.elements();
    }
    constexpr std::int64_t least_elements = 1 << 14;  // below it a second thread costs more than it brings
    const std::int64_t wanted = std::max<std::int64_t>(1, elements_ / least_elements);
    parts_ = static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), wanted));
    tensor_passes = 1;
  }

  std::size_t scratch_bytes() const override { return static_cast<std::size_t>(parts_) * sizeof(double); }

  void run(const KernelArgs& args) override {
    auto* const sums = reinterpret_cast<double*>(args.scratch);
    for_parts(parts_, [&](int part) {
      const std::int64_t begin = elements_ * part / parts_, end = elements_ * (part + 1) / parts_;
      double sum = 0;
      for (const Gradient& gradient : gradients_) {
        const std::int64_t from = std::max(begin, gradient.begin), to = std::min(end, gradient.end);
        if (from < to) sum += squares(args, gradient, from - gradient.begin, to - gradient.begin);
      }
      sums[part] = sum;
    });
    *args.out<float>(norm_) = static_cast<float>(std::sqrt(std::accumulate(sums, sums + parts_, 0.0)));
  }

 private:
  struct Gradient {
    int id;
    DType dtype;
    std::int64_t begin, end;
  };

  static double squares(const KernelArgs& args, const Gradient& gradient, std::int64_t begin,
                        std::int64_t end) {
    constexpr std::int64_t block = 1024;
    float buffer[block];
    double sum = 0;
    for (std::int64_t first = begin; first < end; first += block) {
      const std::int64_t count = std::min(block, end - first);
      sum += sum_of_squares(
          read_floats(gradient.dtype, args.in<std::byte>(gradient.id), first, count, buffer), count);
    }
    return sum;
  }

  std::vector<Gradient> gradients_;
  int norm_;
  std::int64_t elements_ = 0;
  int parts_ = 1;
};

}  // namespace

Support supports_grad_norm(const Graph& graph, const Group& group) {
  const plan::GraphNode& node = graph.node(group.nodes[0]);
  if (!group.single() || !node.is(ops::grad_norm_op)) return {.ok = false, .reason = ""};
  if (graph.value(node.outputs[0]).dtype == DType::f64)
    return {.ok = false, .reason = "f32 and 16 bits only, not f64"};
  return {};
}

std::unique_ptr<Kernel> make_grad_norm(const Graph& graph, const Group& group) {
  return std::make_unique<GradNormKernel>(graph, graph.node(group.nodes[0]));
}

}  // namespace fusetape::backends::cpu::update
