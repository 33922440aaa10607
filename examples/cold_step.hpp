#pragma once
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <exception>
#include <stdexcept>

#include "command_line.hpp"

/// The time of a program's very first step.
namespace examples {

/// In a process of its own, where no library has created a kernel yet. To be called before this process runs
/// a step.
template <class Step>
double cold_step_ms(Step&& step) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) throw std::runtime_error("no pipe for the process that times a first step");
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("no process to time a first step in");
  if (child == 0) {
    int status = 1;
    try {
      const double ms = step();
      if (::write(ends[1], &ms, sizeof ms) == sizeof ms) status = 0;
    } catch (const std::exception& error) {
      complain("compare_fusion", error.what());
    }
    ::_exit(status);
  }
  double ms = 0;
  ::close(ends[1]);
  const bool complete = ::read(ends[0], &ms, sizeof ms) == sizeof ms;
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  if (!complete) throw std::runtime_error("the process that times a first step failed");
  return ms;
}

}  // namespace examples
