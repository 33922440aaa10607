#include "backends/cpu/tuning_file.hpp"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <system_error>

#include "fusetape/runtime.hpp"

namespace fusetape::backends::cpu {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Of the file and of what its entries mean.
constexpr int format_version = 1;

Json header() { return {{"format", format_version}, {"cpu", cpu_name()}, {"library", versions()}}; }

fs::path cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && fs::path(cache).is_absolute()) return cache;
  const char* home = std::getenv("HOME");
  return home != nullptr && fs::path(home).is_absolute() ? fs::path(home) / ".cache" : fs::path();
}

bool has_our_header(const Json& json) {
  const Json ours = header();
  for (const auto& [name, value] : ours.items()) {
    if (!json.contains(name) || json[name] != value) return false;
  }
  return true;
}

void write(const fs::path& file, const Tunings& tunings) {
  Json json = header();
  Json& kernels = json["convolutions"] = Json::object();
  for (const auto& [key, tuned] : tunings)
    kernels[key] = {{"kernel", tuned.kernel}, {"blocking", tuned.blocking}, {"why", tuned.why}};
  std::ofstream out;
  out.exceptions(std::ios::failbit | std::ios::badbit);
  out.open(file);
  out << json.dump(1, ' ', false, Json::error_handler_t::replace) << '\n';
  out.close();
}

}  // namespace

fs::path default_tuning_file() {
  const fs::path folder = cache_folder();
  if (folder.empty()) return {};
  // Builds and CPUs that share a home have a file each.
  char name[64];
  std::snprintf(name, sizeof name, "tuning-%016zx.json", std::hash<std::string>()(cpu_name() + versions()));
  return folder / "fusetape" / name;
}

Tunings read_tunings(const fs::path& file) {
  Tunings tunings;
  std::ifstream in(file);
  if (!in) return tunings;
  try {
    const Json json = Json::parse(in);
    if (!has_our_header(json)) return {};
    for (const auto& [key, entry] : json.at("convolutions").items()) {
      tunings[key] = {.kernel = entry.at("kernel").get<std::string>(),
                      .blocking = entry.at("blocking").get<std::vector<std::int64_t>>(),
                      .why = entry.at("why").get<std::string>()};
    }
  } catch (const Json::exception&) {
    return {};
  }
  return tunings;
}

std::string add_tunings(const fs::path& file, const Tunings& tunings) {
  const fs::path unfinished = file.string() + "." + std::to_string(::getpid());
  try {
    fs::create_directories(file.parent_path());
    Tunings all = read_tunings(file);
    all.insert(tunings.begin(), tunings.end());
    write(unfinished, all);
    fs::rename(unfinished, file);
    return {};
  } catch (const std::exception& error) {
    std::error_code ignored;
    fs::remove(unfinished, ignored);
    return error.what();
  }
}

}  // namespace fusetape::backends::cpu
