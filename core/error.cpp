#include "fusetape/error.hpp"

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "core/check.hpp"
#include "core/op/op.hpp"

namespace fusetape {
namespace {

std::string place(Location at, const std::string& module_path) {
  const std::string_view file = at.file_name();
  std::string text = " (";
  if (!module_path.empty()) text += module_path + ", ";
  text += file.substr(file.find_last_of('/') + 1);
  return text + ":" + std::to_string(at.line()) + ")";
}

}  // namespace

Error::Error(const std::string& op, const std::string& what, Location at)
    : Error(op, what, at, std::string()) {}

Error::Error(const std::string& op, const std::string& what, Location at, const std::string& module_path)
    : std::runtime_error("[" + op + "] " + what + place(at, module_path)),
      op_(op),
      message_(what),
      location_(at) {}

namespace core {

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "fusetape: internal error: %s does not hold (%s:%d)\n", condition, file, line);
  std::abort();
}

}  // namespace core
}  // namespace fusetape
