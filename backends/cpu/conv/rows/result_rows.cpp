#include "backends/cpu/conv/rows/result_rows.hpp"

#include <cmath>

#include "backends/cpu/channel_moments.hpp"
#include "backends/cpu/conv/rows/operand_rows.hpp"
#include "core/op/op_attrs.hpp"

namespace fusetape::backends::cpu::conv::rows {
namespace {

using norm::MaskFrom;
using plan::NormRoles;

}  // namespace

template <class T>
ResultRows<T>::ResultRows(const plan::Graph& graph, const plan::Convolution& conv, int parts)
    : conv_(conv),
      rows_(pixel_rows(graph, conv.result())),
      parts_(parts),
      changes_(conv.z >= 0 || conv.mask >= 0 || conv.masked_by.present() || conv.sums.present()),
      gradient_rows_(conv.gradient, conv.masked_by.present()) {
  const auto count = static_cast<std::size_t>(parts);
  if (changes_) sums_.resize(count);
  if (!conv.statistics.present()) return;
  moments_.resize(count);
  eps_ = graph.node(conv.statistics.node).attrs.as<core::BatchNormAttrs>().eps;
}

template <class T>
void ResultRows<T>::begin(const KernelArgs& args, ScratchCarver& carver, RoomCarver& rooms) {
  const std::int64_t row = rows_.padded_width();
  float* patterns[3] = {};
  for (float*& pattern : patterns) pattern = carver.take<float>(row);
  const InRooms<std::byte> of_parts = rooms.take<std::byte>(part_bytes());
  for (int part = 0; part < parts_; ++part) {
    ScratchCarver room(of_parts[part]);
    take_part(part, room);
  }
  if (args.values == nullptr) return;
  result_ = args.out<T>(conv_.result());
  const auto fill = [&](float* pattern, auto value) {
    rows_.fill(pattern, value);
    return pattern;
  };
  if (conv_.bias >= 0) {  // (y − 0)·1 + bias
    const float* bias = args.in<float>(conv_.bias);
    bias_.mean[0] = fill(patterns[0], [](std::int64_t) { return 0.0f; });
    bias_.a[0] = fill(patterns[1], [](std::int64_t) { return 1.0f; });
    bias_.beta[0] = fill(patterns[2], [&](std::int64_t c) { return bias[c]; });
  }
  for (norm::PartMoments<T>& moments : moments_) moments.begin(rows_);
  if (!changes_) return;
  gradient_ = {.norms = conv_.sums.present() || conv_.masked_by.present() ? 1 : 0};
  if (conv_.z >= 0) gradient_.g2 = args.in<T>(conv_.z);
  const NormRoles& norm = conv_.masked_by.present() ? conv_.masked_by : conv_.sums;
  if (gradient_.norms == 1) {
    const float* mean = args.in<float>(norm.mean);
    gradient_.x[0] = args.in<T>(norm.x);
    gradient_.mean[0] = fill(patterns[0], [&](std::int64_t c) { return mean[c]; });
  }
  if (conv_.masked_by.present()) {
    const float *gamma = args.in<float>(norm.gamma), *beta = args.in<float>(norm.beta);
    const float* inv_std = args.in<float>(norm.inv_std);
    gradient_.mask = MaskFrom::input;
    gradient_.scale =
        fill(patterns[1], [&](std::int64_t c) { return norm::norm_scale(gamma[c], inv_std[c]); });
    gradient_.beta = fill(patterns[2], [&](std::int64_t c) { return beta[c]; });
  } else if (conv_.mask >= 0) {
    gradient_.mask = MaskFrom::output;
    gradient_.y = args.in<T>(conv_.mask);
  }
  gradient_rows_.begin(conv_.gradient_numbers, args);
  for (PartSums& sums : sums_) {
    norm::NormBackward<T> part = gradient_;
    part.chain_g = sums.chain_g;
    part.chain_gx[0] = sums.chain_gx;
    part.sum_g = sums.sum_g;
    part.sum_gx[0] = sums.sum_gx;
    part.clear_sums(row);
  }
}

template <class T>
void ResultRows<T>::take_part(int part, ScratchCarver& room) {
  const auto at = static_cast<std::size_t>(part);
  const std::int64_t row = rows_.padded_width();
  if (!moments_.empty()) moments_[at].take(room, rows_);
  if (sums_.empty()) return;
  PartSums& sums = sums_[at];
  for (float** each : {&sums.chain_g, &sums.chain_gx}) *each = room.take<float>(row);
  for (double** each : {&sums.sum_g, &sums.sum_gx}) *each = room.take<double>(row);
  sums.room = room.take<T>(gradient_rows_.room(rows_));
}

template <class T>
std::int64_t ResultRows<T>::part_bytes() {
  ScratchCarver counter(nullptr);
  take_part(0, counter);
  return static_cast<std::int64_t>(counter.used());
}

template <class T>
void ResultRows<T>::look_ahead(std::int64_t first, std::int64_t count, Ahead& ahead) const {
  const std::int64_t at = first * rows_.channels();
  for (const T* tensor : {static_cast<const T*>(result_), gradient_.g2, gradient_.y, gradient_.x[0]}) {
    if (tensor != nullptr)
      ahead.add(tensor + at, count * rows_.channels() * static_cast<std::int64_t>(sizeof(T)));
  }
}

template <class T>
void ResultRows<T>::finish(int part, std::int64_t first, std::int64_t count) {
  const std::int64_t at = first * rows_.channels();
  T* const y = result_ + at;
  if (conv_.bias >= 0) {
    norm::NormForward<T> add = bias_;
    add.x[0] = add.y = y;
    for_wide_rows(rows_, count, [&](const RowBlock& block) { apply_norm(block, add); });
  }
  if (!moments_.empty()) {
    norm::PartMoments<T>& moments = moments_[static_cast<std::size_t>(part)];
    for_wide_rows(rows_, count, [&](const RowBlock& block) { moments.add(rows_, block, y); });
  }
  if (!changes_) return;
  const PartSums& sums = sums_[static_cast<std::size_t>(part)];
  norm::NormBackward<T> norm = gradient_;
  norm.g = norm.masked = y;
  if (norm.g2 != nullptr) norm.g2 += at;
  if (norm.y != nullptr) norm.y += at;
  if (norm.norms == 1) norm.x[0] += at;
  norm.chain_g = sums.chain_g;
  norm.chain_gx[0] = sums.chain_gx;
  norm.sum_g = sums.sum_g;
  norm.sum_gx[0] = sums.sum_gx;
  for_wide_rows(rows_, count,
                [&](const RowBlock& block) { gradient_rows_.add_sums(block, norm, sums.room); });
}

template <class T>
void ResultRows<T>::end(const KernelArgs& args) {
  if (conv_.statistics.present()) end_statistics(args);
  if (conv_.sums.present()) end_sums(args);
}

template <class T>
void ResultRows<T>::end_statistics(const KernelArgs& args) {
  const NormRoles& norm = conv_.statistics;
  for (norm::PartMoments<T>& moments : moments_) moments.end(rows_);
  for (std::int64_t c = 0; c < rows_.channels(); ++c) {
    core::Moments all{0, 0, 0};
    for (const norm::PartMoments<T>& moments : moments_) all = joined(all, moments.of(rows_, c));
    if (!std::isfinite(all.square)) all = moments_in_doubles(result_ + c, rows_.rows(), rows_.channels());
    if (norm.mean >= 0) args.out<float>(norm.mean)[c] = static_cast<float>(all.mean);
    if (norm.inv_std >= 0) args.out<float>(norm.inv_std)[c] = norm::inverse_deviation(all.variance(), eps_);
    track(args, norm, c, all);
  }
}

template <class T>
void ResultRows<T>::end_sums(const KernelArgs& args) {
  const NormRoles& norm = conv_.sums;
  const float* inv_std = args.in<float>(norm.inv_std);
  for (std::int64_t c = 0; c < rows_.channels(); ++c) {
    double sum_g = 0, sum_gx = 0;
    for (const PartSums& sums : sums_) {
      for (std::int64_t j = c; j < rows_.width(); j += rows_.channels()) {
        sum_g += sums.sum_g[j];
        sum_gx += sums.sum_gx[j];
      }
    }
    if (norm.dbeta >= 0) args.out<float>(norm.dbeta)[c] = static_cast<float>(sum_g);
    if (norm.dgamma >= 0) args.out<float>(norm.dgamma)[c] = static_cast<float>(sum_gx * inv_std[c]);
  }
}

template class ResultRows<float>;
template class ResultRows<Bf16>;

}  // namespace fusetape::backends::cpu::conv::rows
