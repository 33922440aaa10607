#pragma once
#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "fusetape/module.hpp"

namespace fusetape::nn {

/// What summary() tells of a module: its own, without its children.
struct SummaryRow {
  std::string path;             ///< "" for the model itself
  std::string type;             ///< "Conv2d"
  int depth = 0;                ///< 0: the model itself
  Shape output;                 ///< of its last call
  bool called = false;          ///< false: not called, or with more than one tensor; there is no output
  std::int64_t parameters = 0;  ///< elements, a shared parameter where it is first
  double flops = 0;             ///< of convolutions and matrix products, forward: two a multiply-add
  std::int64_t kept_bytes = 0;  ///< of its ops' results, as a training step's plan keeps them for backward
};

struct Summary {
  std::vector<SummaryRow> rows;  ///< parents before their children, in the order of registration
  std::int64_t parameters = 0, trainable = 0;
  double flops = 0;
  std::int64_t kept_bytes = 0;  ///< of a whole step, beside parameters and inputs
  std::string to_string() const;
};
std::ostream& operator<<(std::ostream& out, const Summary& summary);

/// Plans forward and backward of model(input) and runs nothing of it: parameters, gradients, running
/// statistics, random numbers and explain() are as before, also where it throws. What is pending is run
/// first. A forward() that reads a value throws. Modules that the model borrows are counted in the total, and
/// in rows of the same path.
Summary summary(Module& model, const Tensor& input, Location at = Location::current());

}  // namespace fusetape::nn
