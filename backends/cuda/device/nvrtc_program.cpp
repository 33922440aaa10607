#include "backends/cuda/device/nvrtc_program.hpp"

#include <cuda_runtime_api.h>
#include <nvrtc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "backends/cuda/device/errors.hpp"
#include "backends/cuda/device/program_file.hpp"
#include "backends/user_cache.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

/// An expression has the same bits here as in the kernels that nvcc compiles, and as on the host.
constexpr std::array options = {"--std=c++17", "--fmad=false", "--device-as-default-execution-space"};

void check(nvrtcResult status, const char* doing) {
  if (status != NVRTC_SUCCESS) throw Error("nvrtc", std::string(doing) + ": " + nvrtcGetErrorString(status));
}

class Compilation {
 public:
  explicit Compilation(const std::string& text) {
    check(nvrtcCreateProgram(&program_, text.c_str(), "fusetape.cu", 0, nullptr, nullptr),
          "reading a program");
  }
  ~Compilation() { nvrtcDestroyProgram(&program_); }
  Compilation(const Compilation&) = delete;
  Compilation& operator=(const Compilation&) = delete;

  void compile(const std::string& target) {
    const std::string architecture = "--gpu-architecture=" + target;
    std::vector<const char*> all(options.begin(), options.end());
    all.push_back(architecture.c_str());
    const nvrtcResult status = nvrtcCompileProgram(program_, static_cast<int>(all.size()), all.data());
    if (status != NVRTC_SUCCESS) {
      throw Error("nvrtc",
                  "for " + target + ": " + nvrtcGetErrorString(status) + ": " + one_line(log(), 2000));
    }
  }

  /// PTX for a virtual architecture, else machine code.
  std::string code(bool ptx) const {
    std::size_t size = 0;
    check(ptx ? nvrtcGetPTXSize(program_, &size) : nvrtcGetCUBINSize(program_, &size),
          "reading what was compiled");
    std::string code(size, '\0');
    check(ptx ? nvrtcGetPTX(program_, code.data()) : nvrtcGetCUBIN(program_, code.data()),
          "reading what was compiled");
    return code;
  }

 private:
  std::string log() const {
    std::size_t size = 0;
    if (nvrtcGetProgramLogSize(program_, &size) != NVRTC_SUCCESS || size == 0) return "no log";
    std::string log(size, '\0');
    if (nvrtcGetProgramLog(program_, log.data()) != NVRTC_SUCCESS) return "no log";
    log.resize(size - 1);  // ends with a zero
    return log;
  }

  nvrtcProgram program_ = nullptr;
};

struct LoadedProgram {
  std::unique_ptr<CUlib_st, Destroy<cudaLibraryUnload>> library;
  KernelEntry entry;
};

/// Of all that the compiled code depends on.
std::string key_of(const std::string& text, const std::string& target) {
  int major = 0, minor = 0;
  check(nvrtcVersion(&major, &minor), "asking for NVRTC's version");
  std::string key = "NVRTC " + std::to_string(major) + "." + std::to_string(minor) + " " + target;
  for (const char* option : options) key += std::string(" ") + option;
  return key + "\n" + text;
}

}  // namespace

std::string nvrtc_target(int major, int minor) {
  int count = 0;
  check(nvrtcGetNumSupportedArchs(&count), "asking for NVRTC's architectures");
  std::vector<int> known(static_cast<std::size_t>(count));
  check(nvrtcGetSupportedArchs(known.data()), "asking for NVRTC's architectures");
  const int device = major * 10 + minor;
  if (std::find(known.begin(), known.end(), device) != known.end()) return "sm_" + std::to_string(device);
  int newest = 0;
  for (const int architecture : known) {
    if (architecture < device) newest = std::max(newest, architecture);
  }
  if (newest == 0) throw Error("nvrtc", "it has no code for compute capability " + std::to_string(device));
  return "compute_" + std::to_string(newest);
}

std::string compile_program(const std::string& text, const std::string& target) {
  Compilation compilation(text);
  compilation.compile(target);
  return compilation.code(target.starts_with("compute_"));
}

std::string cached_program(const std::string& text, const std::string& target,
                           const std::filesystem::path& folder) {
  const std::string key = key_of(text, target);
  std::string code = read_program(folder, key);
  if (!code.empty()) return code;
  code = compile_program(text, target);
  write_program(folder, key, code);
  return code;
}

Programs::Programs(int major, int minor)
    : target_(nvrtc_target(major, minor)), folder_(user_cache_folder()) {}

std::shared_ptr<const KernelEntry> Programs::make(const ProgramSource& source) const {
  const std::string code = cached_program(source.text, target_, folder_);
  cudaLibrary_t loaded = nullptr;
  check(cudaLibraryLoadData(&loaded, code.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
        "loading a program");
  const auto program = std::make_shared<LoadedProgram>();
  program->library.reset(loaded);
  cudaKernel_t kernel = nullptr;
  check(cudaLibraryGetKernel(&kernel, loaded, source.name.c_str()), source.name.c_str());
  const void* const function = reinterpret_cast<const void*>(kernel);
  cudaFuncAttributes attributes;  // loads its code: not within a capture
  check(cudaFuncGetAttributes(&attributes, function), source.name.c_str());
  program->entry = {.name = source.name,
                    .threads = source.threads,
                    .shared_bytes = 0,
                    .args_bytes = source.args_bytes,
                    .run_block = source.run_block,
                    .code = function};
  return {program, &program->entry};
}

}  // namespace fusetape::backends::cuda
