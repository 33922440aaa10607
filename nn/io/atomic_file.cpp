#include "nn/io/atomic_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace fusetape::io {

AtomicFile::AtomicFile(std::string path, Location at) : path_(std::move(path)), at_(at) {
  static std::atomic<unsigned> count{0};
  temporary_ = path_ + ".tmp." + std::to_string(::getpid()) + "." + std::to_string(count++);
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("create a temporary file beside it");
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::fail(const char* doing) const {
  throw Error("save", path_ + ": cannot " + doing + ": " + std::strerror(errno), at_);
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write");
    next += written;
    bytes -= static_cast<std::size_t>(written);
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail("write it to the disk");
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) fail("close it");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename the temporary file to it");
  temporary_.clear();

  // The name is on the disk once its folder is.
  std::filesystem::path folder = std::filesystem::path(path_).parent_path();
  if (folder.empty()) folder = ".";
  const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) fail("open its folder");
  const int synced = ::fsync(directory);
  const int error = errno;
  ::close(directory);
  errno = error;
  if (synced != 0 && errno != EINVAL)
    fail("write its folder to the disk");  // EINVAL: a file system without that
}

}  // namespace fusetape::io
