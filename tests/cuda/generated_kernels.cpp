#include "generated_kernels.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "scratch_folder.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

namespace fusetape::tests {
namespace {

/// What a device's compiler knows by itself.
constexpr const char* shim = R"(#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#define __global__
#define __device__
#define __launch_bounds__(threads)
struct Dimensions {
  unsigned x = 0, y = 0, z = 0;
};
extern "C" Dimensions threadIdx, blockIdx, blockDim, gridDim;
)";

struct Dimensions {
  unsigned x, y, z;
};

template <class T>
T symbol(void* library, const std::string& name) {
  return reinterpret_cast<T>(dlsym(library, name.c_str()));
}

std::string contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

}  // namespace

HostCompiled::HostCompiled(const std::vector<GeneratedKernel>& kernels) {
  const std::string compiler = "'" FUSETAPE_TESTS_CXX "'";
  if (std::system((compiler + " --version > /dev/null 2>&1").c_str()) != 0) {
    why_not = "there is no C++ compiler here";
    return;
  }
  const ScratchFolder folder;
  std::filesystem::create_directories(folder.path());
  const auto path = [&](const std::string& name) { return (folder.path() / name).string(); };
  std::ofstream(path("shim.hpp")) << shim;
  std::ofstream(path("shim.cpp")) << "Dimensions threadIdx, blockIdx, blockDim, gridDim;\n";
  std::string sources = path("shim.cpp");
  for (const GeneratedKernel& kernel : kernels) {
    const std::string source = path(kernel.name + ".cpp");
    std::ofstream(source) << kernel.text << "extern \"C\" void " << kernel.name << "_of(const void* args) { "
                          << kernel.name << "(*static_cast<const Args*>(args)); }\n";
    sources += " " + source;
  }
  const std::string command = compiler + " -std=c++20 -O1 -ffp-contract=off -fPIC -shared -include " +
                              path("shim.hpp") + " " + sources + " -o " + path("kernels.so") + " 2> " +
                              path("errors");
  if (std::system(command.c_str()) == 0) library_ = dlopen(path("kernels.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library_ == nullptr) errors = "the text does not compile:\n" + contents(path("errors"));
}

HostCompiled::~HostCompiled() {
  if (library_ != nullptr) dlclose(library_);
}

void HostCompiled::run(const std::string& kernel, unsigned blocks, unsigned threads, const void* args) const {
  const auto run = symbol<void (*)(const void*)>(library_, kernel + "_of");
  auto &thread = *symbol<Dimensions*>(library_, "threadIdx"),
       &block = *symbol<Dimensions*>(library_, "blockIdx");
  *symbol<Dimensions*>(library_, "gridDim") = {blocks, 1, 1};
  *symbol<Dimensions*>(library_, "blockDim") = {threads, 1, 1};
  for (block = {0, 0, 0}; block.x < blocks; ++block.x) {
    for (thread = {0, 0, 0}; thread.x < threads; ++thread.x) run(args);
  }
}

NvrtcCompiled compile_with_nvrtc(const GeneratedKernel& kernel) {
#ifdef __SANITIZE_ADDRESS__
  const __lsan::ScopedDisabler not_ours;  // NVRTC keeps some memory of each compilation
#endif
  void* const library = dlopen("libnvrtc.so", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return {.why_not = "there is no NVRTC here"};
  using Program = void*;
  const auto create =
      symbol<int (*)(Program*, const char*, const char*, int, const char* const*, const char* const*)>(
          library, "nvrtcCreateProgram");
  const auto compile = symbol<int (*)(Program, int, const char* const*)>(library, "nvrtcCompileProgram");
  const auto destroy = symbol<int (*)(Program*)>(library, "nvrtcDestroyProgram");
  const auto text_of = [&](Program program, const std::string& what) {
    std::size_t size = 0;
    symbol<int (*)(Program, std::size_t*)>(library, what + "Size")(program, &size);
    std::string text(size, '\0');
    symbol<int (*)(Program, char*)>(library, what)(program, text.data());
    return std::string(text.c_str());  // up to the zero at its end
  };

  Program program = nullptr;
  create(&program, kernel.text.c_str(), kernel.name.c_str(), 0, nullptr, nullptr);
  const char* const options[] = {"--std=c++17", "--gpu-architecture=compute_80", "--fmad=false",
                                 "--device-as-default-execution-space"};
  NvrtcCompiled result;
  const bool compiled = compile(program, static_cast<int>(std::size(options)), options) == 0;
  result.log = text_of(program, "nvrtcGetProgramLog");
  if (compiled) result.ptx = text_of(program, "nvrtcGetPTX");
  destroy(&program);
  dlclose(library);
  return result;
}

}  // namespace fusetape::tests
