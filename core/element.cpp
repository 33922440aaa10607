#include "core/element.hpp"

#include <algorithm>
#include <cstring>

#include "core/reference.hpp"

namespace fusetape::core {

void convert(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t count) {
  if (count == 0) return;  // an empty span may be null
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * size_of(to_dtype));
    return;
  }
  if (from_dtype == DType::i64 && to_dtype == DType::u8) {  // doubles hold neither side's wrap-around
    std::copy_n(static_cast<const std::int64_t*>(from), count, static_cast<std::uint8_t*>(to));
    return;
  }
  constexpr std::int64_t block = 256;
  double doubles[block];
  for (std::int64_t done = 0; done < count; done += block) {
    const std::int64_t n = std::min(block, count - done);
    to_doubles(static_cast<const std::byte*>(from) + static_cast<std::size_t>(done) * size_of(from_dtype),
               from_dtype, n, doubles);
    from_doubles(doubles, to_dtype, n,
                 static_cast<std::byte*>(to) + static_cast<std::size_t>(done) * size_of(to_dtype));
  }
}

}  // namespace fusetape::core
