#pragma once
#include <initializer_list>
#include <utility>
#include <vector>

namespace fusetape {

/// Axes of a tensor, negative ones from the end: `sum(x, 1)`, `sum(x, {0, -1})`. None stands for all.
class Axes {
 public:
  Axes() = default;
  Axes(int axis) : list_{axis} {}
  Axes(std::initializer_list<int> axes) : list_(axes) {}
  Axes(std::vector<int> axes) : list_(std::move(axes)) {}
  bool empty() const { return list_.empty(); }
  auto begin() const { return list_.begin(); }
  auto end() const { return list_.end(); }

 private:
  std::vector<int> list_;
};

struct ReduceOptions {
  bool keep_dims = false;
};

}  // namespace fusetape
