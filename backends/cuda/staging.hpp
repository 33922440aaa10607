#pragma once
#include <array>
#include <cstddef>
#include <mutex>

#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

/// Pinned memory through which bytes go to the device and come back. An upload returns once the bytes are in
/// it: two slots, so that one is filled while the other is copied.
class Staging {
 public:
  static constexpr std::size_t slot_bytes = std::size_t{4} << 20;

  explicit Staging(DeviceApi& device);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void upload(void* to, const void* from, std::size_t bytes);
  /// Waits for all work before it, and for itself.
  void download(void* to, const void* from, std::size_t bytes);

 private:
  struct Slot {
    std::byte* pinned = nullptr;
    Event done = -1;  ///< its last copy
    bool used = false;
  };
  Slot& next_slot();

  DeviceApi& device_;
  std::mutex mutex_;
  std::array<Slot, 2> slots_;
  std::size_t turn_ = 0;
};

}  // namespace fusetape::backends::cuda
