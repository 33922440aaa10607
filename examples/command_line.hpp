#pragma once
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <exception>
#include <iostream>
#include <limits>
#include <string>

/// How the example programs begin and end: every mistake is one line on stderr and a non-zero exit.
namespace examples {

/// What a seed may be; CLI11 alone would take -1 for a large number.
inline const CLI::Range seeds(std::int64_t{0}, std::numeric_limits<std::int64_t>::max());

inline int complain(const std::string& program, std::string what) {
  std::replace(what.begin(), what.end(), '\n', ' ');
  std::cerr << program << ": " << what << '\n';
  return 1;
}

/// Parses, then runs `body`; the program's exit status.
template <class Body>
int run(CLI::App& app, int argc, char** argv, Body&& body) {
  const std::string program = app.get_name();
  try {
    app.parse(argc, argv);
    body();
    std::cout.flush();
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    return complain(program, std::string(error.what()) + " (--help lists the options)");
  } catch (const std::exception& error) {
    return complain(program, error.what());
  }
}

}  // namespace examples
