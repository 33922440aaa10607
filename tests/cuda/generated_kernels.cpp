#include "generated_kernels.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "scratch_folder.hpp"

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

std::string nvrtc_errors(const GeneratedKernel& kernel, std::string& why_not) {
  void* const library = dlopen("libnvrtc.so", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    why_not = "there is no NVRTC here";
    return {};
  }
  using Program = void*;
  const auto create =
      symbol<int (*)(Program*, const char*, const char*, int, const char* const*, const char* const*)>(
          library, "nvrtcCreateProgram");
  const auto compile = symbol<int (*)(Program, int, const char* const*)>(library, "nvrtcCompileProgram");
  const auto log_size = symbol<int (*)(Program, std::size_t*)>(library, "nvrtcGetProgramLogSize");
  const auto get_log = symbol<int (*)(Program, char*)>(library, "nvrtcGetProgramLog");
  const auto destroy = symbol<int (*)(Program*)>(library, "nvrtcDestroyProgram");

  Program program = nullptr;
  create(&program, kernel.text.c_str(), kernel.name.c_str(), 0, nullptr, nullptr);
  const char* const options[] = {"--std=c++20", "--gpu-architecture=sm_80", "--fmad=false"};
  const bool compiled = compile(program, 3, options) == 0;
  std::size_t size = 0;
  log_size(program, &size);
  std::string log(size, '\0');
  get_log(program, log.data());
  destroy(&program);
  dlclose(library);
  const bool silent = size <= 1;
  return compiled && silent ? std::string() : kernel.name + ": " + log;
}

}  // namespace fusetape::tests
