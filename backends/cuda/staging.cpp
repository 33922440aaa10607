#include "backends/cuda/staging.hpp"

#include <algorithm>
#include <cstring>

namespace fusetape::backends::cuda {

Staging::Staging(DeviceApi& device) : device_(device) {
  for (Slot& slot : slots_) {
    slot.pinned = static_cast<std::byte*>(device_.allocate_pinned(slot_bytes));
    slot.done = device_.make_event();
  }
}

Staging::~Staging() {
  for (Slot& slot : slots_) device_.free_pinned(slot.pinned);
}

/// The slot whose turn it is, when its last copy is done.
Staging::Slot& Staging::next_slot() {
  Slot& slot = slots_[turn_++ % slots_.size()];
  if (slot.used) device_.synchronize(slot.done);
  slot.used = true;
  return slot;
}

void Staging::upload(void* to, const void* from, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  for (std::size_t at = 0; at < bytes; at += slot_bytes) {
    const std::size_t count = std::min(slot_bytes, bytes - at);
    Slot& slot = next_slot();
    std::memcpy(slot.pinned, static_cast<const std::byte*>(from) + at, count);
    device_.upload(Stream::compute, static_cast<std::byte*>(to) + at, slot.pinned, count);
    device_.record(slot.done, Stream::compute);
  }
}

void Staging::download(void* to, const void* from, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  for (std::size_t at = 0; at < bytes; at += slot_bytes) {
    const std::size_t count = std::min(slot_bytes, bytes - at);
    Slot& slot = next_slot();
    device_.download(Stream::compute, slot.pinned, static_cast<const std::byte*>(from) + at, count);
    device_.record(slot.done, Stream::compute);
    device_.synchronize(slot.done);
    std::memcpy(static_cast<std::byte*>(to) + at, slot.pinned, count);
  }
}

}  // namespace fusetape::backends::cuda
