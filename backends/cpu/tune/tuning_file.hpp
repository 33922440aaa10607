#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "core/plan/graph.hpp"

/// Where tuned kernels are kept between processes: one JSON file for a kind of CPU, the instructions of it
/// that oneDNN may use, and the versions of the library and of those below it.
namespace fusetape::backends::cpu::tune {

using Tunings = std::map<std::string, plan::TunedKernel>;  ///< by what was timed

/// The file holds so many; then the oldest give way to new ones.
constexpr std::size_t most_stored_tunings = 4096;

/// $XDG_CACHE_HOME/fusetape/tuning-….json, or that of ~/.cache; empty where there is neither.
std::filesystem::path default_tuning_file();

struct StoredTunings {
  Tunings tunings;
  std::string ignored;  ///< why the file counts as none: unreadable, corrupt, of another version or CPU
};
/// What the file holds; nothing where there is none. Never throws for a file.
StoredTunings read_tunings(const std::filesystem::path& file);

/// Adds to what the file holds now, and what it already has stays. Readers see the old file or the new one;
/// writers, in other processes too, wait for each other, for a fifth of a second at most: a file beside it,
/// ….lock, says whose turn it is. Returns why it could not; empty: done.
std::string add_tunings(const std::filesystem::path& file, const Tunings& tunings);

}  // namespace fusetape::backends::cpu::tune
