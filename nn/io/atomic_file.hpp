#pragma once
#include <cstddef>
#include <string>

#include "fusetape/error.hpp"

namespace fusetape::io {

/// A file that appears under its name complete and on the disk, or not at all. Without commit() it leaves
/// nothing behind.
class AtomicFile {
 public:
  AtomicFile(std::string path, Location at);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t bytes);
  void commit();

 private:
  [[noreturn]] void fail(const char* doing) const;

  std::string path_, temporary_;
  Location at_;
  int descriptor_ = -1;
};

}  // namespace fusetape::io
