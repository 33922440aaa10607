// The file of tuned kernels: what is written, what is believed, and who may write.
#include <doctest/doctest.h>
#include <sys/file.h>
#include <unistd.h>

#include <fcntl.h>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "backends/cpu/tune/tuning_file.hpp"
#include "helpers.hpp"
#include "scratch_folder.hpp"

namespace fs = std::filesystem;
using namespace fusetape::backends::cpu::tune;
using namespace fusetape::tests;
using Json = nlohmann::ordered_json;

namespace {

class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    const char* before = std::getenv(name);
    if (before != nullptr) before_ = before;
    ::setenv(name, value, 1);
  }
  ~Environment() {
    if (before_.has_value()) {
      ::setenv(name_, before_->c_str(), 1);
    } else {
      ::unsetenv(name_);
    }
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

Json read_json(const fs::path& file) {
  std::ifstream in(file);
  return Json::parse(in);
}

void write_text(const fs::path& file, const std::string& text) { std::ofstream(file) << text; }

const Tunings some{{"a", {.kernel = "winograd", .blocking = {8, 1}, .why = "tuned: 1 ms"}},
                   {"b", {.kernel = "brgconv:avx512_core", .blocking = {}, .why = ""}}};

bool equal(const Tunings& a, const Tunings& b) {
  const auto same_entry = [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.kernel == y.second.kernel &&
           x.second.blocking == y.second.blocking && x.second.why == y.second.why;
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_entry);
}

}  // namespace

TEST_CASE("tunings: what is written is read, and stays when more is added") {
  const ScratchFolder scratch;
  CHECK(read_tunings(scratch.file()).tunings.empty());
  CHECK(add_tunings(scratch.file(), some) == "");
  CHECK(equal(read_tunings(scratch.file()).tunings, some));
  CHECK(add_tunings(scratch.file(), {{"a", {.kernel = "direct"}}, {"c", {.kernel = "direct"}}}) == "");
  Tunings more = some;
  more["c"] = {.kernel = "direct"};
  CHECK(equal(read_tunings(scratch.file()).tunings, more));
  const auto files = fs::directory_iterator(scratch.file().parent_path());
  CHECK(std::distance(begin(files), end(files)) == 2);  // and the lock: nothing unfinished
  CHECK(read_tunings(scratch.file()).ignored == "");
}

TEST_CASE("tunings: a corrupt, old or foreign file is as none, and is replaced") {
  const ScratchFolder scratch;
  REQUIRE(add_tunings(scratch.file(), some) == "");
  const Json good = read_json(scratch.file());
  const auto changed = [&](const char* pointer, const Json& value) {
    Json json = good;
    json[Json::json_pointer(pointer)] = value;
    return json.dump();
  };
  const std::string whole = good.dump();
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("3"), std::string("{}"),
        whole.substr(0, whole.size() / 2), changed("/format", 0), changed("/cpu", "another"),
        changed("/library", "fusetape 0.0.1"), changed("/convolutions", 7),
        changed("/onednn_instructions", 1), changed("/convolutions/0", "winograd"),
        changed("/convolutions/0/blocking", "wide"), changed("/convolutions/1/kernel", 3)}) {
    CAPTURE(text);
    write_text(scratch.file(), text);
    const StoredTunings stored = read_tunings(scratch.file());
    CHECK(stored.tunings.empty());
    CHECK(stored.ignored.empty() == text.empty());
    CHECK(add_tunings(scratch.file(), some) == "");
    CHECK(equal(read_tunings(scratch.file()).tunings, some));
  }
}

TEST_CASE("tunings: the file is in the user's cache") {
  {
    const Environment cache("XDG_CACHE_HOME", "/somewhere"), home("HOME", "/home/me");
    CHECK(default_tuning_file().string().starts_with("/somewhere/fusetape/tuning-"));
  }
  const Environment home("HOME", "/home/me");
  for (const char* no_folder : {"", "relative"}) {
    const Environment cache("XDG_CACHE_HOME", no_folder);
    CHECK(default_tuning_file().string().starts_with("/home/me/.cache/fusetape/tuning-"));
    const Environment homeless("HOME", "");
    CHECK(default_tuning_file().empty());
  }
}

TEST_CASE("tunings: what is no file is ignored, and said") {
  const ScratchFolder scratch;
  fs::create_directories(scratch.file());
  const StoredTunings stored = read_tunings(scratch.file());
  CHECK(stored.tunings.empty());
  CHECK(contains(stored.ignored, "directory"));
  CHECK(contains(add_tunings(scratch.file(), some), "directory"));
}

TEST_CASE("tunings: writers take turns, and lose nothing of each other") {
  const ScratchFolder scratch;
  REQUIRE(add_tunings(scratch.file(), some) == "");
  const int lock = ::open((scratch.file().string() + ".lock").c_str(), O_RDONLY);
  REQUIRE(::flock(lock, LOCK_EX) == 0);
  CHECK(contains(add_tunings(scratch.file(), {{"c", {.kernel = "direct"}}}), "cannot lock "));
  CHECK(equal(read_tunings(scratch.file()).tunings, some));
  ::close(lock);

  constexpr int each = 8;
  const auto write_all = [&](const std::string& name) {
    for (int i = 0; i < each; ++i) {  // on a busy machine a turn may take longer than a writer's patience
      while (!add_tunings(scratch.file(), {{name + std::to_string(i), {.kernel = "direct"}}}).empty()) {
      }
    }
  };
  std::thread one(write_all, "one"), other(write_all, "other");
  one.join();
  other.join();
  CHECK(read_tunings(scratch.file()).tunings.size() == some.size() + 2 * each);
}

TEST_CASE("tunings: of too many, the oldest go") {
  const ScratchFolder scratch;
  REQUIRE(add_tunings(scratch.file(), {{"the first", {.kernel = "direct"}}}) == "");
  Tunings many;
  for (std::size_t i = 1; i < most_stored_tunings; ++i) many["a " + std::to_string(i)] = {.kernel = "direct"};
  REQUIRE(add_tunings(scratch.file(), many) == "");
  CHECK(read_tunings(scratch.file()).tunings.contains("the first"));
  REQUIRE(add_tunings(scratch.file(), {{"a last", {.kernel = "direct"}}}) == "");
  const Tunings stored = read_tunings(scratch.file()).tunings;
  CHECK(stored.size() == most_stored_tunings);
  CHECK_FALSE(stored.contains("the first"));
  CHECK(stored.contains("a last"));
}
