#pragma once
#include <filesystem>

/// Files that processes leave to later ones.
namespace fusetape::backends {

/// $XDG_CACHE_HOME/fusetape or ~/.cache/fusetape; empty where neither is known.
std::filesystem::path user_cache_folder();

}  // namespace fusetape::backends
