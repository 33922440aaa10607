#pragma once
#include <cstdint>

#include "fusetape/error.hpp"

/// fork(): of a process's threads the child has only the one that called it. OpenMP's pool and a device's
/// driver would wait in the child for ever for those that it has not.
namespace fusetape::core {

/// From how many fork() calls this process descends, counted since the library was first used.
std::uint64_t forks();

/// Before a run that takes more than this thread. Throws where threads_lost().
void rely_on_threads(Location at);
/// Whether a process that this one was forked from had relied on its threads.
bool threads_lost();

}  // namespace fusetape::core
