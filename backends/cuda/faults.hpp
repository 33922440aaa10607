#pragma once
#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "backends/cuda/device_api.hpp"
#include "backends/cuda/kernels/fault.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {

/// Turns what kernels found wrong in their data into Errors: when the host waits for them, and at the latest
/// before the next run but one. Until then the fault stays on the device, and the updates of that run and of
/// the one queued behind it leave what they update as it was.
class Faults {
 public:
  using Describe = std::function<Error(const Fault&)>;

  explicit Faults(DeviceApi& device);
  ~Faults();
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;

  /// A kernel's number for note_fault.
  unsigned add(Describe describe);
  void remove(unsigned site);
  /// On the device.
  Fault* place() const { return place_; }

  /// Calls `wait`, which waits for the compute stream, and throws what a kernel noted before.
  void check_after(const std::function<void()>& wait);
  /// Waits for the run before the last, and throws what one of its kernels noted: the host is at most a run
  /// ahead of the device.
  void begin_run();
  /// A run has been queued.
  void end_run();
  /// Its number.
  std::uint64_t last_run();
  /// Whether that run, or one before it that the host did not know of yet, noted a fault.
  bool took_back(std::uint64_t run);

 private:
  /// What was noted when a run was done.
  struct Look {
    Fault* seen = nullptr;  ///< pinned
    Event done = -1;
    bool pending = false;
    std::uint64_t run = 0;
  };
  /// Runs, both inclusive, whose updates saw a fault.
  struct Lost {
    std::uint64_t first = 0, last = 0;
  };
  void queue_look(Look& look);
  void throw_if_noted(const Look& look);
  void note_lost_runs();

  DeviceApi& device_;
  std::mutex mutex_;
  Fault* place_;  ///< on the device
  Look now_;
  std::array<Look, 2> runs_;  ///< the last and the one before
  std::uint64_t last_run_ = 0;
  std::vector<Lost> lost_;
  std::map<unsigned, Describe> sites_;
  unsigned last_site_ = 0;
};

/// A kernel that notes faults, or leaves things as they were where one is noted; the backend says where.
class NotesFaults {
 public:
  virtual ~NotesFaults() = default;
  virtual void note_to(std::shared_ptr<Faults> faults) = 0;
};

}  // namespace fusetape::backends::cuda
