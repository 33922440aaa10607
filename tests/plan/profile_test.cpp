// What a profile is made of: operations and start times in a report, floors, and the trace of a step.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "benchmarks/profile.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Tensor;
using fusetape::tests::ConvBy;

namespace {

/// The group of this name in the last report.
ft::GroupReport group_named(const std::string& name) {
  for (const ft::GroupReport& group : ft::explain().groups) {
    if (group.name == name) return group;
  }
  FAIL("no group is named " << name << " in\n" << ft::explain());
  return {};
}

/// A 3×3 convolution and its gradients.
void run_convolution(ft::ConvAlgorithm algorithm, const ft::Shape& x_shape, std::int64_t out,
                     ft::DType dtype) {
  const ConvBy by(algorithm);
  const Tensor x = ft::variable(ft::cast(ft::ones(x_shape), dtype));
  const Tensor w = ft::variable(ft::cast(ft::full({out, 3, 3, x_shape.back()}, 0.1), dtype));
  const Tensor y = ft::conv2d(x, w, {.padding = {1, 1}});
  const std::vector<Tensor> gradients = ft::grad({y}, {x, w}, {ft::cast(ft::ones(y.shape()), dtype)});
  ft::materialize();
}

/// Of a machine where a byte takes a nanosecond, as do an f32 operation and two of bf16.
constexpr double giga = 1e9;
benchmarks::MachineSpeed slow_machine() {
  return {.bytes = giga, .flops = giga, .half_flops = 2 * giga, .how = "made up"};
}

/// The smallest subject of compare_fusion, profiled.
const benchmarks::Profile& small_profile() {
  static const benchmarks::Profile profile = [] {
    benchmarks::SubjectFactory factory("conv_bias_relu", ft::DType::f32, 1, 1);
    return benchmarks::profile_steps(*factory.make(), {}, 3, slow_machine());
  }();
  return profile;
}

}  // namespace

TEST_CASE("a group counts its operations directly, and as its kernel does them") {
  struct Case {
    ft::Shape x;
    std::int64_t out;
    double tiles;  // of 4×4, in all images
  };
  const Case cases[] = {{{2, 8, 8, 16}, 16, 8}, {{1, 7, 5, 17}, 24, 4}, {{3, 4, 4, 32}, 16, 3}};
  for (const Case& c : cases) {
    const double pairs = static_cast<double>(c.x.back() * c.out);
    const double direct = 2 * 9 * pairs * static_cast<double>(c.x.elements() / c.x.back());
    const double winograd = 2 * 36 * pairs * c.tiles;
    for (const std::string name : {"conv2d", "conv2d_grad_input", "conv2d_grad_weight"}) {
      CAPTURE(name);
      CAPTURE(ft::to_string(c.x));
      run_convolution(ft::ConvAlgorithm::winograd, c.x, c.out, ft::DType::f32);
      const ft::GroupReport fast = group_named(name);
      REQUIRE(fast.kernel.find("winograd") != std::string::npos);
      CHECK(fast.flops == direct);
      CHECK(fast.kernel_flops == winograd);

      run_convolution(ft::ConvAlgorithm::direct, c.x, c.out, ft::DType::f32);
      const ft::GroupReport plain = group_named(name);
      CHECK(plain.flops == direct);
      CHECK(plain.kernel_flops == direct);
    }
  }
}

TEST_CASE("a group's largest tensor, and the dtype that its kernel multiplies in") {
  run_convolution(ft::ConvAlgorithm::automatic, {4, 8, 8, 16}, 24, ft::DType::bf16);
  const ft::GroupReport fast = group_named("conv2d");
  CHECK(fast.shape == ft::Shape{4, 8, 8, 24});
  CHECK(fast.dtype == ft::DType::bf16);
  CHECK(fast.kernel_dtype == ft::DType::f32);  // Winograd's transforms and products

  run_convolution(ft::ConvAlgorithm::direct, {4, 8, 8, 16}, 24, ft::DType::bf16);
  CHECK(group_named("conv2d").kernel_dtype == ft::DType::bf16);

  ft::materialize({ft::relu(ft::ones({3, 5}))});
  const ft::GroupReport pointwise = ft::explain().groups.back();
  CHECK(pointwise.shape == ft::Shape{3, 5});
  CHECK(pointwise.flops == 0);
  CHECK(pointwise.kernel_flops == 0);
}

