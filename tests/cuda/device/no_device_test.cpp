// What the CUDA build does where there is no device: nearly everything but run.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>
#include <fusetape/fusetape.hpp>

#include <set>

#include "backends/cuda/device/convolution_graph.hpp"
#include "backends/cuda/device/device_facts.hpp"
#include "backends/cuda/device/errors.hpp"
#include "backends/cuda/device/kernel_table.hpp"
#include "backends/cuda/kernels/all.hpp"

namespace ft = fusetape;
using namespace fusetape::backends::cuda;
using ft::DType;

namespace {

bool there_is_a_device() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

template <class... K>
std::vector<const KernelEntry*> entries_of(KernelList<K...>) {
  return {&entry_of<K>()...};
}

}  // namespace

TEST_CASE("set_backend(\"cuda\") without a device says what CUDA says, and changes nothing") {
  if (there_is_a_device()) {
    MESSAGE("skipped: there is a device");
    return;
  }
  const std::string before(ft::backend_name());
  for (int again = 0; again < 2; ++again) {
    CHECK_THROWS_WITH_AS(ft::set_backend("cuda"),
                         doctest::Contains("[set_backend] no CUDA device can be used: cudaError"), ft::Error);
    CHECK(ft::backend_name() == before);
  }
  CHECK(ft::sum(ft::from_vector({1, 2}, {2})).item() == 3);
}

TEST_CASE("Every kernel has code for the device, found by its name") {
  const auto entries = entries_of(AllKernels{});
  REQUIRE(device_functions().size() == entries.size());
  std::set<const void*> functions;
  for (const KernelEntry* entry : entries) {
    CAPTURE(entry->name);
    const void* function = device_function(entry->name);
    CHECK(function != nullptr);
    functions.insert(function);
  }
  CHECK(functions.size() == entries.size());  // also: no two kernels share a name
  CHECK(device_function("no such kernel") == nullptr);
}

TEST_CASE("cuDNN's graphs of convolutions are valid") {
  using Pass = ConvolutionSpec::Pass;
  for (const Pass pass : {Pass::forward, Pass::grad_input, Pass::grad_weight}) {
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
      for (const int epilogue : {0, 1, 2, 3}) {
        CAPTURE(static_cast<int>(pass));
        CAPTURE(epilogue);
        const bool forward = pass == Pass::forward;
        const ConvolutionSpec spec{.pass = pass,
                                   .dtype = dtype,
                                   .result = pass == Pass::grad_weight ? DType::f32 : dtype,
                                   .n = 2,
                                   .h = 7,
                                   .w = 5,
                                   .c = 6,
                                   .k = 4,
                                   .r = 3,
                                   .s = 3,
                                   .oh = 4,
                                   .ow = 3,
                                   .stride_h = 2,
                                   .stride_w = 2,
                                   .pad_h = 1,
                                   .pad_w = 1,
                                   .groups = 2,
                                   .bias = forward && (epilogue & 1) != 0,
                                   .add = pass != Pass::grad_weight && (epilogue & 2) != 0,
                                   .relu = forward && epilogue == 3};
        CHECK(graph_of(spec)->validate().is_good());
      }
    }
  }
  CHECK_THROWS_WITH_AS(
      graph_of({.dtype = DType::i64, .n = 1, .h = 1, .w = 1, .c = 1, .k = 1, .r = 1, .s = 1}),
      doctest::Contains("expected a floating dtype, got i64"), ft::Error);
}

TEST_CASE("A device's speed follows from its multiprocessors and clocks") {
  CHECK(flops_per_cycle(8, 0).half * 108 * 1.41e9 == doctest::Approx(312e12).epsilon(0.01));  // A100
  CHECK(flops_per_cycle(8, 0).single * 108 * 1.41e9 == doctest::Approx(19.5e12).epsilon(0.01));
  CHECK(flops_per_cycle(9, 0).half * 132 * 1.83e9 == doctest::Approx(989e12).epsilon(0.01));  // H100 SXM
  CHECK(flops_per_cycle(9, 0).single * 132 * 1.98e9 == doctest::Approx(67e12).epsilon(0.01));
}

TEST_CASE("A shortage of memory has an error of its own, whichever library tells of it") {
  using Status = cudnn_frontend::error_t;
  using Code = cudnn_frontend::error_code_t;
  const auto is_shortage = [](const Status& status) {
    try {
      check(status);
    } catch (const OutOfMemory&) {
      return true;
    } catch (const ft::Error&) {
    }
    return false;
  };
  CHECK_THROWS_AS(check(cudaErrorMemoryAllocation, "a buffer"), OutOfMemory);
  CHECK(is_shortage({Code::CUDNN_BACKEND_API_FAILED,
                     "finalize failed with code: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"}));
  CHECK(is_shortage({Code::CUDA_API_FAILED, "cudaMalloc failed with out of memory"}));
  CHECK_FALSE(
      is_shortage({Code::GRAPH_NOT_SUPPORTED, "finalize failed with code: CUDNN_STATUS_NOT_SUPPORTED"}));
}

TEST_CASE("A library's words become one short line") {
  CHECK(one_line("a\n\tb  c\n") == "a b c");
  CHECK(one_line(std::string(400, 'x'), 10) == "xxxxxxxxxx …");
  CHECK(one_line("") == "");
  CHECK_NOTHROW(check(cudaSuccess, "nothing"));
  CHECK_THROWS_WITH_AS(check(cudaErrorInvalidValue, "a copy"),
                       doctest::Contains("[cuda] a copy: cudaErrorInvalidValue (invalid argument)"),
                       ft::Error);
}
