#include "backends/cuda/faults.hpp"

#include <string>

namespace fusetape::backends::cuda {

Faults::Faults(DeviceApi& device)
    : device_(device),
      place_(static_cast<Fault*>(device.allocate(sizeof(Fault)))),
      seen_(static_cast<Fault*>(device.allocate_pinned(sizeof(Fault)))) {
  device_.clear(Stream::compute, place_, sizeof(Fault));
}

Faults::~Faults() {
  device_.free(place_);
  device_.free_pinned(seen_);
}

unsigned Faults::add(Describe describe) {
  const std::lock_guard lock(mutex_);
  sites_[++last_site_] = std::move(describe);
  return last_site_;
}

void Faults::remove(unsigned site) {
  const std::lock_guard lock(mutex_);
  sites_.erase(site);
}

void Faults::check_after(const std::function<void()>& wait) {
  const std::lock_guard lock(mutex_);
  if (sites_.empty()) return wait();
  device_.download(Stream::compute, seen_, place_, sizeof(Fault));
  wait();
  if (seen_->site == 0) return;
  const Fault fault = *seen_;
  device_.clear(Stream::compute, place_, sizeof(Fault));
  const auto found = sites_.find(fault.site);
  if (found != sites_.end()) throw found->second(fault);
  throw Error("cuda", "a kernel of a plan that is gone found fault with row " + std::to_string(fault.row));
}

}  // namespace fusetape::backends::cuda
