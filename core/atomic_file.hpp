#pragma once
#include <cstddef>
#include <filesystem>
#include <string_view>
#include <utility>

/// Files that are replaced as a whole.
namespace fusetape::core {

/// Of an open file; -1: none.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor();

  int number() const { return number_; }
  bool open() const { return number_ >= 0; }

 private:
  int number_;
};

/// A file that appears under its name complete and on the disk, or not at all. Until then it is a temporary
/// file beside it, "<name>.tmp.<16 hexadecimal digits>", which its maker holds locked: one that can be locked
/// belongs to nobody. Without commit() nothing stays. Every failure is a std::system_error.
class AtomicFile {
 public:
  /// A symbolic link stands for what it leads to. Removes what was abandoned there.
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::string_view bytes);
  /// Once the file has its name, only its folder's own write to the disk can still fail.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  Descriptor folder_, file_;
};

void replace_file(const std::filesystem::path& path, std::string_view contents);

/// Removes the temporary files that killed makers left beside `path`, and throws nothing.
void remove_abandoned(const std::filesystem::path& path) noexcept;

}  // namespace fusetape::core
