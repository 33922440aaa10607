#pragma once
#include <cstddef>
#include <utility>

#include "core/tape/value.hpp"
#include "fusetape/runtime.hpp"
#include "fusetape/tensor.hpp"

/// The bytes of tensors of any dtype.
namespace fusetape::io {

/// Runs what is pending; valid while the tensor lives.
inline const std::byte* bytes_of(const Tensor& tensor, Location at) {
  if (tensor.pending()) materialize({tensor}, at);
  if (tensor.value()->state != core::State::ready) {
    throw Error("save", "a tensor has no data: it was lost in a failed run, or nothing computed it", at);
  }
  return static_cast<const std::byte*>(core::host_data(*tensor.value()));
}

inline std::size_t byte_count(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.elements()) * size_of(tensor.dtype());
}

/// A tensor whose bytes the caller writes before anybody reads it.
inline std::pair<Tensor, std::byte*> unwritten_tensor(const Shape& shape, DType dtype, Location at) {
  void* data = nullptr;
  Tensor tensor = core::make_leaf(shape, dtype, &data, at);
  return {std::move(tensor), static_cast<std::byte*>(data)};
}

}  // namespace fusetape::io
