#include "backends/cuda/staging.hpp"

#include <algorithm>
#include <cstring>

#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {

Staging::Staging(DeviceApi& device) : device_(device) {
  for (int i = 0; i < 16; ++i) add_slot(small_, false);
  for (int i = 0; i < 2; ++i) add_slot(large_, true);
}

Staging::~Staging() {
  for (const Ring* ring : {&small_, &large_}) {
    for (const Slot& slot : ring->slots) {
      device_.free_pinned(slot.pinned);
      if (slot.landing != nullptr) device_.free(slot.landing);
    }
  }
}

void Staging::add_slot(Ring& ring, bool with_landing) {
  Slot slot;
  if (with_landing) slot.landing = static_cast<std::byte*>(device_.allocate(ring.slot_bytes));
  try {
    slot.pinned = static_cast<std::byte*>(device_.allocate_pinned(ring.slot_bytes));
    slot.arrived = device_.make_event();
    slot.done = device_.make_event();
    ring.slots.push_back(slot);
  } catch (...) {
    if (slot.pinned != nullptr) device_.free_pinned(slot.pinned);
    if (with_landing) device_.free(slot.landing);
    throw;
  }
}

void Staging::make_room(std::size_t bytes) {
  const std::size_t parts = (bytes + large_.slot_bytes - 1) / large_.slot_bytes;
  const std::size_t wanted = std::min(2 * parts, most_large_slots);
  if (wanted <= refused_slots_) return;
  try {
    while (large_.slots.size() < wanted) add_slot(large_, true);
  } catch (const Error&) {
    refused_slots_ = wanted;  // those that there are take turns more often
  }
}

/// The slot whose turn it is, once nobody needs what is in it.
Staging::Slot& Staging::next_slot(Ring& ring) const {
  Slot& slot = ring.slots[ring.turn++ % ring.slots.size()];
  if (slot.used) device_.synchronize(slot.done);
  slot.used = true;
  return slot;
}

void Staging::upload(void* to, const void* from, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > small_.slot_bytes) make_room(bytes);
  Ring& ring = bytes <= small_.slot_bytes ? small_ : large_;
  for (std::size_t at = 0; at < bytes; at += ring.slot_bytes) {
    const std::size_t count = std::min(ring.slot_bytes, bytes - at);
    std::byte* const target = static_cast<std::byte*>(to) + at;
    Slot& slot = next_slot(ring);
    std::memcpy(slot.pinned, static_cast<const std::byte*>(from) + at, count);
    if (slot.landing == nullptr) {
      device_.upload(Stream::compute, target, slot.pinned, count);
    } else {
      device_.upload(Stream::copies, slot.landing, slot.pinned, count);
      device_.record(slot.arrived, Stream::copies);
      device_.wait(Stream::compute, slot.arrived);
      device_.copy(Stream::compute, target, slot.landing, count);
    }
    device_.record(slot.done, Stream::compute);
  }
}

void Staging::download(void* to, const void* from, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  for (std::size_t at = 0; at < bytes; at += large_.slot_bytes) {
    const std::size_t count = std::min(large_.slot_bytes, bytes - at);
    Slot& slot = next_slot(large_);
    device_.download(Stream::compute, slot.pinned, static_cast<const std::byte*>(from) + at, count);
    device_.record(slot.done, Stream::compute);
    device_.synchronize(slot.done);
    std::memcpy(static_cast<std::byte*>(to) + at, slot.pinned, count);
  }
}

}  // namespace fusetape::backends::cuda
