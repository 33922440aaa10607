#pragma once
#include <cmath>
#include <string>

#include "core/numerics/checked.hpp"
#include "core/numerics/number_text.hpp"
#include "fusetape/optim.hpp"

namespace fusetape::optim {

/// Throws where the options of a part are none that it takes.
struct SettingCheck {
  std::string of;  ///< the part, for errors
  Location at;

  void operator()(bool ok, const char* expected, double got) const {
    if (!ok) throw Error(of, std::string("expected ") + expected + ", got " + core::number_text(got), at);
  }
};

/// Reads settings that somebody else wrote.
struct SettingReader {
  const Settings& settings;
  std::string of;  ///< the part, for errors
  Location at;

  double number(const std::string& name) const {
    const auto found = settings.find(name);
    if (found == settings.end()) throw Error(of, "expected a setting " + name + ", got none", at);
    return found->second;
  }
  std::int64_t count(const std::string& name) const {
    const double value = number(name);
    if (!(value >= 0) || value > static_cast<double>(core::most_counted) || value != std::floor(value)) {
      throw Error(of, "expected " + name + " to be a whole number ≥ 0, got " + core::number_text(value), at);
    }
    return static_cast<std::int64_t>(value);
  }
};

}  // namespace fusetape::optim
