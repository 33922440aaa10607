#pragma once
#include <cuda_runtime_api.h>

#include <deque>
#include <filesystem>
#include <memory>
#include <string>

#include "backends/cuda/device/errors.hpp"
#include "backends/cuda/device/kernel_table.hpp"
#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

/// What NVRTC compiles for: "sm_90", or "compute_90" where it does not know the device, which then compiles
/// the rest itself.
std::string nvrtc_target(int major, int minor);

/// The kernel of `text` for a target; needs no device. Throws Error with the compiler's words.
std::string compile_program(const std::string& text, const std::string& target);

/// As compile_program, or what an earlier process left of the same text, target and NVRTC in `folder`. An
/// empty folder: nothing is kept.
std::string cached_program(const std::string& text, const std::string& target,
                           const std::filesystem::path& folder);

/// Kernels made from source text, loaded. Not thread-safe.
class Programs {
 public:
  Programs(int major, int minor);
  DeviceFunction make(const ProgramSource& source);

 private:
  using Library = std::unique_ptr<CUlib_st, Destroy<cudaLibraryUnload>>;
  struct Program {
    std::string text;
    KernelEntry entry;
    Library library;
    cudaKernel_t kernel;
  };

  std::string target_;
  std::filesystem::path folder_;
  std::deque<Program> programs_;  ///< entries stay where they are
};

}  // namespace fusetape::backends::cuda
