#pragma once
#include <memory>
#include <string>
#include <vector>

namespace fusetape::tests {

/// The text of a generated kernel.
struct GeneratedKernel {
  std::string name, text;
};

/// Generated kernels as the host's C++ compiler understands them.
class HostCompiled {
 public:
  explicit HostCompiled(const std::vector<GeneratedKernel>& kernels);
  ~HostCompiled();
  HostCompiled(const HostCompiled&) = delete;
  HostCompiled& operator=(const HostCompiled&) = delete;

  std::string why_not;  ///< there is no compiler
  std::string errors;   ///< what it says against the text
  /// Every thread of every block, one after the other.
  void run(const std::string& kernel, unsigned blocks, unsigned threads, const void* args) const;

 private:
  void* library_ = nullptr;
};

/// What NVRTC, the compiler of a device, makes of the text.
struct NvrtcCompiled {
  std::string why_not;  ///< it is not here
  std::string log;      ///< what it says against the text
  std::string ptx;
};
NvrtcCompiled compile_with_nvrtc(const GeneratedKernel& kernel);

}  // namespace fusetape::tests
