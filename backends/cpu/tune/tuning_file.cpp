#include "backends/cpu/tune/tuning_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <oneapi/dnnl/dnnl.hpp>
#include <system_error>
#include <thread>

#include "backends/cpu/versions.hpp"
#include "backends/user_cache.hpp"
#include "core/atomic_file.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape::backends::cpu::tune {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Entries = std::vector<std::pair<std::string, plan::TunedKernel>>;  // the oldest first

/// Of the file and of what its entries mean.
constexpr int format_version = 4;

/// What the verdicts hold for. The CPU's name ends with the instructions that our own kernels take;
/// ONEDNN_MAX_CPU_ISA may leave oneDNN fewer.
Json header() {
  return {{"format", format_version},
          {"cpu", cpu_name()},
          {"onednn_instructions", static_cast<int>(dnnl::get_effective_cpu_isa())},
          {"library", library_versions()}};
}

[[noreturn]] void fail(const std::string& doing) {
  throw std::system_error(errno, std::generic_category(), doing);
}

/// Whoever holds one is alone with the file. It is the lock's name that stays, not its hold: that ends with
/// the process at the latest.
class FileLock {
 public:
  explicit FileLock(const std::string& path)
      : descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (descriptor_ < 0) fail("cannot open " + path);
    constexpr std::chrono::milliseconds patience(200), pause(2);
    const auto last_try = std::chrono::steady_clock::now() + patience;
    while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      const bool wait =
          (errno == EWOULDBLOCK || errno == EINTR) && std::chrono::steady_clock::now() < last_try;
      if (!wait) {
        const std::system_error error(errno, std::generic_category(), "cannot lock " + path);
        ::close(descriptor_);
        throw error;
      }
      std::this_thread::sleep_for(pause);
    }
  }
  ~FileLock() { ::close(descriptor_); }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_;
};

/// Empty where there is no file.
std::string contents(const fs::path& file) {
  std::ifstream in(file);
  if (!in && errno == ENOENT) return {};
  if (!in) fail("cannot open it");
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

Entries entries_of(const std::string& text) {
  if (text.empty()) return {};
  const Json json = Json::parse(text);
  const Json ours = header();
  for (const auto& [name, value] : ours.items()) {
    if (json.at(name) != value) throw std::runtime_error("made with another " + name);
  }
  Entries entries;
  for (const Json& entry : json.at("convolutions")) {
    entries.push_back({entry.at("convolution").get<std::string>(),
                       {.kernel = entry.at("kernel").get<std::string>(),
                        .blocking = entry.at("blocking").get<std::vector<std::int64_t>>(),
                        .why = entry.at("why").get<std::string>()}});
  }
  return entries;
}

/// A file that makes no sense is worth nothing: it may be replaced.
Entries sensible_entries_of(const std::string& text) {
  try {
    return entries_of(text);
  } catch (const std::exception&) {
    return {};
  }
}

void append(Entries& entries, Tunings tunings) {
  for (const auto& [key, kernel] : entries) tunings.erase(key);
  entries.insert(entries.end(), tunings.begin(), tunings.end());
  if (entries.size() > most_stored_tunings) {
    const auto surplus = static_cast<std::ptrdiff_t>(entries.size() - most_stored_tunings);
    entries.erase(entries.begin(), entries.begin() + surplus);
  }
}

std::string text_of(const Entries& entries) {
  Json json = header();
  Json& convolutions = json["convolutions"] = Json::array();
  for (const auto& [key, tuned] : entries) {
    convolutions.push_back(
        {{"convolution", key}, {"kernel", tuned.kernel}, {"blocking", tuned.blocking}, {"why", tuned.why}});
  }
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace

fs::path default_tuning_file() {
  const fs::path folder = user_cache_folder();
  if (folder.empty()) return {};
  // Versions and CPUs that share a home have a file each.
  char name[64];
  std::snprintf(name, sizeof name, "tuning-%016zx.json", std::hash<std::string>()(header().dump()));
  return folder / name;
}

StoredTunings read_tunings(const fs::path& file) {
  StoredTunings stored;
  try {
    for (auto& [key, kernel] : entries_of(contents(file))) stored.tunings.emplace(key, std::move(kernel));
  } catch (const std::exception& error) {
    stored.ignored = error.what();
  }
  return stored;
}

std::string add_tunings(const fs::path& file, const Tunings& tunings) {
  try {
    fs::create_directories(file.parent_path());
    const FileLock lock(file.string() + ".lock");
    Entries entries = sensible_entries_of(contents(file));
    append(entries, tunings);
    core::replace_file(file, text_of(entries));
    return {};
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace fusetape::backends::cpu::tune
