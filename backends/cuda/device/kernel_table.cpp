#include "backends/cuda/device/kernel_table.hpp"

#include <algorithm>

namespace fusetape::backends::cuda {

const std::vector<DeviceFunction>& device_functions() {
  static const std::vector<DeviceFunction> functions = [] {
    std::vector<DeviceFunction> all;
    for (const auto& list : {f32_kernels(), bf16_kernels(), f16_kernels(), other_kernels()}) {
      all.insert(all.end(), list.begin(), list.end());
    }
    return all;
  }();
  return functions;
}

const void* device_function(std::string_view name) {
  const std::vector<DeviceFunction>& all = device_functions();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const DeviceFunction& f) { return f.entry->name == name; });
  return found == all.end() ? nullptr : found->function;
}

}  // namespace fusetape::backends::cuda
