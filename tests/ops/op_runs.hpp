#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "compare.hpp"
#include "helpers.hpp"
#include "tests/ops/op_cases.hpp"

/// Runs op cases, forward and backward, in one mode or another, and compares what comes out.
namespace fusetape::tests {

std::vector<OpCase> all_cases();

/// The case's numbers for an input, and for all of them.
Tensor data_for(const Input& input, std::size_t index, DType dtype);
Inputs data_for(const OpCase& op_case, DType dtype);
inline bool wants_gradient(const Input& input) { return !input.constant; }
std::int64_t input_elements(const OpCase& op_case);

/// Σ w·y over the results that are differentiable, with weights of both signs.
Tensor weighted_sum(const Results& results);

struct Mode {
  const char* name;
  const char* backend;
  bool fusion, eager;
};
inline constexpr Mode oracle{"reference, unfused", "reference", false, false};
inline constexpr Mode unfused{"cpu, unfused", "cpu", false, false};
inline constexpr Mode fused{"cpu, fused", "cpu", true, false};
inline constexpr Mode eager{"cpu, eager", "cpu", true, true};
inline constexpr Mode fused_oracle{"reference, fused", "reference", true, false};

struct CaseOutcome {
  std::vector<Numbers> numbers;
  std::vector<std::string> labels;  ///< of each
  std::set<std::string> groups;     ///< of the runs where no handle keeps a value from being fused away
  std::map<std::string, std::set<std::string>> kernels;  ///< what ran each of the groups

  void add(const std::string& label, const Tensor& tensor) {
    labels.push_back(label);
    numbers.push_back(tensor.to_vector<double>());
  }
};

/// Adds the names of the last run's groups and of their kernels.
void collect_groups(CaseOutcome& outcome);

CaseOutcome run(const OpCase& op_case, DType dtype, const Mode& mode);
/// Forward and backward in one run, and nothing read: for explain(), on any backend.
void run_together(const OpCase& op_case, DType dtype);
/// Fails the test where two outcomes are further apart than the tolerance.
void compare(const OpCase& op_case, const std::string& what, const CaseOutcome& got,
             const CaseOutcome& expected, double tolerance);
/// Fails the test where `body` throws an Error.
void expect_no_error(const OpCase& op_case, const std::function<void()>& body);

}  // namespace fusetape::tests
