#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace fusetape::plan {
class Backend;
}

namespace fusetape::core {

class Pool;

/// Storage of values that outlive a run. Shared by a value and its views; goes back to its pool with the last
/// reference.
struct Buffer {
  std::atomic<std::uint32_t> refs{0};
  void* data = nullptr;
  std::size_t bytes = 0;  ///< of the size class
  Pool* pool = nullptr;
};

class BufferRef {
 public:
  BufferRef() = default;
  explicit BufferRef(Buffer* buffer) : buffer_(buffer) { acquire(); }
  BufferRef(const BufferRef& other) : buffer_(other.buffer_) { acquire(); }
  BufferRef(BufferRef&& other) noexcept : buffer_(std::exchange(other.buffer_, nullptr)) {}
  BufferRef& operator=(BufferRef other) noexcept {
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~BufferRef() { reset(); }

  /// Takes over a reference that somebody counted; null: none.
  static BufferRef adopt(Buffer* counted) {
    BufferRef reference;
    reference.buffer_ = counted;
    return reference;
  }
  /// Hands the reference over, to be adopted again.
  Buffer* release() { return std::exchange(buffer_, nullptr); }

  void reset();
  Buffer* get() const { return buffer_; }
  void* data() const { return buffer_ != nullptr ? buffer_->data : nullptr; }
  bool exclusive() const { return buffer_ != nullptr && buffer_->refs.load(std::memory_order_acquire) == 1; }
  explicit operator bool() const { return buffer_ != nullptr; }

 private:
  void acquire() {
    if (buffer_ != nullptr) buffer_->refs.fetch_add(1, std::memory_order_relaxed);
  }
  Buffer* buffer_ = nullptr;
};

struct PoolStats {
  std::int64_t used_bytes = 0, cached_bytes = 0, system_allocations = 0;
};

/// A backend's buffers by size class; freed ones are kept for reuse. Thread-safe.
class Pool {
 public:
  explicit Pool(plan::Backend& backend) : backend_(backend) {}
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  /// The buffer whose data is at `preferred`, where that waits for reuse.
  BufferRef allocate(std::size_t bytes, const void* preferred = nullptr);
  /// Gives the buffers of this size that wait for reuse back to the system.
  void trim(std::size_t bytes);
  PoolStats stats() const;
  plan::Backend& backend() const { return backend_; }
  // Nobody else comes in between: around a fork().
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  friend class BufferRef;
  void give_back(Buffer* buffer);
  void* allocate_from_system(std::size_t bytes);
  void free_all(std::vector<Buffer*>& buffers);

  plan::Backend& backend_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<Buffer*>> free_;  ///< by size class
  PoolStats stats_;
};

/// The pool of host memory (cpu, reference and null share it).
Pool& host_pool();
/// The pool of a backend's memory: host_pool() where that is the host's.
Pool& pool_of(plan::Backend& backend);

}  // namespace fusetape::core
