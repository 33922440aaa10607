#pragma once
#include <filesystem>
#include <string>

/// Files that processes leave to later ones.
namespace fusetape::backends {

/// $XDG_CACHE_HOME/fusetape or ~/.cache/fusetape; empty where neither is known.
std::filesystem::path user_cache_folder();

/// Writes beside the file and renames: whoever reads it finds all of the old contents or all of the new.
/// Throws where that fails.
void replace_file(const std::filesystem::path& file, const std::string& contents);

}  // namespace fusetape::backends
