#pragma once
#include <algorithm>
#include <vector>

#include "backends/cuda/device_api.hpp"
#include "backends/cuda/kernels/tensor_list.hpp"

namespace fusetape::backends::cuda {

/// The launches of kernel K over many tensors, as many in each as there is room for.
template <class K>
class TensorList {
 public:
  struct Part {
    typename K::Args args;
    std::int64_t blocks = 0;
    Access access;
  };

  /// `args` and `access`: what every launch has beside its tensors.
  TensorList(const typename K::Args& args, const Access& access) : empty_{.args = args, .access = access} {}

  /// `entry_from(i)` has the tensor's pointers from element i on; `access` is what the kernel does with all
  /// of it.
  template <class EntryFrom>
  void add(std::int64_t elements, const Access& access, EntryFrom entry_from) {
    for (std::int64_t first = 0; first < elements; first += elements_per_entry) {
      if (parts_.empty() || parts_.back().args.count == K::most) parts_.push_back(empty_);
      Part& part = parts_.back();
      const std::int64_t count = std::min(elements - first, elements_per_entry);
      typename K::Entry& entry = part.args.tensors[part.args.count++];
      entry = entry_from(first);
      entry.at = {static_cast<std::uint32_t>(count), static_cast<std::uint32_t>(part.blocks)};
      part.blocks += (count + elements_per_block - 1) / elements_per_block;
      part.access.reads.insert(part.access.reads.end(), access.reads.begin(), access.reads.end());
      part.access.writes.insert(part.access.writes.end(), access.writes.begin(), access.writes.end());
    }
  }

  std::vector<Part>& parts() { return parts_; }

 private:
  Part empty_;
  std::vector<Part> parts_;
};

}  // namespace fusetape::backends::cuda
