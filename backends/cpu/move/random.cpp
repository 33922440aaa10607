// rand, randn and dropout: every number is core/numerics/philox.hpp's of its element, whatever the thread.
#include <omp.h>

#include <algorithm>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "core/numerics/philox.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::move {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

// Below this many elements for each, a second thread costs more than it brings.
constexpr std::int64_t least_elements = 1 << 12;

/// The draws of elements [first, end) in order: f(i, uniform).
template <class F>
void for_uniforms(std::int64_t seed, std::int64_t counter, std::int64_t first, std::int64_t end, F&& f) {
  std::int64_t i = first;
  while (i < end) {
    const auto at = static_cast<std::uint64_t>(counter + i);
    const core::PhiloxBlock block = core::philox_block(static_cast<std::uint64_t>(seed), at / 4);
    for (std::uint64_t word = at % 4; word < 4 && i < end; ++word, ++i)
      f(i, core::philox_uniform(block[word]));
  }
}

class RandomKernel final : public Kernel {
 public:
  RandomKernel(const Graph& graph, const GraphNode& node)
      : y_(node.outputs[0]), dtype_(graph.value(y_).dtype), count_(graph.value(y_).elements()) {
    const bool dropout = node.is(ops::dropout_op);
    draw_ = dropout ? Draw::dropout : node.is(ops::rand_op) ? Draw::uniform : Draw::normal;
    x_ = dropout ? node.inputs[0] : -1;
    seed_ = node.inputs[dropout ? 1 : 0];
    counter_ = node.inputs[dropout ? 2 : 1];
    if (dropout) p_ = node.inputs[3];
    const std::int64_t wanted = std::max<std::int64_t>(1, count_ / least_elements);
    parts_ = static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), wanted));
  }

  std::vector<std::pair<int, int>> in_place() const override {
    if (x_ < 0) return {};
    return {{x_, y_}};
  }

  void run(const KernelArgs& args) override {
    const std::int64_t seed = *args.in<std::int64_t>(seed_), counter = *args.in<std::int64_t>(counter_);
    const double p = p_ >= 0 ? *args.in<double>(p_) : 0;
    for_parts(parts_, [&](int part) {
      const std::int64_t end = count_ * (part + 1) / parts_;
      for (std::int64_t first = count_ * part / parts_; first < end; first += block) {
        run_block(args, seed, counter, p, first, std::min(block, end - first));
      }
    });
  }

 private:
  enum class Draw : std::uint8_t { uniform, normal, dropout };
  static constexpr std::int64_t block = 512;

  void run_block(const KernelArgs& args, std::int64_t seed, std::int64_t counter, double p,
                 std::int64_t first, std::int64_t count) const {
    float in[block], out[block];
    float* const y = float_room(dtype_, args.out<std::byte>(y_), first, out);
    switch (draw_) {
      case Draw::uniform:
        draw_uniform(y, seed, counter + first, count);
        break;
      case Draw::normal:
        for (std::int64_t i = 0; i < count; ++i)
          y[i] = static_cast<float>(core::philox_normal(seed, counter + first, i));
        break;
      case Draw::dropout:
        drop(read_floats(dtype_, args.in<std::byte>(x_), first, count, in), y, seed, counter + first, p,
             count);
        break;
    }
    write_floats(dtype_, y, args.out<std::byte>(y_), first, count);
  }

  void draw_uniform(float* y, std::int64_t seed, std::int64_t counter, std::int64_t count) const {
    const double steps = core::uniform_steps(dtype_);
    for_uniforms(seed, counter, 0, count,
                 [&](std::int64_t i, double u) { y[i] = static_cast<float>(core::cut_uniform(u, steps)); });
  }

  static void drop(const float* x, float* y, std::int64_t seed, std::int64_t counter, double p,
                   std::int64_t count) {
    const double scale = 1 / (1 - p);
    for_uniforms(seed, counter, 0, count,
                 [&](std::int64_t i, double u) { y[i] = u < p ? 0.0f : static_cast<float>(x[i] * scale); });
  }

  Draw draw_ = Draw::uniform;
  int x_ = -1, seed_ = -1, counter_ = -1, p_ = -1, y_ = -1;
  DType dtype_;
  std::int64_t count_ = 0;
  int parts_ = 1;
};

Support supports_random(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.nodes[0]);
  const bool known = node.is(ops::rand_op) || node.is(ops::randn_op) || node.is(ops::dropout_op);
  if (!group.single() || !known) return {.ok = false, .reason = {}};
  const DType dtype = graph.value(node.outputs[0]).dtype;
  if (!is_f32_or_half(dtype))
    return {.ok = false, .reason = "f32 and 16 bits only, not " + std::string(name_of(dtype))};
  return {};
}

std::unique_ptr<Kernel> make_random(const Graph& graph, const Group& group) {
  return std::make_unique<RandomKernel>(graph, graph.node(group.nodes[0]));
}

constexpr Candidate candidates[] = {{"cpu:philox", supports_random, make_random}};

}  // namespace

std::span<const Candidate> random_draws() { return candidates; }

}  // namespace fusetape::backends::cpu::move
