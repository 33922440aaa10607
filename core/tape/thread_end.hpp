#pragma once

/// A thread's own things are destroyed one after the other when it ends; the main thread's, before everything
/// in static storage.
namespace fusetape::core {

/// Whether the first of them is gone: nothing can be recorded on this thread any more.
inline constinit thread_local bool thread_ends = false;

/// A member of each of them.
struct EndsWithThread {
  EndsWithThread() = default;
  ~EndsWithThread() { thread_ends = true; }
  EndsWithThread(const EndsWithThread&) = delete;
  EndsWithThread& operator=(const EndsWithThread&) = delete;
};

}  // namespace fusetape::core
