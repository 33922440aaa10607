#pragma once
#include <filesystem>
#include <string>

/// Compiled programs on disk, a file each, named by a hash of all that its code depends on (`key`). The file
/// holds the key itself, too: two keys of one hash are told apart.
namespace fusetape::backends::cuda {

/// Empty where there is none, or none that makes sense.
std::string read_program(const std::filesystem::path& folder, const std::string& key);

/// Where that is not possible, the next process compiles again.
void write_program(const std::filesystem::path& folder, const std::string& key, const std::string& code);

/// Where the program of a key is kept.
std::filesystem::path program_file(const std::filesystem::path& folder, const std::string& key);

}  // namespace fusetape::backends::cuda
