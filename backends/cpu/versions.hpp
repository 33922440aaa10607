#pragma once
#include <string>

namespace fusetape::backends::cpu {

/// As versions(), without the CPUs: what kernels' times depend on.
std::string library_versions();

}  // namespace fusetape::backends::cpu
