#pragma once
#include "fusetape/report.hpp"

namespace fusetape::core {

/// Tells of a new plan what FUSETAPE_EXPLAIN asks for: 1 prints it to stderr; a path that ends in .html,
/// .json, .dot or .txt is overwritten with it. A failure is a line on stderr.
void explain_as_asked(const Report& report);

}  // namespace fusetape::core
