#pragma once
#include <cstddef>
#include <mutex>
#include <vector>

#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

/// Pinned memory through which bytes go to the device and come back. An upload returns once the bytes are in
/// it.
///
/// What is small (scalars) goes through the compute stream. What is large (the next batch) goes beside it, to
/// a landing place on the device, while the kernels of the last run are still at work, and waits there for
/// its turn: the compute stream moves it to its place. Slots take turns; there are as many as two of the
/// largest uploads so far need, so that the host may be two of them ahead.
class Staging {
 public:
  /// An upload beyond half of what so many large slots hold waits for the run that is at work.
  static constexpr std::size_t large_slot_bytes = std::size_t{4} << 20, most_large_slots = 32;

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
    std::byte* landing = nullptr;  ///< on the device; of large slots
    Event arrived = -1;            ///< the landing place is full
    Event done = -1;               ///< the slot's bytes are where they belong
    bool used = false;
  };
  struct Ring {
    std::size_t slot_bytes = 0;
    std::vector<Slot> slots;
    std::size_t turn = 0;
  };
  void add_slot(Ring& ring, bool with_landing);
  void make_room(std::size_t bytes);
  Slot& next_slot(Ring& ring) const;

  DeviceApi& device_;
  std::mutex mutex_;
  std::size_t refused_slots_ = 0;  ///< so many were asked for in vain: not again in each step
  Ring small_{.slot_bytes = std::size_t{64} << 10};
  Ring large_{.slot_bytes = large_slot_bytes};
};

}  // namespace fusetape::backends::cuda
