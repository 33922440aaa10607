#include "backends/cpu/conv/rows/operand_rows.hpp"

#include "core/op/op_list.hpp"

namespace fusetape::backends::cpu::conv::rows {

using plan::NormRoles;

template <class T>
OperandRows<T>::OperandRows(const plan::Graph& graph, const plan::Group& group, int value,
                            const plan::Prologue& prologue)
    : value_(value),
      prologue_(prologue),
      rows_(pixel_rows(graph, value)),
      is_made_(prologue.present()),
      written_(is_made_ && group.writes(value)) {
  const core::OpDef* activation = prologue.activation;
  const bool alone = prologue.norms == 1 && prologue.z < 0;
  if (activation != nullptr && activation != &ops::relu_op && alone)
    in_registers_ = norm::activation_rows<T>(*activation).forward;
}

template <class T>
void OperandRows<T>::begin(const KernelArgs& args, ScratchCarver& carver) {
  const std::int64_t row = rows_.padded_width();
  float* patterns[6];
  for (float*& pattern : patterns) pattern = is_made_ ? carver.take<float>(row) : nullptr;
  if (args.values == nullptr) return;
  if (!is_made_) {
    plain_ = args.in<T>(value_);
    return;
  }
  written_to_ = written_ ? args.out<T>(value_) : nullptr;
  const auto fill = [&](float* pattern, auto value) {
    rows_.fill(pattern, value);
    return pattern;
  };
  if (prologue_.g >= 0) {
    const NormRoles& norm = prologue_.norm[0];
    const float *gamma = args.in<float>(norm.gamma), *inv_std = args.in<float>(norm.inv_std),
                *dgamma = args.in<float>(norm.dgamma), *dbeta = args.in<float>(norm.dbeta),
                *mean = args.in<float>(norm.mean);
    const auto dx = [&](std::int64_t c) {
      return norm::norm_gradient(gamma[c], inv_std[c], dbeta[c], dgamma[c],
                                 static_cast<double>(rows_.rows()));
    };
    gradient_ = {.g = args.in<T>(prologue_.g)};
    gradient_.x[0] = args.in<T>(norm.x);
    gradient_.mean[0] = fill(patterns[0], [&](std::int64_t c) { return mean[c]; });
    gradient_.a[0] = fill(patterns[1], [&](std::int64_t c) { return dx(c).a; });
    gradient_.b[0] = fill(patterns[2], [&](std::int64_t c) { return dx(c).b; });
    gradient_.c[0] = fill(patterns[3], [&](std::int64_t c) { return dx(c).c; });
    return;
  }
  forward_ = {.norms = prologue_.norms, .relu = prologue_.activation == &ops::relu_op};
  for (int i = 0; i < prologue_.norms; ++i) {
    const NormRoles& norm = prologue_.norm[i];
    const float *gamma = args.in<float>(norm.gamma), *inv_std = args.in<float>(norm.inv_std);
    const float *mean = args.in<float>(norm.mean), *beta = args.in<float>(norm.beta);
    forward_.x[i] = args.in<T>(norm.x);
    forward_.mean[i] = fill(patterns[3 * i], [&](std::int64_t c) { return mean[c]; });
    forward_.a[i] =
        fill(patterns[3 * i + 1], [&](std::int64_t c) { return norm::norm_scale(gamma[c], inv_std[c]); });
    forward_.beta[i] = fill(patterns[3 * i + 2], [&](std::int64_t c) { return beta[c]; });
  }
  if (prologue_.z >= 0) forward_.z = args.in<T>(prologue_.z);
  activation_ = norm::activation_of(prologue_.activation, prologue_.numbers, args);
}

template <class T>
std::int64_t OperandRows<T>::room(std::int64_t pixels) const {
  if (std::is_same_v<T, float> && !is_made_) return 0;
  return pixels * channels() * (std::is_same_v<T, float> ? 1 : 2);
}

template <class T>
void OperandRows<T>::look_ahead(std::int64_t first, std::int64_t count, Ahead& ahead) const {
  const std::int64_t at = first * channels();
  for (const T* tensor : {plain_, forward_.x[0], forward_.x[1], forward_.z, gradient_.g, gradient_.x[0],
                          static_cast<const T*>(written_to_)}) {
    if (tensor != nullptr) ahead.add(tensor + at, count * channels() * static_cast<std::int64_t>(sizeof(T)));
  }
}

template <class T>
const float* OperandRows<T>::read(std::int64_t first, std::int64_t count, float* room) const {
  const std::int64_t at = first * channels(), elements = count * channels();
  const T* pixels = nullptr;
  if (is_made_) {
    T* own = reinterpret_cast<T*>(room);
    if constexpr (std::is_same_v<T, Bf16>) own = reinterpret_cast<T*>(room + elements);
    T* const to = written_ ? written_to_ + at : own;
    make(first, count, to);
    pixels = to;
  } else {
    pixels = plain_ + at;
  }
  if constexpr (std::is_same_v<T, float>) {
    return pixels;
  } else {
    load_block(DType::bf16, pixels, room, static_cast<std::size_t>(elements));
    return room;
  }
}

template <class T>
void OperandRows<T>::make(std::int64_t first, std::int64_t count, T* to) const {
  const std::int64_t at = first * channels();
  if (prologue_.g >= 0) {
    norm::NormBackward<T> dx = gradient_;
    dx.g += at;
    dx.x[0] += at;
    dx.dx[0] = to;
    return for_wide_rows(rows_, count, [&](const RowBlock& block) { apply_norm_gradient(block, dx); });
  }
  norm::NormForward<T> norm = forward_;
  for (int i = 0; i < norm.norms; ++i) norm.x[i] += at;
  if (norm.z != nullptr) norm.z += at;
  norm.y = to;
  for_wide_rows(rows_, count, [&](const RowBlock& block) {
    if (in_registers_ != nullptr) return in_registers_(block, norm, activation_.numbers);
    apply_norm(block, norm);
    if (activation_.function == nullptr || norm.relu) return;
    T* const y = norm.y + block.offset;
    activate(activation_, y, nullptr, y, block.rows * block.width);
  });
}

template class OperandRows<float>;
template class OperandRows<Bf16>;

}  // namespace fusetape::backends::cpu::conv::rows
