#pragma once
#include <filesystem>
#include <string>
#include <system_error>

#include "fusetape/data.hpp"
#include "fusetape/error.hpp"

/// What the readers of data sets ask before they open a file.
namespace fusetape::data {

/// The size of a regular file, in bytes. `what` says in an error what it should have been.
inline std::int64_t file_bytes(const char* op, const std::string& path, const std::string& what,
                               Location at) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    std::string found = "nothing";
    if (std::filesystem::exists(path, error)) {
      found = "no regular file";
    } else if (std::filesystem::exists(path + ".gz", error)) {
      found = path + ".gz: gunzip it";
    }
    throw Error(op, "expected a file of " + what + " at " + path + ", found " + found, at);
  }
  const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(path, error));
  if (error) throw Error(op, "cannot read the size of " + path + ": " + error.message(), at);
  return bytes;
}

inline void require_split(const char* op, Split split, Location at) {
  if (split <= Split::test) return;
  throw Error(op, "expected Split::train or Split::test, got " + std::to_string(static_cast<int>(split)), at);
}

}  // namespace fusetape::data
