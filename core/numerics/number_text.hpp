#pragma once
#include <charconv>
#include <string>

/// Numbers as text: the same in every process, whatever its locale.
namespace fusetape::core {

/// The shortest text that reads back as the same number: "0.1", "1e-05", "nan".
std::string number_text(double number);
/// As printf writes it: with `fixed` and 2 digits "0.10", with `scientific` and 2 digits "1.00e-01".
std::string number_text(double number, std::chars_format format, int digits);

}  // namespace fusetape::core
