#pragma once
#include <cstddef>
#include <utility>

#include "core/check.hpp"

namespace fusetape::core {

/// A vector whose first N elements need no allocation. For the short lists of recording: inputs, outputs,
/// infos.
template <class T, std::size_t N>
class InlineVector {
 public:
  InlineVector() = default;
  InlineVector(InlineVector&& other) noexcept { steal(other); }
  InlineVector& operator=(InlineVector&& other) noexcept {
    if (this != &other) {
      clear();
      steal(other);
    }
    return *this;
  }
  InlineVector(const InlineVector&) = delete;
  InlineVector& operator=(const InlineVector&) = delete;
  ~InlineVector() { clear(); }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }

  void push_back(T value) {
    if (size_ == capacity_) grow();
    ::new (static_cast<void*>(data_ + size_)) T(std::move(value));
    ++size_;
  }
  void clear() {
    for (std::size_t i = 0; i < size_; ++i) data_[i].~T();
    if (data_ != local()) ::operator delete(static_cast<void*>(data_));
    data_ = local();
    size_ = 0;
    capacity_ = N;
  }

 private:
  T* local() { return reinterpret_cast<T*>(storage_); }
  void grow() {
    const std::size_t capacity = 2 * capacity_;
    T* data = static_cast<T*>(::operator new(capacity * sizeof(T)));
    for (std::size_t i = 0; i < size_; ++i) {
      ::new (static_cast<void*>(data + i)) T(std::move(data_[i]));
      data_[i].~T();
    }
    if (data_ != local()) ::operator delete(static_cast<void*>(data_));
    data_ = data;
    capacity_ = capacity;
  }
  void steal(InlineVector& other) {
    for (T& value : other) push_back(std::move(value));
    other.clear();
  }

  alignas(T) std::byte storage_[N * sizeof(T)];
  T* data_ = local();
  std::size_t size_ = 0;
  std::size_t capacity_ = N;
};

}  // namespace fusetape::core
