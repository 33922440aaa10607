#pragma once
#include <unistd.h>

#include <filesystem>
#include <string>

namespace fusetape::tests {

/// A name for a folder that nobody made yet; what stands there at the end of the scope is removed.
class ScratchFolder {
 public:
  ScratchFolder() { std::filesystem::remove_all(path_); }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  std::filesystem::path file() const { return path_ / "below" / "tuning.json"; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / ("fusetape_tuner_test." + std::to_string(::getpid()));
};

}  // namespace fusetape::tests
