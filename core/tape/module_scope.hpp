#pragma once
#include <string>

#include "core/plan/graph.hpp"
#include "core/tape/journal.hpp"
#include "fusetape/error.hpp"

namespace fusetape::nn {
class Module;
}

/// Where and for what the ops recorded now are called: module path, the user's line, the phase of the step.
namespace fusetape::core {

struct SourceContext {
  const std::string* module_path = nullptr;
  Location at;  ///< of the user's call of the outermost library module
  bool has_location = false;
  bool override_location = false;  ///< gradients and optimizers: `at` replaces the location of every op
  plan::Phase phase = plan::Phase::forward;
  bool recomputed = false;             ///< ops of a checkpoint, for its gradient
  const nn::Module* module = nullptr;  ///< the innermost one that is running
};

SourceContext& source_context();

/// The line from which user code called the library module that is running now.
Location current_location(Location otherwise = Location::current());

class ModuleScope {
 public:
  ModuleScope(const nn::Module& module, const std::string* path, Location at) : before_(source_context()) {
    source_context().module = &module;
    source_context().module_path = path;
    source_context().at = at;
    source_context().has_location = true;
  }
  ~ModuleScope() { source_context() = before_; }
  ModuleScope(const ModuleScope&) = delete;
  ModuleScope& operator=(const ModuleScope&) = delete;

 private:
  SourceContext before_;
  BindingScope bindings_;
};

/// Everything recorded while it lives belongs to `phase` and is attributed to `at` in `path`.
class PhaseScope {
 public:
  PhaseScope(plan::Phase phase, Location at, const std::string* path = nullptr) : before_(source_context()) {
    source_context() = {path, at, true, true, phase};
  }
  ~PhaseScope() { source_context() = before_; }
  PhaseScope(const PhaseScope&) = delete;
  PhaseScope& operator=(const PhaseScope&) = delete;

 private:
  SourceContext before_;
};

/// What a library function records of other ops while it lives is the caller's line.
class LineScope {
 public:
  explicit LineScope(Location at) : before_(source_context()) {
    if (before_.override_location) return;
    source_context().at = at;
    source_context().override_location = true;
  }
  ~LineScope() { source_context() = before_; }
  LineScope(const LineScope&) = delete;
  LineScope& operator=(const LineScope&) = delete;

 private:
  SourceContext before_;
};

}  // namespace fusetape::core
