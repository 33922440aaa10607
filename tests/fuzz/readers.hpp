#pragma once
#include <cstdint>
#include <span>

/// The readers of foreign bytes, as targets of a fuzzer: fuzz_readers_test.cpp replays the corpus with any
/// compiler, `make fuzz-readers` searches with libFuzzer.
namespace fusetape::fuzz {

using Bytes = std::span<const std::uint8_t>;

/// Each reads a file of these bytes, and ends well where the reader takes it or refuses it with an Error.
/// Anything else is a fault: it leaves as another exception, or as a std::logic_error that says what does not
/// hold.
void safetensors(Bytes bytes);
void checkpoint(Bytes bytes);  ///< into a small run, which a refused file must leave as it was
void cifar(Bytes bytes);  ///< as CIFAR-10 or, where the first byte is odd, CIFAR-100; the file is the rest
void idx(Bytes bytes);  ///< the first byte says how many bytes are the labels' file; the images' is the rest
void tuning_file(
    Bytes bytes);  ///< whole or, where the first byte is odd, the rest is its list of convolutions

struct Target {
  const char* name;  ///< of its folder in corpus/, too
  void (*run)(Bytes);
};
constexpr Target targets[] = {{"safetensors", safetensors},
                              {"checkpoint", checkpoint},
                              {"cifar", cifar},
                              {"idx", idx},
                              {"tuning_file", tuning_file}};

}  // namespace fusetape::fuzz
