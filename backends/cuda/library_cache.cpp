#include "backends/cuda/library_cache.hpp"

#include <algorithm>

#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {

template <class Spec, class Build>
LibraryCache::Built LibraryCache::find_on(Shelf<Spec>& shelf, const Spec& spec, Build build) {
  const std::lock_guard lock(mutex_);
  const auto known =
      std::find_if(shelf.begin(), shelf.end(), [&](const auto& entry) { return entry.first == spec; });
  if (known != shelf.end()) return known->second;
  if (shelf.size() >= most) {
    std::erase_if(shelf, [](const auto& entry) { return entry.second.operation.use_count() <= 1; });
  }
  Built built;
  try {
    built.operation = build();
  } catch (const OutOfMemory& error) {  // says nothing of the spec: the next plan asks again
    return {.operation = nullptr, .refusal = error.message()};
  } catch (const Error& error) {
    built.refusal = error.message();
  }
  return shelf.emplace_back(spec, std::move(built)).second;
}

LibraryCache::Built LibraryCache::find(const ConvolutionSpec& spec) {
  return find_on(convolutions_, spec, [&] { return device_.make_convolution(spec); });
}

LibraryCache::Built LibraryCache::find(const ProductSpec& spec) {
  return find_on(products_, spec, [&] { return device_.make_product(spec); });
}

}  // namespace fusetape::backends::cuda
