#pragma once
#include <utility>
#include <vector>

#include "backends/backend.hpp"
#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

/// Blocks of `each` that cover `count`, at most `most`: kernels go on in strides of the whole grid.
inline std::int64_t blocks_for(std::int64_t count, std::int64_t each, std::int64_t most = 1 << 16) {
  const std::int64_t blocks = (count + each - 1) / each;
  return blocks < 1 ? 1 : (blocks < most ? blocks : most);
}

/// A kernel that queues its work on the device's compute stream.
class DeviceKernel : public Kernel {
 protected:
  DeviceKernel(const plan::Graph& graph, DeviceApi& device) : device_(device) {
    for (const plan::GraphValue& value : graph.values)
      bytes_.push_back(static_cast<std::size_t>(value.bytes()));
  }

  /// All of a value, as its memory is declared.
  Range whole(const KernelArgs& args, int value) const {
    return {args.values[value], bytes_[static_cast<std::size_t>(value)]};
  }

  /// Some elements, as their memory is declared.
  template <class T>
  static Range piece(const T* data, std::int64_t count) {
    return {data, static_cast<std::size_t>(count) * sizeof(T)};
  }

  template <class K>
  void launch(Grid grid, const typename K::Args& arguments, const Access& access) const {
    device_.launch(Stream::compute, {.kernel = &entry_of<K>(), .grid = grid, .args = &arguments}, access);
  }

  DeviceApi& device() const { return device_; }

 private:
  DeviceApi& device_;
  std::vector<std::size_t> bytes_;  ///< by value
};

/// Gives out consecutive pieces of the scratch, each on a boundary of 256 bytes; with a null base it only
/// counts.
class ScratchPieces {
 public:
  explicit ScratchPieces(std::byte* base) : base_(base) {}
  template <class T>
  T* take(std::int64_t count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return piece;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

}  // namespace fusetape::backends::cuda
