#pragma once
#include "cuda/host_double.hpp"
#include "helpers.hpp"

namespace fusetape::tests {

/// The device of the backend "cuda double", which is the CUDA backend on a HostDouble: one for the process.
HostDouble& host_double();

/// That backend for a scope.
class OnDouble {
 public:
  OnDouble() : backend_((host_double(), "cuda double")) {}

 private:
  OnBackend backend_;
};

}  // namespace fusetape::tests
