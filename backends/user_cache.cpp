#include "backends/user_cache.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <system_error>

namespace fusetape::backends {

namespace fs = std::filesystem;

fs::path user_cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && fs::path(cache).is_absolute()) return fs::path(cache) / "fusetape";
  const char* home = std::getenv("HOME");
  if (home != nullptr && fs::path(home).is_absolute()) return fs::path(home) / ".cache" / "fusetape";
  return {};
}

void replace_file(const fs::path& file, const std::string& contents) {
  // A process's number is no name: containers that share a home have the same ones.
  std::string unfinished = file.string() + ".XXXXXX";
  const int descriptor = ::mkstemp(unfinished.data());
  if (descriptor < 0) throw std::system_error(errno, std::generic_category(), "cannot make a file beside it");
  ::close(descriptor);
  try {
    std::ofstream out;
    out.exceptions(std::ios::failbit | std::ios::badbit);
    out.open(unfinished, std::ios::binary);
    out << contents;
    out.close();
    fs::rename(unfinished, file);
  } catch (...) {
    std::error_code ignored;
    fs::remove(unfinished, ignored);
    throw;
  }
}

}  // namespace fusetape::backends
