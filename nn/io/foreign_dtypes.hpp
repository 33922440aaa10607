#pragma once
#include <cstddef>
#include <string_view>

#include "fusetape/dtype.hpp"

/// Dtypes that safetensors files have and this library has not.
namespace fusetape::io {

struct ForeignType {
  std::string_view name;
  std::size_t bytes;  ///< of an element
  DType becomes;
  /// One element, exactly; false where the number is none of `becomes`.
  bool (*convert)(const std::byte* from, std::byte* to);
};

/// None: this dtype cannot be converted, and the size of its elements is not known.
const ForeignType* foreign_type(std::string_view name);

}  // namespace fusetape::io
