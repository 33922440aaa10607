#pragma once
#include <cuda_runtime_api.h>

#include <string>

/// What CUDA says of a failure, as an Error.
namespace fusetape::backends::cuda {

/// "cudaErrorNoDevice (no CUDA-capable device is detected)".
std::string words_of(cudaError_t status);

/// Throws Error("cuda", "<doing>: <CUDA's words>"), an OutOfMemory where it is that. A failure that is over
/// is forgotten: no later call reports it again.
void check(cudaError_t status, const char* doing);

/// Throws Error(library, what), or OutOfMemory.
[[noreturn]] void fail(const char* library, const std::string& what, bool out_of_memory);

/// What a library tells, for a sentence: its lines in one, at most `most` characters.
std::string one_line(const std::string& text, std::size_t most = 300);

/// For unique_ptr: how a library's handle is given back. What fails then is of no use to anybody.
template <auto destroy>
struct Destroy {
  template <class T>
  void operator()(T* handle) const {
    static_cast<void>(destroy(handle));
  }
};

}  // namespace fusetape::backends::cuda
