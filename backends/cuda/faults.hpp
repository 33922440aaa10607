#pragma once
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "backends/cuda/device_api.hpp"
#include "backends/cuda/kernels/fault.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {

/// Turns what kernels found wrong in their data into Errors, when the host waits for them anyway.
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

 private:
  DeviceApi& device_;
  std::mutex mutex_;
  Fault *place_, *seen_;  ///< on the device; pinned
  std::map<unsigned, Describe> sites_;
  unsigned last_site_ = 0;
};

/// A kernel that notes faults; the backend says where.
class NotesFaults {
 public:
  virtual ~NotesFaults() = default;
  virtual void note_to(std::shared_ptr<Faults> faults) = 0;
};

}  // namespace fusetape::backends::cuda
