// Replaces one file, as a run would: save_once checkpoint|tuning FILE NUMBER. On failure, says why and
// exits 1.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "backends/cpu/tune/tuning_file.hpp"
#include "fusetape/fusetape.hpp"

int main(int argc, char** argv) try {
  if (argc != 4) return 2;
  const std::string kind = argv[1], file = argv[2];
  const float number = std::stof(argv[3]);
  if (kind == "checkpoint") {
    const fusetape::Tensor values = fusetape::from_vector(std::vector<float>(1000, number), {1000});
    fusetape::io::save_tensors(file, {.tensors = {{"values", values}}, .metadata = {}});
    return 0;
  }
  const std::string why = fusetape::backends::cpu::tune::add_tunings(
      file, {{"convolution " + std::to_string(number), {.kernel = "direct"}}});
  if (why.empty()) return 0;
  std::fprintf(stderr, "%s: %s\n", file.c_str(), why.c_str());
  return 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
