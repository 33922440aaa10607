#pragma once
#include <source_location>
#include <stdexcept>
#include <string>

namespace fusetape {

/// The caller's source line, as a last defaulted argument: `Location at = Location::current()`.
using Location = std::source_location;

/// What every mistake of a user throws: "[conv2d] expected … got … (model.cpp:42)".
class Error : public std::runtime_error {
 public:
  Error(const std::string& op, const std::string& what, Location at = Location::current());
  /// With the place in the model (`stages.1.0.conv2`) that recorded the op.
  Error(const std::string& op, const std::string& what, Location at, const std::string& module_path);

  const std::string& op() const { return op_; }
  /// Without op and place.
  const std::string& message() const { return message_; }
  const Location& location() const { return location_; }

 private:
  std::string op_, message_;
  Location location_;
};

}  // namespace fusetape
