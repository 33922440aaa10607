// The fuzz targets on their corpus, and on what a damaged disk would make of it.
#include <doctest/doctest.h>

#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/numerics/philox.hpp"
#include "fuzz/readers.hpp"

namespace fs = std::filesystem;
using fusetape::fuzz::Target;
using Bytes = std::vector<std::uint8_t>;

namespace {

/// What is wrong; empty where nothing is.
std::string fault(const Target& target, const Bytes& bytes) {
  try {
    target.run(bytes);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

Bytes contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Cut off, with a byte changed, or with a stretch moved.
Bytes damaged(Bytes bytes, std::uint64_t key) {
  const fusetape::core::PhiloxBlock random = fusetape::core::philox_block(key, 0);
  if (bytes.empty()) return bytes;
  const std::size_t place = random[0] % bytes.size(), other = random[1] % bytes.size();
  switch (key % 4) {
    case 0:
      bytes.resize(place);
      break;
    case 1:
      bytes[place] = static_cast<std::uint8_t>(random[2]);
      break;
    case 2:
      bytes[place] = static_cast<std::uint8_t>(bytes[place] ^ 1u << random[2] % 8);
      break;
    default:
      bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(place), bytes[other]);
  }
  return bytes;
}

}  // namespace

TEST_CASE("the readers take or refuse every file of the corpus, whole and damaged") {
  for (const Target& target : fusetape::fuzz::targets) {
    CAPTURE(target.name);
    std::size_t files = 0;
    for (const auto& entry :
         fs::directory_iterator(fs::path(FUSETAPE_TESTS_DIR) / "fuzz/corpus" / target.name)) {
      const Bytes bytes = contents(entry.path());
      CAPTURE(entry.path().string());
      CHECK(fault(target, bytes) == "");
      for (std::uint64_t key = 0; key < 100; ++key) {
        CAPTURE(key);
        CHECK(fault(target, damaged(bytes, key)) == "");
      }
      ++files;
    }
    CHECK(files >= 3);
  }
}
