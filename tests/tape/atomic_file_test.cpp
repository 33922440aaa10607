// Files that are replaced as wholes: by what names, beside whom, through which links.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "backends/cpu/tune/tuning_file.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "scratch_folder.hpp"

namespace ft = fusetape;
namespace fs = std::filesystem;
using namespace fusetape::tests;

namespace {

struct Folder : ScratchFolder {
  Folder() { fs::create_directories(path()); }
  std::string operator/(const std::string& name) const { return (path() / name).string(); }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(path()))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
};

using Names = std::vector<std::string>;

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write(const std::string& path, const std::string& text = "half a f") { std::ofstream(path) << text; }

/// Replaces a file by something new.
using Replace = void (*)(const std::string& path);
constexpr Replace ways[] = {
    [](const std::string& path) { ft::io::replace_file(path, "new"); },
    [](const std::string& path) {
      ft::io::save_tensors(path, {.tensors = {{"a", ft::scalar(1)}}, .metadata = {}});
    },
    [](const std::string& path) { ft::io::save_checkpoint(path, {}); },
    [](const std::string& path) {
      CHECK(fusetape::backends::cpu::tune::add_tunings(path, {{"a", {.kernel = "direct"}}}) == "");
      fs::remove(path + ".lock");
    },
};

}  // namespace

TEST_CASE("atomic files: what a killed process of the same number left stands in no save's way") {
  for (const Replace replace : ways) {
    const Folder folder;
    const std::string path = folder / "file", number = std::to_string(::getpid());
    for (int i = 0; i < 300; ++i) write(path + ".tmp." + number + "." + std::to_string(i));
    CHECK_NOTHROW(replace(path));
    CHECK(fs::exists(path));
  }
}

TEST_CASE("atomic files: a save removes what killed saves to the same file left, and nothing else") {
  const std::string digits = "0123456789abcdef";
  for (const Replace replace : ways) {
    const Folder folder;
    write(folder / ("file.tmp." + digits));
    write(folder / "file.tmp.ffffffffffffffff");
    const Names others{
        "file.tmp." + digits + "0", "file.tmp.0123456789abcdeg", "file.tmp.1", "file2.tmp." + digits, "files",
        "xfile.tmp." + digits};
    for (const std::string& name : others) write(folder / name);
    // Of a process that lives, and of one that writes its first bytes only now.
    const std::string living = "file.tmp.aaaaaaaaaaaaaaaa";
    const int held = ::open((folder / living).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(::flock(held, LOCK_EX) == 0);

    replace(folder / "file");
    Names expected = others;
    expected.insert(expected.begin(), {"file", living});
    std::sort(expected.begin(), expected.end());
    CHECK(folder.names() == expected);
    ::close(held);
    ft::io::remove_abandoned(folder / "file");
    expected.erase(std::find(expected.begin(), expected.end(), living));
    CHECK(folder.names() == expected);
  }
  ft::io::remove_abandoned("no/such/folder/file");
}

TEST_CASE("atomic files: a symbolic link is written through") {
  for (const Replace replace : ways) {
    const Folder folder;
    fs::create_directories(folder / "there");
    for (const char* target : {"there/file", "/there/file"}) {
      const std::string real = folder / "there/file", link = folder / "link";
      for (const bool dangling : {false, true}) {
        fs::remove(link), fs::remove(real);
        fs::create_symlink(*target == '/' ? real : std::string(target), folder / "there/../second");
        fs::create_symlink("second", link);
        if (!dangling) write(real, "old");
        write(real + ".tmp.0123456789abcdef");
        replace(link);
        CHECK(fs::is_symlink(link));
        CHECK(fs::is_regular_file(fs::symlink_status(real)));
        CHECK(contents(real) != "old");
        CHECK_FALSE(fs::exists(real + ".tmp.0123456789abcdef"));
        fs::remove(folder / "second");
      }
    }
  }
}

TEST_CASE("atomic files: what is no file is not replaced") {
  const Folder folder;
  const std::string pipe = folder / "pipe", loop = folder / "loop", below = folder / "below";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  fs::create_symlink("loop", loop);
  fs::create_directories(below);
  const Names before = folder.names();
  const auto message = [](const std::string& path) {
    return message_of([&] { ft::io::replace_file(path, "new"); });
  };
  CHECK(contains(message(pipe), pipe + ": cannot be replaced: it is no file"));
  CHECK(contains(message(loop), "Too many levels of symbolic links"));
  CHECK(contains(message(below), "Is a directory"));
  CHECK(contains(message("/dev/null"), "/dev/null: cannot be replaced: it is no file"));
  CHECK(contains(message(""), "[save] "));
  CHECK(folder.names() == before);
}

TEST_CASE("atomic files: those who save to one file at once leave one whole file") {
  const Folder folder;
  const std::string path = folder / "file";
  std::atomic<int> failed = 0;
  const auto save_all = [&](char letter) {
    for (int i = 0; i < 20; ++i) {
      try {
        ft::io::replace_file(path, std::string(10'000, letter));
      } catch (const ft::Error&) {
        ++failed;
      }
    }
  };
  std::thread one(save_all, 'a'), other(save_all, 'b');
  one.join();
  other.join();
  CHECK(failed == 0);
  const std::string text = contents(path);
  CHECK(text == std::string(10'000, text.at(0)));
  CHECK(folder.names() == Names{"file"});
}
