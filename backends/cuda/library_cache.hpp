#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

/// The operations of a device's libraries, each built once: to build one is slow, and is also how to find out
/// whether there is one. Bounded: beyond `most` of a kind, those that no kernel holds are let go.
class LibraryCache {
 public:
  /// Null where the library refused, with what it said; for want of memory, it is asked again the next time.
  struct Built {
    std::shared_ptr<LibraryOperation> operation;
    std::string refusal;
  };
  static constexpr std::size_t most = 1024;

  explicit LibraryCache(DeviceApi& device) : device_(device) {}
  Built find(const ConvolutionSpec& spec);
  Built find(const ProductSpec& spec);

 private:
  template <class Spec>
  using Shelf = std::vector<std::pair<Spec, Built>>;
  template <class Spec, class Build>
  Built find_on(Shelf<Spec>& shelf, const Spec& spec, Build build);

  DeviceApi& device_;
  std::mutex mutex_;
  Shelf<ConvolutionSpec> convolutions_;
  Shelf<ProductSpec> products_;
};

}  // namespace fusetape::backends::cuda
