#pragma once
#include <memory>
#include <string_view>

#include "core/plan/backend.hpp"

namespace fusetape::core {

/// The process's backend of that name, made when it is first asked for; nullptr when the name is none. Throws
/// where there is no such device.
plan::Backend* backend_named(std::string_view name);
/// One more, known by its own name() from now on, for the rest of the process.
void add_backend(std::unique_ptr<plan::Backend> backend);

/// "cpu", "reference", "null" or "cuda", made anew. Throws where there is no such device. The one function of
/// backends/ that the core calls: backends/make_backend.cpp defines it.
std::unique_ptr<plan::Backend> make_backend(std::string_view name);

}  // namespace fusetape::core
