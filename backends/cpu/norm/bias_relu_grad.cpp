#include <omp.h>

#include <type_traits>
#include <utility>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/norm/batch_norm_simd.hpp"
#include "backends/cpu/norm/relu_mask_simd.hpp"

/// g' = g·[!(y ≤ 0)] and db = Σ g' over all but the last axis, in one pass. The mask may come as bits: db is
/// summed in the same order.
namespace fusetape::backends::cpu::norm {
namespace {

using plan::Graph;
using plan::Group;

template <class T>
class BiasReluGradKernel final : public Kernel {
 public:
  BiasReluGradKernel(const Graph& graph, const Group& group)
      : roles_(*group.as<plan::BiasReluGrad>()),
        rows_(rows_of(graph.value(roles_.g).shape)),
        narrow_bias_(graph.value(roles_.bias_grad).dtype == DType::bf16) {
    name = "highway:bias_relu_grad";
    tensor_passes = roles_.mask < 0 ? 3 : masked_first() ? 4 : 2;
  }

  void run(const KernelArgs& args) override {
    const std::int64_t row = rows_.padded_width();
    RoomCarver carver(args.rooms);
    const InRooms<float> chains = carver.take<float>(row);
    const InRooms<double> sums = carver.take<double>(row);
    const NormBackward<T> tensors = tensors_of(args);
    for_parts(rows_.parts(), [&](int part) {
      NormBackward<T> norm = tensors;
      norm.chain_g = chains[part];
      norm.sum_g = sums[part];
      norm.clear_sums(row);
      rows_.for_blocks(part, false, [&](const RowBlock& block) { add_gradient_sums(block, norm); });
    });
    for (std::int64_t c = 0; c < rows_.channels(); ++c) {
      const auto total = static_cast<float>(rows_.total(sums, c));
      if (narrow_bias_) {
        args.out<std::uint16_t>(roles_.bias_grad)[c] = core::to_bf16(total);
      } else {
        args.out<float>(roles_.bias_grad)[c] = total;
      }
    }
  }

  std::size_t room_bytes() const override {
    RoomCarver carver({});
    carver.take<float>(rows_.padded_width());
    carver.take<double>(rows_.padded_width());
    return carver.used();
  }

  std::vector<std::pair<int, int>> in_place() const override {
    if (roles_.mask >= 0) return {{roles_.g, roles_.masked}};
    return {{roles_.g, roles_.masked}, {roles_.y, roles_.masked}};
  }

 private:
  static ChannelRows rows_of(const Shape& shape) {
    return ChannelRows(shape.elements() / shape.back(), shape.back(), omp_get_max_threads());
  }

  /// Bits of a mask of which no block of rows has whole bytes are taken beforehand.
  bool masked_first() const { return roles_.mask >= 0 && rows_.width() % 8 != 0; }

  NormBackward<T> tensors_of(const KernelArgs& args) const {
    NormBackward<T> tensors{.norms = 0, .g = args.in<T>(roles_.g), .masked = args.out<T>(roles_.masked)};
    if (roles_.mask < 0) {
      tensors.mask = MaskFrom::output;
      tensors.y = args.in<T>(roles_.y);
    } else if (!masked_first()) {
      tensors.mask = MaskFrom::bits;
      tensors.bits = args.in<std::uint8_t>(roles_.mask);
    } else {
      using Word = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int16_t>;
      apply_relu_mask(args.in<Word>(roles_.g), args.in<std::uint8_t>(roles_.mask),
                      rows_.rows() * rows_.channels(), args.out<Word>(roles_.masked));
      tensors.g = std::exchange(tensors.masked, nullptr);
    }
    return tensors;
  }

  plan::BiasReluGrad roles_;
  ChannelRows rows_;
  bool narrow_bias_;  ///< db is bf16
};

Support supports(const Graph& graph, const Group& group) {
  if (group.as<plan::BiasReluGrad>() == nullptr) return {.ok = false, .reason = ""};
  const auto& roles = *group.as<plan::BiasReluGrad>();
  const Shape& shape = graph.value(roles.g).shape;
  if (shape.rank() == 0 || shape.elements() == 0) return {.ok = false, .reason = "no rows of channels"};
  const DType dtype = graph.value(roles.g).dtype;
  for (int value : {roles.g, roles.y >= 0 ? roles.y : roles.g, roles.masked}) {
    const DType other = graph.value(value).dtype;
    if (other != dtype || (other != DType::f32 && other != DType::bf16)) {
      return {.ok = false, .reason = "expected f32 or bf16, got " + std::string(name_of(other))};
    }
  }
  const DType bias = graph.value(roles.bias_grad).dtype;
  if (bias != DType::f32 && bias != DType::bf16) {
    return {.ok = false, .reason = "expected a bias of f32 or bf16, got " + std::string(name_of(bias))};
  }
  if (roles.y >= 0 && !(graph.value(roles.y).shape == shape))
    return {.ok = false, .reason = "operands broadcast"};
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  if (graph.value(group.as<plan::BiasReluGrad>()->g).dtype == DType::bf16) {
    return std::make_unique<BiasReluGradKernel<Bf16>>(graph, group);
  }
  return std::make_unique<BiasReluGradKernel<float>>(graph, group);
}

constexpr Candidate candidates[] = {{"highway:bias_relu_grad", supports, make}};

}  // namespace

std::span<const Candidate> bias_relu_gradients() { return candidates; }

}  // namespace fusetape::backends::cpu::norm
