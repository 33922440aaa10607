// Pointwise nodes and chains on the CUDA backend.
#include <doctest/doctest.h>

#include "core/op/op.hpp"
#include "device_cases.hpp"

namespace ft = fusetape;
using ft::Shape;
using namespace fusetape::tests;
using ft::DType;

namespace {

constexpr Mode unfused_device{"cuda, unfused", "cuda double", false, false};
constexpr Mode fused_device{"cuda, fused", "cuda double", true, false};

std::vector<OpCase> pointwise_and_chain_cases() {
  std::vector<OpCase> cases = pointwise_cases();
  for (OpCase& op_case : chain_cases()) cases.push_back(std::move(op_case));
  return cases;
}

/// Which dtypes a case is for, of those that the device computes in.
std::vector<DType> dtypes_of(const OpCase& op_case) {
  if (op_case.flags.wide_only) return {DType::f32};
  return {DType::f32, DType::bf16, DType::f16};
}

bool is_pointwise(const ft::GroupReport& group) {
  return group.rule == "pointwise" || (group.ops == 1 && ft::core::find_op(group.name).pointwise != nullptr);
}

/// Whole numbers, and f64, stay on the host.
bool may_be_refused(const std::string& why) {
  return why.ends_with("f64") || why.ends_with("i64") || why.ends_with("u8");
}

/// What pointwise groups of the last run were computed by.
void check_kernels(const OpCase& op_case, DType dtype) {
  for (const ft::GroupReport& group : ft::explain().groups) {
    if (!is_pointwise(group) || may_be_refused(group.why)) continue;
    CHECK_MESSAGE(
        group.kernel.starts_with("nvrtc:pointwise"),
        op_case.name << ", " << std::string(name_of(dtype)) << ": " << group.name << ": " << group.why);
  }
}

/// Whether there are sums, for which there is more than one order of addition.
bool reduces(const OpCase& op_case) {
  const Fusion off(false);
  run_together(op_case, DType::f32);
  const std::string names = "; " + group_names();
  return contains(names, "; sum; ") || contains(names, "; mean; ");
}

}  // namespace

TEST_CASE("pointwise groups run on the device, forward and backward") {
  const OnDouble on_double;
  for (const OpCase& op_case : pointwise_and_chain_cases()) {
    if (input_elements(op_case) > 3000) continue;
    for (const DType dtype : dtypes_of(op_case)) {
      run_together(op_case, dtype);
      check_kernels(op_case, dtype);
    }
  }
}

TEST_CASE("one program serves shapes that differ in their first axis only") {
  for (const std::int64_t rows : {3, 5, 2, 8}) {
    CAPTURE(rows);
    check_on_device({"a column for each row",
                     {real({rows, 4}), real({rows, 1}), real({4})},
                     [](const Inputs& in) { return relu(in[0] * in[1] + in[2]); },
                     forward_only({})});
  }
}

TEST_CASE("chains give the bits of their nodes run one by one") {
  const OnDouble on_double;
  int compared = 0;
  for (const OpCase& op_case : chain_cases()) {
    if (input_elements(op_case) > 3000 || !op_case.flags.same_bits || reduces(op_case)) continue;
    for (const DType dtype : dtypes_of(op_case)) {
      const CaseOutcome one_by_one = run(op_case, dtype, unfused_device);
      compare(op_case, std::string(name_of(dtype)), run(op_case, dtype, fused_device), one_by_one, 0);
      ++compared;
    }
  }
  CHECK(compared > 50);
}

TEST_CASE("a sum at the end of a chain runs with it; what it cannot add leaves the chain as it is") {
  const OnDouble on_double;
  struct Case {
    std::vector<int> axes;
    const char* groups;
  };
  for (const Case& c : {Case{{0, 1}, "mul+add+sum; "}, Case{{0, 2}, "mul+add; sum; "}}) {
    const ft::Tensor x = ft::from_doubles(Numbers(24, 0.5), {2, 3, 4}, DType::f32);
    CHECK(sum(x * 2 + 1, c.axes).to_vector<double>()[0] == 2 * 24 / (c.axes[1] == 1 ? 4 : 3));
    CHECK(group_names() == c.groups);
  }
  CHECK(contains(refusal_of("pointwise"), "sum over axes that are no neighbours"));
}

TEST_CASE("sums at the ends of chains, in many parts and in one") {
  struct Case {
    Shape shape;
    std::vector<int> axes;
  };
  const Case sums[] = {
      {{9001}, {0}},     {{9000}, {0}},          {{700, 24}, {0}},        {{700, 3}, {0}},
      {{24, 700}, {1}},  {{2000, 4}, {1}},       {{3, 500, 6}, {1}},      {{2, 3, 40, 8}, {0, 1, 2}},
      {{1, 65, 1}, {1}}, {{2, 1, 3000}, {1, 2}}, {{40, 50, 3}, {0, 1, 2}}};
  // Small whole numbers: exact in any order of addition.
  const auto numbers_of = [](const Case& c, const char* backend) {
    const OnBackend on(backend);
    Numbers data(static_cast<std::size_t>(c.shape.elements()));
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<double>(i * 7 % 5) - 2;
    const ft::Tensor x = ft::from_doubles(data, c.shape, DType::f32), y = x * 2 + 1;
    Numbers sum = ft::sum(y, c.axes).to_vector<double>();
    if (backend == std::string("cuda double")) CHECK(group_names() == "mul+add+sum; ");
    return sum;
  };
  host_double();
  for (const Case& c : sums)
    CHECK_MESSAGE(numbers_of(c, "cuda double") == numbers_of(c, "reference"), to_string(c.shape));
}

TEST_CASE("a chain whose operands do not fit a thread's registers is cut, with the reason") {
  const OnDouble on_double;
  ft::Tensor sum = ft::ones({8});
  for (int i = 0; i < 100; ++i) sum = sum + ft::from_doubles(Numbers(8, i), {8}, DType::f32);
  CHECK(sum.to_vector<double>()[0] == 1 + 99 * 50);
  CHECK(contains(refusal_of("pointwise"), "operands and results, one kernel takes 64"));
}
