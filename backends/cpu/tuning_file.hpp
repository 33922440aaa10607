#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "core/plan/graph.hpp"

/// Where tuned kernels are kept between processes: one JSON file for a build of the library on a kind of CPU.
namespace fusetape::backends::cpu {

using Tunings = std::map<std::string, plan::TunedKernel>;  ///< by what was timed

/// $XDG_CACHE_HOME/fusetape/tuning-….json, or that of ~/.cache; empty where there is neither.
std::filesystem::path default_tuning_file();

/// What the file holds; nothing where there is none, or it is corrupt, of another version, or of another CPU.
Tunings read_tunings(const std::filesystem::path& file);

/// Adds to what the file holds now, and what it already has stays. Readers see the old file or the new one.
/// Returns why it could not; empty: done.
std::string add_tunings(const std::filesystem::path& file, const Tunings& tunings);

}  // namespace fusetape::backends::cpu
