#include "backends/user_cache.hpp"

#include <cstdlib>

namespace fusetape::backends {

namespace fs = std::filesystem;

fs::path user_cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && fs::path(cache).is_absolute()) return fs::path(cache) / "fusetape";
  const char* home = std::getenv("HOME");
  if (home != nullptr && fs::path(home).is_absolute()) return fs::path(home) / ".cache" / "fusetape";
  return {};
}

}  // namespace fusetape::backends
