#pragma once
#include <string>

#include "core/plan/graph.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends {

/// Where a cross entropy was recorded, for what is said of its labels: a kernel outlives the graph.
struct LabelError {
  explicit LabelError(const plan::GraphNode& node)
      : at(node.at), module_path(node.module_path != nullptr ? *node.module_path : std::string()) {}

  Error operator()(std::int64_t classes, std::int64_t row, std::int64_t label) const {
    return {"cross_entropy",
            "expected labels in [0, " + std::to_string(classes) + "), got labels[" + std::to_string(row) +
                "] = " + std::to_string(label),
            at, module_path};
  }

  Location at;
  std::string module_path;
};

}  // namespace fusetape::backends
