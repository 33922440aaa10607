#include "core/numerics/number_text.hpp"

#include <limits>

namespace fusetape::core {
namespace {

/// Of the largest number, as `fixed`, with a sign, a point and as many digits behind it as anybody asks for.
constexpr int longest = std::numeric_limits<double>::max_exponent10 + 32;

}  // namespace

std::string number_text(double number) {
  char text[longest];
  return {text, std::to_chars(text, text + sizeof text, number).ptr};
}

std::string number_text(double number, std::chars_format format, int digits) {
  char text[longest];
  return {text, std::to_chars(text, text + sizeof text, number, format, digits).ptr};
}

}  // namespace fusetape::core
