#include "core/atomic_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <string>
#include <system_error>
#include <vector>

namespace fusetape::core {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view mark = ".tmp.";
constexpr std::size_t digits = 16;

[[noreturn]] void fail(const char* what, int error = errno) {
  throw std::system_error(error, std::generic_category(), what);
}

/// What the path leads to, which need not exist yet.
fs::path behind_links(fs::path path) {
  constexpr int most_links = 40;  // as the system's own
  for (int links = 0; fs::is_symlink(path); ++links) {
    if (links == most_links) fail("cannot follow it", ELOOP);
    path = path.parent_path() / fs::read_symlink(path);
  }
  return path;
}

/// A rename would put a file in the place of a device or a pipe.
void require_file_or_nothing(const fs::path& path) {
  const fs::file_status status = fs::status(path);
  if (fs::is_directory(status)) fail("cannot be written", EISDIR);
  if (fs::exists(status) && !fs::is_regular_file(status)) fail("cannot be replaced: it is no file", EINVAL);
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

/// None where the folder may be written to and not read: that it is on the disk is then for the system to see
/// to.
Descriptor open_folder(const fs::path& path) {
  Descriptor folder(::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.open() && errno != EACCES) fail("cannot open its folder");
  return folder;
}

/// Of so many random digits: a process's number is no name, for each container counts its own.
fs::path temporary_beside(const fs::path& path) {
  std::uint64_t random = 0;
  if (::getrandom(&random, sizeof random, 0) != sizeof random) fail("cannot draw a random number");
  char text[digits + 1];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(random));
  return path.string().append(mark).append(text);
}

bool is_temporary_of(const std::string& target, const std::string& name) {
  const std::size_t head = target.size() + mark.size();
  return name.size() == head + digits && name.starts_with(target) &&
         name.compare(target.size(), mark.size(), mark) == 0 &&
         name.find_first_not_of("0123456789abcdef", head) == std::string::npos;
}

bool try_lock(const Descriptor& file) { return ::flock(file.number(), LOCK_EX | LOCK_NB) == 0; }

/// Whether its maker holds it. False: before the lock, somebody took it for abandoned, and removes it. (Where
/// the file system has no locks, nobody can take it.)
bool hold(const Descriptor& file) {
  if (!try_lock(file) && errno == EWOULDBLOCK) return false;
  struct stat status {};
  return ::fstat(file.number(), &status) != 0 || status.st_nlink > 0;
}

/// By the locks, which end with their holders. A name is never used twice, so one that its maker has let go
/// by now leads to nothing.
void remove_if_abandoned(const fs::path& temporary) {
  const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (file.open() && try_lock(file)) ::unlink(temporary.c_str());
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) ::close(number_);
}

AtomicFile::AtomicFile(const fs::path& path) : path_(behind_links(path)) {
  require_file_or_nothing(path_);
  folder_ = open_folder(path_);
  remove_abandoned(path_);
  constexpr int most_tries = 100;
  for (int i = 0; i < most_tries; ++i) {
    fs::path name = temporary_beside(path_);
    Descriptor file(::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!file.open() && errno == EEXIST) continue;
    if (!file.open()) fail("cannot create a temporary file beside it");
    if (!hold(file)) continue;
    temporary_ = std::move(name);
    file_ = std::move(file);
    return;
  }
  fail("cannot create a temporary file beside it", EEXIST);
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_.number(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot write");
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

void AtomicFile::commit() {
  if (::fsync(file_.number()) != 0) fail("cannot write it to the disk");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot rename the temporary file to it");
  temporary_.clear();
  // The name is on the disk once its folder is. EINVAL: a file system without that.
  if (folder_.open() && ::fsync(folder_.number()) != 0 && errno != EINVAL)
    fail("is replaced, but its folder cannot be written to the disk");
}

void replace_file(const fs::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.write(contents);
  file.commit();
}

void remove_abandoned(const fs::path& path) noexcept try {
  const fs::path target = behind_links(path);
  const std::string name = target.filename().string();
  std::vector<fs::path> found;  // a folder is not changed while it is read
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_of(target))) {
    if (is_temporary_of(name, entry.path().filename().string())) found.push_back(entry.path());
  }
  for (const fs::path& temporary : found) remove_if_abandoned(temporary);
} catch (const std::exception&) {  // a folder that cannot be read, or is not there
}

}  // namespace fusetape::core
