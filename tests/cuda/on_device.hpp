#pragma once
#include <string>

#include "helpers.hpp"

namespace fusetape::tests {

/// Why the backend "cuda" cannot be used here; empty where it can: this build has CUDA and there is a device.
inline std::string why_no_cuda() {
  const std::string before(backend_name());
  const std::string reason = message_of([] { set_backend("cuda"); });
  set_backend(before);
  return reason;
}

}  // namespace fusetape::tests
