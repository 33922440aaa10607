#include "core/tape/memory.hpp"

#include <algorithm>
#include <bit>

#include "core/plan/backend.hpp"

namespace fusetape::core {
namespace {

/// Eight classes per power of two: at most an eighth is wasted, and buffers of nearly equal sizes are reused.
std::size_t size_class(std::size_t bytes) {
  if (bytes <= 512) return (bytes + 63) / 64 * 64 + (bytes == 0 ? 64 : 0);
  const std::size_t step = std::max<std::size_t>(64, std::bit_floor(bytes - 1) / 8);
  return (bytes + step - 1) / step * step;
}

}  // namespace

void BufferRef::reset() {
  if (buffer_ != nullptr && buffer_->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    buffer_->pool->give_back(buffer_);
  }
  buffer_ = nullptr;
}

Pool::~Pool() {
  for (auto& [bytes, buffers] : free_) free_all(buffers);
}

void Pool::free_all(std::vector<Buffer*>& buffers) {
  for (Buffer* buffer : buffers) {
    backend_.free(buffer->data, buffer->bytes);
    stats_.cached_bytes -= static_cast<std::int64_t>(buffer->bytes);
    delete buffer;
  }
  buffers.clear();
}

/// Freed without our lock: a device may have to wait for its turn, and whoever has that may wait for us.
void Pool::trim(std::size_t bytes) {
  std::vector<Buffer*> buffers;
  {
    const std::lock_guard lock(mutex_);
    buffers.swap(free_[size_class(bytes)]);
    for (const Buffer* buffer : buffers) stats_.cached_bytes -= static_cast<std::int64_t>(buffer->bytes);
  }
  for (Buffer* buffer : buffers) {
    backend_.free(buffer->data, buffer->bytes);
    delete buffer;
  }
}

/// With what waits for reuse given up, where there is too little otherwise.
void* Pool::allocate_from_system(std::size_t bytes) {
  try {
    return backend_.allocate(bytes);
  } catch (const Error&) {
    for (auto& [size, buffers] : free_) free_all(buffers);
    return backend_.allocate(bytes);
  }
}

BufferRef Pool::allocate(std::size_t bytes, const void* preferred) {
  const std::size_t size = size_class(bytes);
  const std::lock_guard lock(mutex_);
  std::vector<Buffer*>& bin = free_[size];
  if (!bin.empty()) {
    if (preferred != nullptr) {
      const auto found =
          std::find_if(bin.begin(), bin.end(), [&](const Buffer* b) { return b->data == preferred; });
      if (found != bin.end()) std::iter_swap(found, bin.end() - 1);
    }
    Buffer* buffer = bin.back();
    bin.pop_back();
    stats_.cached_bytes -= static_cast<std::int64_t>(size);
    stats_.used_bytes += static_cast<std::int64_t>(size);
    return BufferRef(buffer);
  }
  auto* buffer = new Buffer;
  try {
    buffer->data = allocate_from_system(size);
  } catch (...) {
    delete buffer;
    throw;
  }
  buffer->bytes = size;
  buffer->pool = this;
  ++stats_.system_allocations;
  stats_.used_bytes += static_cast<std::int64_t>(size);
  return BufferRef(buffer);
}

void Pool::give_back(Buffer* buffer) {
  const std::lock_guard lock(mutex_);
  stats_.used_bytes -= static_cast<std::int64_t>(buffer->bytes);
  stats_.cached_bytes += static_cast<std::int64_t>(buffer->bytes);
  free_[buffer->bytes].push_back(buffer);
}

PoolStats Pool::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace fusetape::core
