// A library for LD_PRELOAD that makes one call on files of a folder go wrong:
//   FAULT_FOLDER=/path  only calls on paths below it, and on what was opened there, count
//   FAULT_AT=N          the Nth of them (from 1); 0: none
//   FAULT=what          ENOSPC, EIO, EACCES: it fails so; short: a write does half; kill: the process dies
//   instead FAULT_COUNT=/file   at the process's end, the number of calls is written there
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace {

constexpr int most_descriptors = 4096;
std::atomic<int> calls{0};
std::atomic<bool> watched[most_descriptors];

std::string_view setting(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

bool is_watched(const char* path) {
  const std::string_view folder = setting("FAULT_FOLDER");
  return !folder.empty() && std::string_view(path).starts_with(folder);
}
bool is_watched(int descriptor) {
  return descriptor >= 0 && descriptor < most_descriptors && watched[descriptor];
}

enum class Fate { works, fails, is_short };

/// Of the next call on a watched file; dies in here, or sets errno.
Fate next_fate() {
  const int number = ++calls;
  if (number != std::atoi(setting("FAULT_AT").data())) return Fate::works;
  const std::string_view fault = setting("FAULT");
  if (fault == "kill") {
    ::kill(::getpid(), SIGKILL);
    ::_exit(128 +
            SIGKILL);  // the first process of a namespace cannot kill itself; its files see no difference
  }
  if (fault == "short") return Fate::is_short;
  errno = fault == "ENOSPC" ? ENOSPC : fault == "EACCES" ? EACCES : EIO;
  return Fate::fails;
}

template <class File, class Call>
auto attempt(File file, Call call) -> decltype(call()) {
  if (is_watched(file) && next_fate() == Fate::fails) return -1;
  return call();
}

int open_file(const char* name, const char* path, int flags, mode_t mode) {
  const bool is_ours = is_watched(path);
  if (is_ours && next_fate() == Fate::fails) return -1;
  const int descriptor = real<int(const char*, int, ...)>(name)(path, flags, mode);
  if (descriptor >= 0 && descriptor < most_descriptors) watched[descriptor] = is_ours;
  return descriptor;
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
}

struct CountAtEnd {
  ~CountAtEnd() {
    const std::string_view path = setting("FAULT_COUNT");
    if (path.empty()) return;
    std::FILE* file = std::fopen(path.data(), "w");
    if (file == nullptr) return;
    std::fprintf(file, "%d\n", calls.load());
    std::fclose(file);
  }
} count_at_end;

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_file("open", path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_file("open64", path, flags, mode);
}
ssize_t write(int descriptor, const void* data, size_t bytes) {
  if (is_watched(descriptor)) {
    const Fate fate = next_fate();
    if (fate == Fate::fails) return -1;
    if (fate == Fate::is_short) bytes = (bytes + 1) / 2;
  }
  return real<ssize_t(int, const void*, size_t)>("write")(descriptor, data, bytes);
}
int fsync(int descriptor) {
  return attempt(descriptor, [&] { return real<int(int)>("fsync")(descriptor); });
}
int flock(int descriptor, int operation) {
  return attempt(descriptor, [&] { return real<int(int, int)>("flock")(descriptor, operation); });
}
int rename(const char* from, const char* to) {
  return attempt(from, [&] { return real<int(const char*, const char*)>("rename")(from, to); });
}
int unlink(const char* path) {
  return attempt(path, [&] { return real<int(const char*)>("unlink")(path); });
}
int mkdir(const char* path, mode_t mode) {
  return attempt(path, [&] { return real<int(const char*, mode_t)>("mkdir")(path, mode); });
}
int close(int descriptor) {
  const bool is_ours = is_watched(descriptor);
  if (is_ours) watched[descriptor] = false;
  // A close that fails has closed the file all the same.
  const int result = real<int(int)>("close")(descriptor);
  return is_ours && next_fate() == Fate::fails ? -1 : result;
}
}
