// Kernels made from text: compiling needs no device.
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>

#include "backends/cuda/device/nvrtc_program.hpp"
#include "backends/cuda/device/program_file.hpp"
#include "fusetape/error.hpp"
#include "scratch_folder.hpp"

using namespace fusetape::backends::cuda;
using fusetape::tests::ScratchFolder;

namespace {

const std::string twice = R"(
struct Args { const float* x; float* y; long long count; };
float doubled(float x) { return 2 * x; }
extern "C" __global__ void twice(const Args args) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < args.count) args.y[i] = doubled(args.x[i]);
}
)";

std::string contents(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void overwrite(const std::filesystem::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("NVRTC compiles a program for each architecture") {
  const std::string ampere = compile_program(twice, "sm_80"), hopper = compile_program(twice, "sm_90");
  CHECK(
      ampere.starts_with("\x7f"
                         "ELF"));
  CHECK(
      hopper.starts_with("\x7f"
                         "ELF"));
  CHECK(ampere != hopper);
  CHECK(compile_program(twice, "compute_80").find(".visible .entry twice(") != std::string::npos);
}

TEST_CASE("A program that does not compile says why, and for what") {
  CHECK_THROWS_WITH_AS(compile_program("__global__ void f() { g(); }", "sm_80"),
                       doctest::Contains("for sm_80: NVRTC_ERROR_COMPILATION"), fusetape::Error);
  CHECK_THROWS_WITH_AS(compile_program("__global__ void f() { g(); }", "sm_80"),
                       doctest::Contains("identifier \"g\" is undefined"), fusetape::Error);
}

TEST_CASE("A device that NVRTC does not know compiles PTX of an older one") {
  CHECK(nvrtc_target(8, 0) == "sm_80");
  CHECK(nvrtc_target(9, 0) == "sm_90");
  CHECK(nvrtc_target(99, 0).starts_with("compute_"));
  CHECK_THROWS_WITH_AS(nvrtc_target(2, 0), doctest::Contains("compute capability 20"), fusetape::Error);
}

TEST_CASE("A compiled program is found again on disk") {
  const ScratchFolder scratch;
  const std::string code = cached_program(twice, "sm_80", scratch.path());
  REQUIRE(std::distance(std::filesystem::directory_iterator(scratch.path()), {}) == 1);
  const std::filesystem::path file = std::filesystem::directory_iterator(scratch.path())->path();

  // A stand-in that only the disk can know.
  const std::string whole = contents(file), key = whole.substr(0, whole.size() - code.size());
  const std::string text_key = key.substr(key.find('\n', key.find('\n') + 1) + 1);
  CHECK(text_key.ends_with(twice));
  write_program(scratch.path(), text_key, "stand-in");
  CHECK(cached_program(twice, "sm_80", scratch.path()) == "stand-in");
  CHECK(cached_program(twice, "sm_90", scratch.path()) != "stand-in");

  overwrite(file, "spoilt");
  CHECK(cached_program(twice, "sm_80", scratch.path()) == code);
  CHECK(contents(file) == whole);
}

TEST_CASE("A program file that is not what was written, or of another key, is none") {
  const ScratchFolder scratch;
  const std::filesystem::path file = program_file(scratch.path(), "key");
  CHECK(read_program(scratch.path(), "key").empty());
  write_program(scratch.path(), "key", "code");
  const std::string whole = contents(file);
  REQUIRE(read_program(scratch.path(), "key") == "code");

  std::filesystem::copy_file(file, program_file(scratch.path(), "another"));
  CHECK(read_program(scratch.path(), "another").empty());
  for (const std::string& spoilt : {std::string(), std::string("\n"), whole.substr(0, whole.size() - 1),
                                    whole + "!", whole.substr(0, whole.size() - 1) + "E", whole.substr(1)}) {
    CAPTURE(spoilt);
    overwrite(file, spoilt);
    CHECK(read_program(scratch.path(), "key").empty());
  }
}

TEST_CASE("A folder that cannot be written to, or none, keeps no programs and stops nothing") {
  write_program({}, "key", "code");
  CHECK(read_program({}, "key").empty());
  const ScratchFolder scratch;
  overwrite(scratch.path(), "a file, no folder");
  write_program(scratch.path(), "key", "code");
  CHECK(read_program(scratch.path(), "key").empty());
}
