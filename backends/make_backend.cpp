#include "backends/backend.hpp"
#include "core/backends.hpp"
#include "core/check.hpp"

namespace fusetape::core {

std::unique_ptr<plan::Backend> make_backend(std::string_view name) {
  if (name == "cpu") return backends::make_cpu_backend();
  if (name == "reference") return backends::make_reference_backend();
  if (name == "null") return backends::make_null_backend();
  FUSETAPE_ASSERT(name == "cuda");
  return backends::make_cuda_backend();
}

}  // namespace fusetape::core
