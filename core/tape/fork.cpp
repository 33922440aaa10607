#include "core/tape/fork.hpp"

#include <pthread.h>

#include <atomic>

#include "core/check.hpp"
#include "core/tape/memory.hpp"

namespace fusetape::core {
namespace {

std::atomic<bool> relied_on_threads{false};
// Written where a process has one thread: in a child.
bool lost = false;
std::uint64_t count = 0;

// Another thread may be inside the pool; in the child nobody would ever leave it.
void before_fork() { host_pool().lock(); }
void after_fork() { host_pool().unlock(); }

void after_fork_in_child() {
  after_fork();
  ++count;
  lost = lost || relied_on_threads;
}

void watch() {
  static const int status = (host_pool(), pthread_atfork(before_fork, after_fork, after_fork_in_child));
  FUSETAPE_ASSERT(status == 0);
}

}  // namespace

std::uint64_t forks() {
  watch();
  return count;
}

void rely_on_threads(Location at) {
  watch();
  if (lost) {
    throw Error("run",
                "expected a process whose threads live, got a child of fork() after a run of its parent: "
                "threads do not survive a fork. Fork before the first run, let the child call exec, or "
                "set_threads(1) in it",
                at);
  }
  relied_on_threads = true;
}

bool threads_lost() { return lost; }

}  // namespace fusetape::core
