#include "backends/cuda/device/errors.hpp"

#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

std::string words_of(cudaError_t status) {
  return std::string(cudaGetErrorName(status)) + " (" + cudaGetErrorString(status) + ")";
}

void check(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  fail("cuda", std::string(doing) + ": " + words_of(status), status == cudaErrorMemoryAllocation);
}

void fail(const char* library, const std::string& what, bool out_of_memory) {
  if (out_of_memory) throw OutOfMemory(library, what);
  throw Error(library, what);
}

std::string one_line(const std::string& text, std::size_t most) {
  std::string line;
  for (const char c : text) {
    const bool space = c == '\n' || c == '\t' || c == ' ';
    if (!space) {
      line += c;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  if (line.size() > most) line = line.substr(0, most) + " …";
  return line;
}

}  // namespace fusetape::backends::cuda
