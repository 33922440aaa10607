// cuDNN's batch norms: that our graphs are valid, and what becomes of them with and without a device.
#include <doctest/doctest.h>
#include <fusetape/fusetape.hpp>

#include <string>

#include "backends/cuda/device/normalization_graph.hpp"
#include "described_device.hpp"

namespace ft = fusetape;
using namespace fusetape::backends::cuda;
using ft::DType;
using Pass = NormSpec::Pass;

namespace {

std::vector<NormSpec> specs(DType dtype) {
  const NormSpec forward{
      .pass = Pass::forward, .dtype = dtype, .n = 128, .h = 32, .w = 32, .c = 16, .eps = 1e-5};
  NormSpec backward = forward;
  backward.pass = Pass::backward;
  std::vector<NormSpec> all;
  for (int bits = 0; bits < 4; ++bits) {
    NormSpec spec = forward;
    spec.add = (bits & 1) != 0, spec.relu = (bits & 2) != 0;
    all.push_back(spec);
  }
  for (const auto& [mask, masked] : {std::pair{false, false}, {true, false}, {true, true}}) {
    backward.mask = mask, backward.masked = masked;
    all.push_back(backward);
  }
  return all;
}

}  // namespace

TEST_CASE("cuDNN's graphs of batch norms are valid for an H100") {
  const auto device = ft::tests::hopper();
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const NormSpec& spec : specs(dtype)) {
      const auto graph = graph_of(spec);
      if (device != nullptr) graph->set_device_properties(device);
      const auto status = graph->validate();
      CHECK_MESSAGE(status.is_good(), status.err_msg);
    }
  }
}

TEST_CASE("cuDNN is not asked for channels that it documents not to take") {
  NormSpec spec{.dtype = DType::bf16, .n = 2, .h = 3, .w = 3, .c = 12};
  CHECK_THROWS_WITH_AS(graph_of(spec), doctest::Contains("expected a multiple of 8 channels of bf16, got 12"),
                       ft::Error);
  spec.dtype = DType::f32;
  CHECK_NOTHROW(graph_of(spec));
  spec.c = 17;
  CHECK_THROWS_WITH_AS(graph_of(spec), doctest::Contains("expected a multiple of 4 channels of f32, got 17"),
                       ft::Error);
}

TEST_CASE("A batch norm, which cuDNN compiles, is refused without a driver, with that reason") {
  const auto device = ft::tests::hopper();
  if (device == nullptr || ft::tests::there_is_a_driver()) {
    MESSAGE("skipped: there is a driver, or this cuDNN describes devices in other words");
    return;
  }
  for (const NormSpec& spec : specs(DType::bf16)) {
    const auto graph = graph_of(spec);
    graph->set_device_properties(device);
    CHECK_THROWS_WITH_AS(build_plans(*graph, unwanted_of_norms(), nullptr, 1),
                         doctest::Contains("libcuda == nullptr"), ft::Error);
  }
}
