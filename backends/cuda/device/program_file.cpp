#include "backends/cuda/device/program_file.hpp"

#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <string_view>

#include "core/atomic_file.hpp"

namespace fusetape::backends::cuda {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view mark = "fusetape program 1\n";

/// FNV-1a: the same in every build.
std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::string hexadecimal(std::uint64_t number) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
  return text;
}

/// What stands before the code; the code's own hash tells a file that was cut or changed.
std::string head_of(const std::string& key, const std::string& code) {
  return std::string(mark) + std::to_string(key.size()) + ' ' + std::to_string(code.size()) + ' ' +
         hexadecimal(hash_of(code)) + '\n' + key;
}

}  // namespace

fs::path program_file(const fs::path& folder, const std::string& key) {
  return folder / ("program-" + hexadecimal(hash_of(key)) + ".bin");
}

std::string read_program(const fs::path& folder, const std::string& key) {
  if (folder.empty()) return {};
  std::ifstream in(program_file(folder, key), std::ios::binary);
  const std::string all(std::istreambuf_iterator<char>(in), {});
  // The head ends where the key does, and tells of the code that follows it.
  const std::size_t line = all.find('\n', mark.size());
  if (!in || line == std::string::npos || all.size() <= line + 1 + key.size()) return {};
  std::string code = all.substr(line + 1 + key.size());
  return all.starts_with(head_of(key, code)) ? code : std::string();
}

void write_program(const fs::path& folder, const std::string& key, const std::string& code) {
  if (folder.empty()) return;
  try {
    fs::create_directories(folder);
    core::replace_file(program_file(folder, key), head_of(key, code) + code);
  } catch (const std::exception&) {
    // An unwritable folder costs time, and nothing else.
  }
}

}  // namespace fusetape::backends::cuda
