#include "backends/cuda/norm/batch_norm.hpp"

#include "backends/cuda/candidates.hpp"

/// Which groups the batch norm kernels take, and what they share.
namespace fusetape::backends::cuda::norm {
namespace {

using plan::Graph;
using plan::Group;

constexpr auto dtypes = {DType::f32, DType::bf16, DType::f16};
const Support only_relu{.ok = false, .reason = "the device's norms know no activation but relu"};

Support supports_forward(const Graph& graph, const Group& group, Device&) {
  const auto* roles = group.as<plan::NormForward>();
  if (roles == nullptr) return {.ok = false, .reason = {}};
  const Support support = norm_operands(graph, *roles, dtypes);
  const bool other = roles->activation != nullptr && roles->activation != &ops::relu_op;
  return support.ok && other ? only_relu : support;
}

Support supports_backward(const Graph& graph, const Group& group, Device&) {
  const auto* roles = group.as<plan::NormBackward>();
  if (roles == nullptr) return {.ok = false, .reason = {}};
  const Support support = norm_operands(graph, *roles, dtypes);
  return support.ok && roles->gradient != nullptr ? only_relu : support;
}

constexpr Candidate candidates[] = {
    {"cuda:batch_norm", supports_forward, make_norm_forward},
    {"cuda:batch_norm_grad", supports_backward, make_norm_backward},
};

}  // namespace

std::span<const Candidate> batch_norms() { return candidates; }

NormResults norm_results(const plan::NormRoles& norm, double eps, std::int64_t channels,
                         const KernelArgs& args, Access& access) {
  NormResults to{.eps = eps};
  const std::size_t bytes = static_cast<std::size_t>(channels) * sizeof(float);
  const auto read = [&](const float*& pointer, int value) {
    pointer = args.in<float>(value);
    access.reads.push_back({pointer, bytes});
  };
  const auto write = [&](float*& pointer, int value) {
    if (value < 0) return;
    pointer = args.out<float>(value);
    access.writes.push_back({pointer, bytes});
  };
  write(to.batch_mean, norm.mean);
  write(to.inv_std, norm.inv_std);
  if (norm.new_running_mean >= 0 || norm.new_running_var >= 0) {
    to.momentum = args.in<double>(norm.momentum);
    access.reads.push_back({to.momentum, sizeof(double)});
  }
  if (norm.new_running_mean >= 0) read(to.running_mean, norm.running_mean);
  if (norm.new_running_var >= 0) read(to.running_var, norm.running_var);
  write(to.new_mean, norm.new_running_mean);
  write(to.new_var, norm.new_running_var);
  return to;
}

void add_tracked_in_place(const plan::NormRoles& norm, std::vector<std::pair<int, int>>& pairs) {
  if (norm.new_running_mean >= 0) pairs.emplace_back(norm.running_mean, norm.new_running_mean);
  if (norm.new_running_var >= 0) pairs.emplace_back(norm.running_var, norm.new_running_var);
}

}  // namespace fusetape::backends::cuda::norm
