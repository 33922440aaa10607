#pragma once
#include <string>

namespace fusetape::tests {

/// Whether there is a backend "cuda double": the CUDA backend on a device that the host plays, which not
/// every build has (FUSETAPE_CUDA_DOUBLE). It can be chosen after the call.
bool has_cuda_double();

/// Why the backend "cuda" cannot be used here; empty where it can: this build has CUDA and there is a device.
std::string why_no_cuda();

}  // namespace fusetape::tests
