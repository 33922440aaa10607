// cuDNN builds plans for a device that is only described: that there are some for what the networks ask.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <string>

#include "backends/cuda/device/convolution_graph.hpp"
#include "fusetape/error.hpp"

using namespace fusetape::backends::cuda;
using fusetape::DType;
using Pass = ConvolutionSpec::Pass;

namespace {

/// An H100, in the words of cuDNN 9.19; null where this cuDNN wants others.
std::shared_ptr<const cudnn_frontend::DeviceProperties> hopper() {
  const std::string text = R"({
    "deviceName": "NVIDIA H100 80GB HBM3", "deviceVer": 900, "driverVer": 13000, "cudaDeviceId": 0,
    "totalGlobalMem": 85000000000, "multiProcessorCount": 132, "warpSize": 32, "regsPerBlock": 65536,
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
    "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32,
    "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0,
    "supportCoopLaunch": 1, "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "l2CacheSize": 52428800})";
  auto properties = std::make_shared<cudnn_frontend::DeviceProperties>();
  const auto status = properties->deserialize({text.begin(), text.end()});
  if (status.is_bad()) return nullptr;
  return properties;
}

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

bool there_is_a_driver() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess && version > 0;
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
