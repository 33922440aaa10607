// cuDNN builds plans for a device that is only described: that there are some for what the networks ask.
#include <doctest/doctest.h>

#include <string>

#include "backends/cuda/device/convolution_graph.hpp"
#include "described_device.hpp"
#include "fusetape/error.hpp"

using namespace fusetape::backends::cuda;
using fusetape::DType;
using fusetape::tests::hopper;
using fusetape::tests::there_is_a_driver;
using Pass = ConvolutionSpec::Pass;

namespace {

/// The name of cuDNN's first guess, or its refusal.
std::string first_plan(const ConvolutionSpec& spec) try {
  static const auto properties = hopper();
  const auto graph = graph_of(spec);
  graph->set_device_properties(properties);
  std::string name;
  check(graph->get_plan_name_at_index(build_candidates(*graph, spec, nullptr, 1).front(), name));
  return name;
} catch (const fusetape::Error& error) {
  return std::string("refused: ") + error.what();
}

struct Shape {
  std::int64_t size, c, k, filter, stride;
};
/// Those of ResNet-20.
constexpr Shape shapes[] = {{32, 3, 16, 3, 1},  {32, 16, 16, 3, 1}, {32, 16, 32, 3, 2}, {32, 16, 32, 1, 2},
                            {16, 32, 32, 3, 1}, {16, 32, 64, 3, 2}, {16, 32, 64, 1, 2}, {8, 64, 64, 3, 1}};

ConvolutionSpec spec_of(Pass pass, DType dtype, const Shape& shape) {
  const std::int64_t out = shape.size / shape.stride, pad = shape.filter / 2;
  return {.pass = pass,
          .dtype = dtype,
          .result = dtype,
          .n = 128,
          .h = shape.size,
          .w = shape.size,
          .c = shape.c,
          .k = shape.k,
          .r = shape.filter,
          .s = shape.filter,
          .oh = out,
          .ow = out,
          .stride_h = shape.stride,
          .stride_w = shape.stride,
          .pad_h = pad,
          .pad_w = pad};
}

}  // namespace

TEST_CASE("cuDNN has plans for ResNet-20's convolutions and gradients in every dtype") {
  if (hopper() == nullptr) {
    MESSAGE("skipped: this cuDNN describes devices in other words");
    return;
  }
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const Shape& shape : shapes) {
      CAPTURE(name_of(dtype));
      CAPTURE(shape.size);
      CAPTURE(shape.c);
      CAPTURE(shape.filter);
      ConvolutionSpec forward = spec_of(Pass::forward, dtype, shape);
      CHECK(first_plan(forward).starts_with("eng"));
      forward.bias = forward.relu = true;
      CHECK(first_plan(forward).starts_with("eng"));
      CHECK(first_plan(spec_of(Pass::grad_input, dtype, shape)).starts_with("eng"));
      CHECK(first_plan(spec_of(Pass::grad_weight, dtype, shape)).starts_with("eng"));
    }
  }
}

TEST_CASE("cuDNN leaves a convolution's statistics in f16, and says so where not") {
  if (hopper() == nullptr) {
    MESSAGE("skipped: this cuDNN describes devices in other words");
    return;
  }
  for (const Shape& shape : shapes) {
    CAPTURE(shape.size);
    CAPTURE(shape.c);
    CAPTURE(shape.filter);
    ConvolutionSpec spec = spec_of(Pass::forward, DType::f16, shape);
    spec.statistics = true;
    // Channels in eights; its stem has three.
    CHECK(first_plan(spec).starts_with("eng") == (shape.c % 8 == 0));
    spec.dtype = spec.result = DType::bf16;
    CHECK(first_plan(spec).starts_with("refused: "));
  }
}

TEST_CASE("A plan that cuDNN would have to compile is refused without a driver, with that reason") {
  if (hopper() == nullptr || there_is_a_driver()) {
    MESSAGE("skipped: there is a driver, or this cuDNN describes devices in other words");
    return;
  }
  ConvolutionSpec spec = spec_of(Pass::forward, DType::bf16, {16, 32, 32, 3, 1});
  spec.add = true;
  CHECK(first_plan(spec).find("libcuda == nullptr") != std::string::npos);
}
