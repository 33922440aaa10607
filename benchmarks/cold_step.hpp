#pragma once
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <exception>
#include <stdexcept>

#include "examples/command_line.hpp"

/// A program's very first step.
namespace benchmarks {

struct ColdStep {
  double ms = 0;
  double resident_bytes = 0;  ///< by which the process grew at most: model, data, kernels, whatever there is
};

inline double most_resident_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return 1024.0 * static_cast<double>(usage.ru_maxrss);
}

/// `step` makes its model, takes its first step and returns how long that took. It runs in a process of its
/// own, where no library has created a kernel yet. To be called before this process runs a step.
template <class Step>
ColdStep cold_step(Step&& step) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) throw std::runtime_error("no pipe for the process that times a first step");
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("no process to time a first step in");
  if (child == 0) {
    int status = 1;
    try {
      const double before = most_resident_bytes(), ms = step();
      const ColdStep cold{.ms = ms, .resident_bytes = most_resident_bytes() - before};
      if (::write(ends[1], &cold, sizeof cold) == sizeof cold) status = 0;
    } catch (const std::exception& error) {
      examples::complain("compare_fusion", error.what());
    }
    ::_exit(status);
  }
  ColdStep cold;
  ::close(ends[1]);
  const bool complete = ::read(ends[0], &cold, sizeof cold) == sizeof cold;
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  if (!complete) throw std::runtime_error("the process that times a first step failed");
  return cold;
}

}  // namespace benchmarks
