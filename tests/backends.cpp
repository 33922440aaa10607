#include "backends.hpp"

#include "helpers.hpp"
#ifdef FUSETAPE_TESTS_CUDA_DOUBLE
#include "cuda/on_double.hpp"
#endif

namespace fusetape::tests {

bool has_cuda_double() {
#ifdef FUSETAPE_TESTS_CUDA_DOUBLE
  static_cast<void>(host_double());
  return true;
#else
  return false;
#endif
}

std::string why_no_cuda() {
  const std::string before(backend_name());
  const std::string reason = message_of([] { set_backend("cuda"); });
  set_backend(before);
  return reason;
}

}  // namespace fusetape::tests
