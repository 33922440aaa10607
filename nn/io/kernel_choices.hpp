#pragma once
#include <optional>
#include <string>
#include <vector>

#include "fusetape/runtime.hpp"

/// The kernels that a run took, as a text of its checkpoint.
namespace fusetape::io {

std::string text_of(const std::vector<KernelChoice>& choices);
/// nullopt: the text is of something else.
std::optional<std::vector<KernelChoice>> parse_kernel_choices(const std::string& text);

/// Choices of this thread for other work stay.
void restore_kernel_choices(const std::vector<KernelChoice>& choices);

}  // namespace fusetape::io
