#pragma once
#include <charconv>
#include <string>
#include <utility>
#include <vector>

#include "fusetape/io.hpp"

/// The parts of a training run, under the names that a checkpoint has them by.
namespace fusetape::io {

using optim::Settings;

/// A part and what its names in a file begin with: "optimizer.", or "optimizer.NAME." where there are
/// several.
template <class Part>
struct Prefixed {
  std::string prefix;
  Part* part;
};

std::vector<Prefixed<optim::Optimizer>> optimizers_of(const Training& training);
std::vector<Prefixed<optim::Schedule>> schedules_of(const Training& training);

/// Throws, as `op`, where names are not what Training asks for, or parameters are exchanged.
void check_parts(const char* op, const Training& training, Location at);

/// Every tensor that a checkpoint of these parts holds, by name.
std::vector<std::pair<std::string, Cell>> cells_of(const Training& training);

/// The settings of a part, under the keys that a file has them by.
struct SettingsOfPart {
  std::string prefix, kind_key, kind;  ///< a part without kinds has none
  Settings values;
};
std::vector<SettingsOfPart> settings_of(const Training& training);

/// Digits that read back as the same number.
template <class Number>
std::string to_text(Number number) {
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof(digits), number);
  return std::string(digits, end.ptr);
}

}  // namespace fusetape::io
