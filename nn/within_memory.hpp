#pragma once
#include <new>
#include <stdexcept>
#include <string>

#include "fusetape/error.hpp"

namespace fusetape {

/// What `make` makes; an Error where the memory does not suffice.
template <class Make>
auto within_memory(const char* op, const std::string& what, Location at, Make&& make) {
  try {
    return make();
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {
  }
  throw Error(op, "there is no memory for " + what, at);
}

}  // namespace fusetape
