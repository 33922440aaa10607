#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <fusetape/io.hpp>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

/// What the example programs need of files.
namespace examples {

inline std::runtime_error cannot(const std::string& what, const std::string& path, const std::string& why) {
  return std::runtime_error("cannot " + what + " " + path + ": " + why);
}

/// Throws where a file of this name could not be written later; leaves no trace.
inline void require_writable(const std::string& path) {
  if (std::filesystem::is_directory(path)) throw cannot("write", path, "it is a folder");
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  if (::access(folder.c_str(), W_OK | X_OK) != 0) throw cannot("write", path, std::strerror(errno));
}

/// Makes the folder where it is missing; throws unless it is one.
inline void require_folder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw cannot("make the folder", folder, error.message());
  if (!std::filesystem::is_directory(folder)) throw cannot("write to", folder, "it is not a folder");
}

/// The contents of a file; none where there is no file.
inline std::string read_file(const std::string& path) try {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file && errno == ENOENT) return {};
  if (!file) throw cannot("read", path, std::strerror(errno));
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
} catch (const std::ios_base::failure& error) {
  throw cannot("read", path, error.code().message());
}

/// A file that grows by whole lines. Writes nothing until it is opened.
class LineFile {
 public:
  LineFile() = default;
  ~LineFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  void open(const std::string& path, bool append) {
    path_ = path;
    descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC), 0666);
    if (descriptor_ < 0) throw cannot("write", path_, std::strerror(errno));
  }
  bool is_open() const { return descriptor_ >= 0; }

  /// The line is with the system after the call, whatever becomes of this process.
  void write(std::string line) {
    line += '\n';
    for (std::string_view left = line; !left.empty();) {
      const ssize_t written = ::write(descriptor_, left.data(), left.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) throw cannot("write", path_, std::strerror(errno));
      left.remove_prefix(static_cast<std::size_t>(written));
    }
  }

 private:
  std::string path_;
  int descriptor_ = -1;
};

/// Leaves the lines that `keep(line)` wants, and drops a last one without an end: a kill, or a full disk,
/// left it. `keep` throws a std::exception at a line that makes no sense.
template <class Keep>
void filter_lines(const std::string& path, Keep&& keep) {
  const std::string before = read_file(path);
  const std::string whole = before.substr(0, before.rfind('\n') + 1);
  std::istringstream lines(whole);
  std::string kept, line;
  for (int number = 1; std::getline(lines, line); ++number) {
    try {
      if (keep(line)) kept += line + "\n";
    } catch (const std::exception& error) {
      throw cannot("go on with", path, "line " + std::to_string(number) + ": " + error.what());
    }
  }
  if (kept != before) fusetape::io::replace_file(path, kept);
}

}  // namespace examples
