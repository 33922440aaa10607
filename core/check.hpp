#pragma once

namespace fusetape::core {
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);
}

/// A broken invariant of the library itself, never a user's mistake. Always on: it guards no hot loop.
#define FUSETAPE_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::fusetape::core::assertion_failed(#condition, __FILE__, __LINE__))
