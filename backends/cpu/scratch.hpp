#pragma once
#include <cstddef>
#include <cstdint>

#include "core/plan/backend.hpp"

/// Pieces of a kernel's scratch, and of each thread's room.
namespace fusetape::backends::cpu {

/// Hands out pieces of a kernel's scratch, each on its own cache lines. On a null base it only counts.
class ScratchCarver {
 public:
  explicit ScratchCarver(std::byte* base) : base_(base) {}

  template <class T>
  T* take(std::int64_t count) {
    const std::size_t at = used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

/// What each thread has at one place of its room.
template <class T>
class InRooms {
 public:
  InRooms() = default;
  InRooms(plan::Rooms rooms, std::size_t at) : rooms_(rooms), at_(at) {}
  T* operator[](int part) const {
    std::byte* const room = rooms_[part];
    return room == nullptr ? nullptr : reinterpret_cast<T*>(room + at_);
  }

 private:
  plan::Rooms rooms_;
  std::size_t at_ = 0;
};

/// Hands out the same pieces of every thread's room, each on its own cache lines. Without rooms it only
/// counts.
class RoomCarver {
 public:
  explicit RoomCarver(plan::Rooms rooms) : rooms_(rooms) {}

  template <class T>
  InRooms<T> take(std::int64_t count) {
    const std::size_t at = used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return {rooms_, at};
  }
  std::size_t used() const { return used_; }

 private:
  plan::Rooms rooms_;
  std::size_t used_ = 0;
};

}  // namespace fusetape::backends::cpu
