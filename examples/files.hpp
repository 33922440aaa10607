#pragma once
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>

/// What the example programs need of files.
namespace examples {

inline std::runtime_error cannot(const std::string& what, const std::string& path, const std::string& why) {
  return std::runtime_error("cannot " + what + " " + path + ": " + why);
}

/// Beside the file, so that a rename stays on one file system.
inline std::string temporary_for(const std::string& path) {
  return path + ".tmp" + std::to_string(::getpid());
}

/// Throws where a file of this name could not be written later; leaves no trace.
inline void require_writable(const std::string& path) {
  const std::string probe = temporary_for(path);
  if (std::filesystem::is_directory(path)) throw cannot("write", path, "it is a folder");
  errno = 0;
  if (!std::ofstream(probe)) throw cannot("write", path, std::strerror(errno));
  std::filesystem::remove(probe);
}

/// Makes the folder where it is missing; throws unless files can be written there.
inline void require_writable_folder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw cannot("make the folder", folder, error.message());
  if (!std::filesystem::is_directory(folder)) throw cannot("write to", folder, "it is not a folder");
  require_writable(folder + "/probe");
}

/// The whole text or, on failure, the file as it was.
inline void write_file(const std::string& path, const std::string& text) {
  const std::string temporary = temporary_for(path);
  errno = 0;
  std::ofstream file(temporary, std::ios::binary);
  file << text;
  file.close();
  if (!file) {
    const std::string why = std::strerror(errno);
    std::filesystem::remove(temporary);
    throw cannot("write", path, why);
  }
  std::filesystem::rename(temporary, path);
}

}  // namespace examples
