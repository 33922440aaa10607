#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

/// What is slow to build on a device, each built once: operations of its libraries, and programs. To build an
/// operation is also how to find out whether there is one. Bounded: beyond `most` of a kind, those that no
/// kernel holds are let go, when nothing that is queued may need them. (A plan frees its graphs before its
/// kernels.)
class LibraryCache {
 public:
  /// Null where the library refused, with what it said. For want of memory `find` throws, and asks again the
  /// next time.
  struct Built {
    std::shared_ptr<LibraryOperation> operation;
    std::string refusal;
  };
  using Program = std::shared_ptr<const KernelEntry>;
  static constexpr std::size_t most = 1024;

  explicit LibraryCache(DeviceApi& device) : device_(device) {}
  Built find(const ConvolutionSpec& spec);
  Built find(const ProductSpec& spec);
  /// Sources with one text are one. Throws what the compiler says.
  Program find(const ProgramSource& source);

 private:
  template <class Key, class Thing>
  using Shelf = std::vector<std::pair<Key, Thing>>;
  template <class Key, class Thing, class Build>
  Thing find_on(Shelf<Key, Thing>& shelf, const Key& key, Build build);
  template <class Spec, class Build>
  Built find_operation(Shelf<Spec, Built>& shelf, const Spec& spec, Build build);

  DeviceApi& device_;
  std::mutex mutex_;
  Shelf<ConvolutionSpec, Built> convolutions_;
  Shelf<ProductSpec, Built> products_;
  Shelf<std::string, Program> programs_;
};

}  // namespace fusetape::backends::cuda
