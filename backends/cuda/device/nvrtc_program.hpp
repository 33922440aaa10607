#pragma once
#include <filesystem>
#include <memory>
#include <string>

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

/// Makes kernels from source text.
class Programs {
 public:
  Programs(int major, int minor);
  /// Unloaded when it is let go.
  std::shared_ptr<const KernelEntry> make(const ProgramSource& source) const;

 private:
  std::string target_;
  std::filesystem::path folder_;
};

}  // namespace fusetape::backends::cuda