TEST_CASE("profiling says when each kernel starts, and the JSON has it with the operations") {
  const benchmarks::Profile& profile = small_profile();
  double end = 0;
  for (const ft::GroupReport& group : profile.report.groups) {
    CHECK(group.milliseconds > 0);
    CHECK(group.start_ms > end);
    end = group.start_ms + group.milliseconds;
  }
  CHECK(end < *std::max_element(profile.step_ms.begin(), profile.step_ms.end()));

  const nlohmann::json json = nlohmann::json::parse(profile.report.to_json());
  double flops = 0;
  for (std::size_t i = 0; i < profile.report.groups.size(); ++i) {
    const ft::GroupReport& group = profile.report.groups[i];
    const nlohmann::json& item = json.at("groups")[i];
    CHECK(item.at("start_ms") == group.start_ms);
    CHECK(item.at("flops") == group.flops);
    CHECK(item.at("kernel_flops") == group.kernel_flops);
    CHECK(item.at("kernel_dtype") == "f32");
    CHECK(item.at("dtype") == "f32");
    CHECK(item.at("shape").get<std::vector<std::int64_t>>() ==
          std::vector<std::int64_t>(group.shape.begin(), group.shape.end()));
    flops += group.flops;
  }
  CHECK(flops == 3 * 2.0 * 32 * 32 * 16 * 16 * 9);  // forward and two gradients
}

TEST_CASE("a kernel's floor is its bytes or its operations, whichever takes longer") {
  struct Case {
    std::int64_t bytes;
    double kernel_flops;
    ft::DType dtype;
    double floor_ms;
  };
  const Case cases[] = {{3'000'000, 2e6, ft::DType::f32, 3},
                        {3'000'000, 8e6, ft::DType::f32, 8},
                        {3'000'000, 8e6, ft::DType::bf16, 4},
                        {0, 0, ft::DType::f32, 0}};
  for (const Case& c : cases) {
    const ft::GroupReport group{.bytes = c.bytes, .kernel_flops = c.kernel_flops, .kernel_dtype = c.dtype};
    CHECK(benchmarks::floor_of(group, slow_machine()).ms() == doctest::Approx(c.floor_ms));
  }
}

TEST_CASE("kernels of one name, shape and kernel are one row; the longest row comes first") {
  const ft::GroupReport small{.name = "relu", .kernel = "a", .bytes = 1'000'000, .shape = {2, 3}};
  ft::GroupReport large = small, other = small;
  large.shape = {4, 3};
  other.kernel = "b";
  ft::Report report;
  report.groups = {small, large, small, other, small};
  const std::vector<benchmarks::KernelRow> rows =
      benchmarks::merge_kernels(report, {1, 5, 2, 4, 3}, slow_machine());
  REQUIRE(rows.size() == 3);
  const int counts[] = {3, 1, 1};
  const double ms[] = {6, 5, 4}, floors[] = {3, 1, 1};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CHECK(rows[i].count == counts[i]);
    CHECK(rows[i].ms == ms[i]);
    CHECK(rows[i].floor.ms() == doctest::Approx(floors[i]));
  }
}

TEST_CASE("a profile's parts make up the step") {
  const benchmarks::Profile& profile = small_profile();
  int kernels = 0;
  for (const benchmarks::KernelRow& row : profile.rows) kernels += row.count;
  CHECK(kernels == profile.report.kernels);
  CHECK(profile.step_ms.size() == 3);
  CHECK(profile.unprofiled_ms.size() == 3);

  // Of two steps: 1 and 2 ms before the first kernel, kernels of 3 and 4, 1 ms between them, then the rest.
  const std::vector<std::vector<benchmarks::Span>> steps = {{{1, 3}, {5, 4}}, {{2, 3}, {6, 4}}};
  const benchmarks::OutsideKernels outside = benchmarks::outside_kernels(steps, {12, 15});
  CHECK(outside.key_ms == doctest::Approx(1.5));
  CHECK(outside.gaps_ms == doctest::Approx(1));
  CHECK(outside.recording_ms == doctest::Approx(4));
  CHECK(benchmarks::median_kernels(steps) == std::vector<double>{3, 4});
}

TEST_CASE("a trace has one complete event for each kernel, in microseconds") {
  const benchmarks::Profile& profile = small_profile();
  const nlohmann::json trace = nlohmann::json::parse(benchmarks::chrome_trace(profile.report).dump());
  const nlohmann::json& events = trace.at("traceEvents");
  REQUIRE(events.size() == profile.report.groups.size());
  for (std::size_t i = 0; i < events.size(); ++i) {
    const ft::GroupReport& group = profile.report.groups[i];
    const nlohmann::json &event = events[i], &args = event.at("args");
    CHECK(event.at("ph") == "X");
    CHECK(event.at("name") == group.name);
    CHECK(event.at("ts").get<double>() == doctest::Approx(1e3 * group.start_ms));
    CHECK(event.at("dur").get<double>() == doctest::Approx(1e3 * group.milliseconds));
    CHECK(event.at("pid").is_number());
    CHECK(event.at("tid") == events[0].at("tid"));
    CHECK(args.at("phase") == group.phase);
    CHECK(args.at("kernel") == group.kernel);
    CHECK(args.at("module_path") == group.module_path);
    CHECK(args.at("bytes") == group.bytes);
  }
  CHECK(std::any_of(events.begin(), events.end(),
                    [](const nlohmann::json& e) { return e.at("args").at("module_path") == "conv"; }));
}
