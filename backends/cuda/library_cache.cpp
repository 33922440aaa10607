#include "backends/cuda/library_cache.hpp"

#include <algorithm>

namespace fusetape::backends::cuda {
namespace {

/// A refusal is held by nobody.
bool is_held(const LibraryCache::Built& built) { return built.operation.use_count() > 1; }
bool is_held(const LibraryCache::Program& program) { return program.use_count() > 1; }

}  // namespace

template <class Key, class Thing, class Build>
Thing LibraryCache::find_on(Shelf<Key, Thing>& shelf, const Key& key, Build build) {
  const std::lock_guard lock(mutex_);
  const auto known =
      std::find_if(shelf.begin(), shelf.end(), [&](const auto& entry) { return entry.first == key; });
  if (known != shelf.end()) return known->second;
  if (shelf.size() >= most) {
    device_.synchronize();
    std::erase_if(shelf, [](const auto& entry) { return !is_held(entry.second); });
  }
  return shelf.emplace_back(key, build()).second;
}

template <class Spec, class Build>
LibraryCache::Built LibraryCache::find_operation(Shelf<Spec, Built>& shelf, const Spec& spec, Build build) {
  const auto built_or_refused = [&]() -> Built {
    try {
      return {.operation = build(), .refusal = {}};
    } catch (const OutOfMemory&) {
      throw;
    } catch (const Error& error) {
      return {.operation = nullptr, .refusal = error.message()};
    }
  };
  return find_on(shelf, spec, built_or_refused);
}

LibraryCache::Built LibraryCache::find(const ConvolutionSpec& spec) {
  return find_operation(convolutions_, spec, [&] { return device_.make_convolution(spec); });
}

LibraryCache::Built LibraryCache::find(const ProductSpec& spec) {
  return find_operation(products_, spec, [&] { return device_.make_product(spec); });
}

LibraryCache::Program LibraryCache::find(const ProgramSource& source) {
  return find_on(programs_, source.text, [&] { return device_.make_program(source); });
}

}  // namespace fusetape::backends::cuda
