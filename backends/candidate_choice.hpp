#pragma once
#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "backends/backend.hpp"

/// Kernel choice by ordered lists, as each device has them: the first candidate that supports a group makes
/// its kernel.
namespace fusetape::backends {

template <class Candidate>
struct Choice {
  const Candidate* candidate = nullptr;
  std::string refusals;  ///< of all, where none supports the group: "name: reason; name: reason"
};

/// `more`: what the candidates ask for beside the group. A refusal with an empty reason is not told: the
/// group is none of that candidate's business.
template <class Candidate, std::size_t Lists, class... More>
Choice<Candidate> choose(const std::array<std::span<const Candidate>, Lists>& lists, const plan::Graph& graph,
                         const plan::Group& group, More&... more) {
  Choice<Candidate> choice;
  for (const std::span<const Candidate> list : lists) {
    for (const Candidate& candidate : list) {
      const Support support = candidate.supports(graph, group, more...);
      if (support.ok) return {.candidate = &candidate, .refusals = {}};
      if (support.reason.empty()) continue;
      if (!choice.refusals.empty()) choice.refusals += "; ";
      choice.refusals += std::string(candidate.name) + ": " + support.reason;
    }
  }
  return choice;
}

/// Whether a candidate was found; else why not, for a group of several nodes. `device`: "CPU", "CUDA".
template <class Candidate>
Support support_of(const Choice<Candidate>& choice, const plan::Group& group, const char* device) {
  if (choice.candidate != nullptr) return {};
  if (!choice.refusals.empty()) return {.ok = false, .reason = choice.refusals};
  return {.ok = false, .reason = std::string("no ") + device + " kernel for " + group.name};
}

}  // namespace fusetape::backends
