#include "backends/cuda/faults.hpp"

#include <string>

namespace fusetape::backends::cuda {

Faults::Faults(DeviceApi& device)
    : device_(device), place_(static_cast<Fault*>(device.allocate(sizeof(Fault)))) {
  device_.clear(Stream::compute, place_, sizeof(Fault));
  for (Look* look : {&now_, &runs_[0], &runs_[1]}) {
    look->seen = static_cast<Fault*>(device_.allocate_pinned(sizeof(Fault)));
    look->done = device_.make_event();
  }
}

Faults::~Faults() {
  device_.free(place_);
  for (const Look* look : {&now_, &runs_[0], &runs_[1]}) device_.free_pinned(look->seen);
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

void Faults::queue_look(Look& look) {
  device_.download(Stream::compute, look.seen, place_, sizeof(Fault));
  device_.record(look.done, Stream::compute);
  look.pending = true;
}

void Faults::throw_if_noted(const Look& look) {
  if (look.seen->site == 0) return;
  const Fault fault = *look.seen;
  // Noted once: what is queued since has seen it, too.
  device_.clear(Stream::compute, place_, sizeof(Fault));
  for (Look& run : runs_) run.pending = false;
  const auto found = sites_.find(fault.site);
  if (found != sites_.end()) throw found->second(fault);
  throw Error("cuda", "a kernel of a plan that is gone found fault with row " + std::to_string(fault.row));
}

void Faults::check_after(const std::function<void()>& wait) {
  const std::lock_guard lock(mutex_);
  queue_look(now_);
  wait();
  throw_if_noted(now_);
}

void Faults::begin_run() {
  const std::lock_guard lock(mutex_);
  Look& before = runs_[turn_ % 2];
  if (!before.pending) return;
  device_.synchronize(before.done);
  before.pending = false;
  throw_if_noted(before);
}

void Faults::end_run() {
  const std::lock_guard lock(mutex_);
  queue_look(runs_[turn_++ % 2]);
}

}  // namespace fusetape::backends::cuda
