// Every row of the fusion table does something somewhere. What its groups compute is ops_test.cpp's business.
#include <doctest/doctest.h>

#include <set>

#include "backends.hpp"
#include "benchmarks/subjects.hpp"
#include "tests/ops/op_runs.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;

namespace {

using Rules = std::set<std::string>;

void collect_rules(Rules& seen) {
  for (const ft::GroupReport& group : ft::explain().groups) seen.insert(group.rule);
}

/// The rules that make groups of these cases, with their gradients and in evaluation.
void run_cases(const std::vector<OpCase>& cases, DType dtype, Rules& seen) {
  for (const OpCase& op_case : cases) {
    if (op_case.flags.wide_only && dtype != DType::f32) continue;
    run_together(op_case, dtype);
    collect_rules(seen);
    const Results results = ft::no_grad([&] { return op_case.call(data_for(op_case, dtype)); });
    ft::materialize();
    collect_rules(seen);
  }
}

/// The groups and the memory of training steps that are planned by these rules. (On the CPU: null's kernels
/// do not say what they could write in place.)
std::string plans_by(const std::vector<std::string>& rules) {
  const OnBackend backend("cpu");
  const ConvBy automatic(ft::ConvAlgorithm::automatic);
  const ft::Retention before = ft::retention();
  std::string plans;
  for (const ft::Retention retention : {ft::Retention::fastest, ft::Retention::smallest}) {
    ft::set_fusion_rules(rules);
    ft::set_retention(retention);
    benchmarks::SubjectFactory("bottleneck_small", DType::f32, 2, 1).make()->step(0);
    plans += group_names() + " peak " + std::to_string(ft::explain().peak_bytes) + "\n";
  }
  ft::set_retention(before);
  ft::set_fusion_rules({"all"});
  return plans;
}

/// A row without groups, for a pass of its own.
bool is_switch(const std::string& rule) {
  return rule == "carry" || rule == "mask" || rule == "recompute" || rule == "share in place";
}

}  // namespace

TEST_CASE("every fusion rule makes a group somewhere") {
  Rules seen;
  {
    const OnBackend backend("null");
    benchmarks::SubjectFactory("conv_bias_relu", DType::bf16, 2, 1)
        .make()
        ->step(0);  // with parameters in f32
    collect_rules(seen);
    for (const auto family : {fused_cases, norm_cases, conv_fused_cases, chain_cases, linear_cases,
                              update_cases, retention_cases, row_cases}) {
      for (const DType dtype : {DType::f32, DType::bf16}) run_cases(family(), dtype, seen);
    }
    const ConvBy winograd(ft::ConvAlgorithm::winograd);
    run_cases(carried_cases(), DType::f32, seen);
  }
  // One rule is for devices that carry sums, but no normalisation.
  if (has_cuda_double()) {
    const OnBackend device("cuda double");
    run_cases(carried_cases(), DType::f16, seen);
  } else {
    seen.insert("conv2d+batch_norm_statistics");
  }
  for (const ft::FusionRule& rule : ft::fusion_rules()) {
    if (!is_switch(rule.name)) CHECK_MESSAGE(seen.contains(rule.name), rule.name);
  }
}

TEST_CASE("every switch among the fusion rules changes a plan") {
  const std::string all = plans_by({"all"});
  for (const ft::FusionRule& left_out : ft::fusion_rules()) {
    if (!is_switch(left_out.name)) continue;
    std::vector<std::string> rules;
    for (const ft::FusionRule& rule : ft::fusion_rules()) {
      if (rule.name != left_out.name) rules.push_back(rule.name);
    }
    CHECK_MESSAGE((plans_by(rules) != all), left_out.name);
  }
}
