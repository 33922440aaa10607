#pragma once
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fusetape/fusetape.hpp>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>

/// How the example programs begin and end: every mistake is one line on stderr and a non-zero exit.
namespace examples {

/// What a seed may be; CLI11 alone would take -1 for a large number.
inline const CLI::Range seeds(std::int64_t{0}, std::numeric_limits<std::int64_t>::max());

/// --precision of the programs that train.
inline void add_precision(CLI::App& app, std::string& precision) {
  app.add_option("--precision", precision, "bf16, f16: mixed, with parameters and their updates in f32")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}))
      ->capture_default_str();
}

/// --device of the programs that train; empty: as FUSETAPE_BACKEND says, or the CPU.
inline void add_device(CLI::App& app, std::string& device) {
  app.add_option("--device", device, "Where to compute; the CPU if not given")
      ->check(CLI::IsMember({"cpu", "cuda"}));
}
inline void use_device(const std::string& device) {
  if (device.empty()) return;
  try {
    fusetape::set_backend(device);
  } catch (const fusetape::Error& error) {  // names a line of ours, which is not the user's
    throw std::runtime_error("--device " + device + ": " + error.message());
  }
}

/// As ft::Autocast takes it.
inline fusetape::DType dtype_of(const std::string& precision) {
  if (precision == "bf16") return fusetape::DType::bf16;
  return precision == "f16" ? fusetape::DType::f16 : fusetape::DType::f32;
}

inline int complain(const std::string& program, std::string what) {
  std::replace(what.begin(), what.end(), '\n', ' ');
  std::cerr << program << ": " << what << '\n';
  return 1;
}

/// A thread of GNU OpenMP that waits spins for milliseconds unless its environment says less when the program
/// starts. Beside other busy programs that takes the time of whoever it waits for: so the program starts
/// again with less, once, where nobody has chosen.
inline void sleep_soon(char** argv) {
  // Where threads are bound, this one is already, and would hand that on to all of the next program's.
  for (const char* chosen :
       {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"}) {
    if (std::getenv(chosen) != nullptr) return;
  }
  constexpr const char* about_100_us = "30000";
  ::setenv("GOMP_SPINCOUNT", about_100_us, 1);
  ::execv("/proc/self/exe", argv);  // where that fails, it goes on as it is
}

/// Parses, then runs `body`; the program's exit status.
template <class Body>
int run(CLI::App& app, int argc, char** argv, Body&& body) {
  sleep_soon(argv);
  const std::string program = app.get_name();
  try {
    app.parse(argc, argv);
    body();
    std::cout.flush();
    std::fflush(stdout);
    if (!std::cout || std::ferror(stdout) != 0)
      return complain(program, "cannot write all of its output: the disk may be full");
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    return complain(program, std::string(error.what()) + " (--help lists the options)");
  } catch (const std::exception& error) {
    return complain(program, error.what());
  }
}

}  // namespace examples
