#include "backends/cuda/faults.hpp"

#include <algorithm>
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
  note_lost_runs();
  const auto found = sites_.find(fault.site);
  if (found != sites_.end()) throw found->second(fault);
  throw Error("cuda", "a kernel of a plan that is gone found fault with row " + std::to_string(fault.row));
}

/// From the first pending run that saw the fault on, every one did.
void Faults::note_lost_runs() {
  std::uint64_t first = last_run_;
  for (Look& run : runs_) {
    if (run.pending) device_.synchronize(run.done);
    if (run.run != 0 && run.seen->site != 0) first = std::min(first, run.run);
    run.pending = false;
    run.seen->site = 0;
  }
  lost_.push_back({first, last_run_});
}

std::uint64_t Faults::last_run() {
  const std::lock_guard lock(mutex_);
  return last_run_;
}

bool Faults::took_back(std::uint64_t run) {
  const std::lock_guard lock(mutex_);
  return std::any_of(lost_.begin(), lost_.end(),
                     [run](const Lost& lost) { return run >= lost.first && run <= lost.last; });
}

void Faults::check_after(const std::function<void()>& wait) {
  const std::lock_guard lock(mutex_);
  queue_look(now_);
  wait();
  throw_if_noted(now_);
}

void Faults::begin_run() {
  const std::lock_guard lock(mutex_);
  Look& before = runs_[(last_run_ + 1) % 2];
  if (!before.pending) return;
  device_.synchronize(before.done);
  before.pending = false;
  throw_if_noted(before);
}

void Faults::end_run() {
  const std::lock_guard lock(mutex_);
  Look& look = runs_[++last_run_ % 2];
  look.run = last_run_;
  queue_look(look);
}

}  // namespace fusetape::backends::cuda
