#pragma once
#include <cstdlib>
#include <string>
#include <string_view>

#include "fusetape/error.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape::tests {

/// A backend for a scope.
class OnBackend {
 public:
  explicit OnBackend(std::string_view name) : before_(backend_name()) { set_backend(name); }
  ~OnBackend() { set_backend(before_); }
  OnBackend(const OnBackend&) = delete;
  OnBackend& operator=(const OnBackend&) = delete;

 private:
  std::string before_;
};

/// Whether kernels with AVX-512 may run: the CPU has it, and nobody asked for less.
inline bool has_avx512() {
  return __builtin_cpu_supports("avx512bw") != 0 && std::getenv("FUSETAPE_ISA") == nullptr;
}

/// Fusion on or off for a scope.
struct Fusion : With {
  explicit Fusion(bool on) : With({.fusion = on}) {}
};

/// Eager mode on or off for a scope.
struct Eager : With {
  explicit Eager(bool on) : With({.eager = on}) {}
};

/// How convolutions are computed, for a scope.
struct ConvBy : With {
  explicit ConvBy(ConvAlgorithm algorithm) : With({.conv_algorithm = algorithm}) {}
};

/// Threads for a kernel's own parts. One under ThreadSanitizer: it does not see the barriers of GNU OpenMP.
#ifdef __SANITIZE_THREAD__
inline constexpr int most_threads = 1;
#else
inline constexpr int most_threads = 2;
#endif
/// So many, or one under ThreadSanitizer.
constexpr int allowed(int threads) { return most_threads == 1 ? 1 : threads; }

/// Whether operator new throws where there is no memory: a sanitizer's ends the process.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool new_throws = false;
#else
inline constexpr bool new_throws = true;
#endif

/// What the Error that `body` throws says; empty where it throws none.
template <class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

/// The groups of the last run: "conv2d+bias; relu; ".
inline std::string group_names() {
  std::string names;
  for (const GroupReport& group : explain().groups) names += group.name + "; ";
  return names;
}

/// Why the rule refused, in the last plan; empty where it did not.
inline std::string refusal_of(const std::string& rule) {
  for (const RefusalReport& refusal : explain().refusals) {
    if (refusal.rule == rule) return refusal.reason;
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace fusetape::tests
