#include "library_norm_double.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

#include "core/reference.hpp"

namespace fusetape::tests {

using backends::cuda::ByPlace;
using backends::cuda::NormArgs;
using backends::cuda::NormOperand;
using backends::cuda::NormPlace;
using backends::cuda::NormSpec;

namespace {

using Doubles = std::vector<double>;
using enum NormPlace;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// As if it had been stored: near 0 the ReLU's mask hangs on it.
double rounded(double number, DType dtype) {
  std::array<std::byte, sizeof(double)> stored{};
  core::from_doubles(&number, dtype, 1, stored.data());
  core::to_doubles(stored.data(), dtype, 1, &number);
  return number;
}

ByPlace<Doubles> read(const NormSpec& spec, const NormArgs& args) {
  ByPlace<Doubles> all;
  for (const NormOperand& operand : operands_of(spec)) {
    Doubles& numbers = all[operand.place];
    numbers.resize(at(operand.elements));
    if (!operand.written) {
      core::to_doubles(args.operands[operand.place], operand.dtype, operand.elements, numbers.data());
    }
  }
  return all;
}

void write(const NormSpec& spec, const NormArgs& args, const ByPlace<Doubles>& all) {
  for (const NormOperand& operand : operands_of(spec)) {
    if (!operand.written || args.operands[operand.place] == nullptr) continue;
    const Doubles& numbers = all[operand.place];
    core::from_doubles(numbers.data(), operand.dtype, operand.elements, args.operands[operand.place]);
  }
}

}  // namespace

NormDouble::NormDouble(const NormSpec& spec, const NormManners& manners) : s_(spec), manners_(manners) {
  name = "double:batch_norm";
}

void NormDouble::run(const NormArgs& args) const {
  s_.pass == NormSpec::Pass::forward ? forward(args) : backward(args);
}

void NormDouble::forward(const NormArgs& args) const {
  ByPlace<Doubles> v = read(s_, args);
  const std::int64_t rows = s_.n * s_.h * s_.w;
  const auto count = static_cast<double>(rows);
  for (std::int64_t c = 0; c < s_.c; ++c) {
    double sum = 0, square = 0;
    for (std::int64_t row = 0; row < rows; ++row) sum += v[x][at(row * s_.c + c)];
    const double average = sum / count;
    for (std::int64_t row = 0; row < rows; ++row) {
      square += std::pow(v[x][at(row * s_.c + c)] - average, 2);
    }
    v[mean][at(c)] = average;
    v[inv_std][at(c)] = 1 / std::sqrt(square / (manners_.unbiased_variance ? count - 1 : count) + s_.eps);
  }
  for (std::int64_t i = 0; i < s_.elements(); ++i) {
    const std::size_t c = at(i % s_.c);
    double result = (v[x][at(i)] - v[mean][c]) * v[inv_std][c] * v[gamma][c] + v[beta][c];
    if (manners_.shifts) {
      const auto a = static_cast<float>(v[inv_std][c] * v[gamma][c]);
      result = a * v[x][at(i)] + static_cast<double>(static_cast<float>(v[beta][c] - a * v[mean][c]));
    }
    if (s_.add) result = rounded(result, s_.dtype) + v[z][at(i)];
    const bool positive = manners_.relu_drops_nans ? result > 0 : !(result <= 0);
    v[y][at(i)] = s_.relu && !positive ? 0 : result;
    if (manners_.needs_clean_workspace) v[y][at(i)] += runs_;
  }
  ++runs_;
  write(s_, args, v);
}

void NormDouble::backward(const NormArgs& args) const {
  ByPlace<Doubles> v = read(s_, args);
  const std::int64_t rows = s_.n * s_.h * s_.w;
  for (std::int64_t i = 0; s_.mask && i < s_.elements(); ++i) {
    const bool passes = (static_cast<int>(v[mask][at(i / 8)]) >> (i % 8) & 1) != 0;
    if (!passes) v[g][at(i)] = manners_.mask_multiplies ? v[g][at(i)] * 0 : 0;
  }
  if (s_.masked) v[masked] = v[g];
  const auto normed = [&](std::int64_t i) {
    return (v[x][at(i)] - v[mean][at(i % s_.c)]) * v[inv_std][at(i % s_.c)];
  };
  for (std::int64_t i = 0; i < s_.elements(); ++i) {
    v[dbeta][at(i % s_.c)] += v[g][at(i)];
    v[dgamma][at(i % s_.c)] += v[g][at(i)] * normed(i);
  }
  for (std::int64_t i = 0; i < s_.elements(); ++i) {
    const std::size_t c = at(i % s_.c);
    const double shared = (v[dbeta][c] + normed(i) * v[dgamma][c]) / static_cast<double>(rows);
    v[dx][at(i)] = v[gamma][c] * v[inv_std][c] * (v[g][at(i)] - shared);
  }
  NormArgs written = args;
  if (manners_.leaves_dgamma_out) written.operands[dgamma] = nullptr;
  write(s_, written, v);
}

}  // namespace fusetape::tests
