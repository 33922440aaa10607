#include "backends/cpu/matmul/nan_keeping_relu.hpp"

#include <algorithm>
#include <cfenv>

#include "backends/cpu/pointwise_blocks.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::matmul {
namespace {

bool invalid_on_any_thread() {
  int invalid = 0;
#pragma omp parallel reduction(| : invalid)
  invalid |= std::fetestexcept(FE_INVALID);
  return invalid != 0;
}

void relu_in_place(std::byte* y, DType dtype, std::int64_t elements) {
  constexpr std::int64_t block = 1024;
  const BlockFunction relu = block_function(ops::relu_op);
#pragma omp parallel for schedule(static)
  for (std::int64_t first = 0; first < elements; first += block) {
    float numbers[block];
    const auto count = static_cast<std::size_t>(std::min(block, elements - first));
    std::byte* const at = y + first * static_cast<std::int64_t>(size_of(dtype));
    load_block(dtype, at, numbers, count);
    relu({.in = {numbers}, .out = numbers, .count = count});
    store_block(dtype, numbers, at, count);
  }
}

}  // namespace

NanKeepingRelu::NanKeepingRelu(const plan::Graph& graph, int y, std::unique_ptr<Kernel> fused,
                               std::unique_ptr<Kernel> plain)
    : y_(y),
      dtype_(graph.value(y).dtype),
      elements_(graph.value(y).elements()),
      fused_(std::move(fused)),
      plain_(std::move(plain)) {
  name = fused_->name;
  tensor_passes = fused_->tensor_passes;
}

void NanKeepingRelu::run(const KernelArgs& args) {
#pragma omp parallel
  std::feclearexcept(FE_INVALID);
  fused_->run(args);
  if (!invalid_on_any_thread()) return;
  plain_->run(args);
  relu_in_place(args.out<std::byte>(y_), dtype_, elements_);
}

std::size_t NanKeepingRelu::scratch_bytes() const {
  return std::max(fused_->scratch_bytes(), plain_->scratch_bytes());
}

}  // namespace fusetape::backends::cpu::matmul
