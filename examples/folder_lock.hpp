#pragma once
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <string>

#include "files.hpp"

namespace examples {

/// Held while it lives, and no longer than its process, however that ends: one run at a time writes to a
/// folder. A file in it, run.lock, is what is locked, and says who holds it.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder) {
    const std::string path = folder + "/run.lock";
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) throw cannot("write", path, std::strerror(errno));
    try {
      lock(folder, path);
    } catch (...) {
      ::close(descriptor_);
      throw;
    }
  }
  ~FolderLock() { ::close(descriptor_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  void lock(const std::string& folder, const std::string& path) const {
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) throw cannot("lock", path, std::strerror(errno));
      const std::string holder = read_file(path);
      throw cannot("write to", folder,
                   "another run does: " + (holder.empty() ? "it has only just begun" : holder));
    }
    const std::string self = description();
    const bool written = ::ftruncate(descriptor_, 0) == 0 && ::pwrite(descriptor_, self.data(), self.size(),
                                                                      0) == static_cast<ssize_t>(self.size());
    if (!written) throw cannot("write", path, std::strerror(errno));
  }

  /// "process 4711 on thishost, since 2026-01-31 12:00:00 UTC"
  static std::string description() {
    char host[256] = "";
    ::gethostname(host, sizeof host - 1);
    const std::time_t now = std::time(nullptr);
    std::tm utc{};
    ::gmtime_r(&now, &utc);
    char since[32];
    std::strftime(since, sizeof since, "%Y-%m-%d %H:%M:%S UTC", &utc);
    return "process " + std::to_string(::getpid()) + " on " + host + ", since " + since;
  }

  int descriptor_ = -1;
};

}  // namespace examples
