#include "backends/cuda/device/cudnn_terms.hpp"

#include <string>

#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

namespace fe = cudnn_frontend;

constexpr std::int64_t most_workspace_bytes = std::int64_t{1} << 30;

/// The frontend keeps the library's status only within its message: a cudnnStatus_t by its name, a
/// cudaError_t by its text.
bool is_shortage(const fe::error_t& status) {
  return status.err_msg.find("_ALLOCATION_FAILED") != std::string::npos ||
         status.err_msg.find(cudaGetErrorString(cudaErrorMemoryAllocation)) != std::string::npos;
}

bool is_shortage(cudnnStatus_t status) {
  return status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
         status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
}

}  // namespace

void check(const fe::error_t& status) {
  if (status.is_bad()) fail("cudnn", one_line(status.err_msg), is_shortage(status));
}

void check(cudnnStatus_t status, const char* doing) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::array<char, 256> more = {};
  cudnnGetLastErrorString(more.data(), more.size());
  fail("cudnn", std::string(doing) + ": " + cudnnGetErrorString(status) + " " + one_line(more.data()),
       is_shortage(status));
}

void fail(const fe::cudnnException& thrown) {
  fail("cudnn", one_line(thrown.what()), is_shortage(thrown.error_status));
}

fe::DataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return fe::DataType_t::FLOAT;
    case DType::f64:
      return fe::DataType_t::DOUBLE;
    case DType::bf16:
      return fe::DataType_t::BFLOAT16;
    case DType::f16:
      return fe::DataType_t::HALF;
    default:
      throw Error("cudnn", "expected a floating dtype, got " + std::string(name_of(dtype)));
  }
}

fe::graph::Tensor_attributes& describe(fe::graph::Tensor_attributes& tensor, std::int64_t uid, DType dtype,
                                       Extents e) {
  return tensor.set_uid(uid)
      .set_data_type(type_of(dtype))
      .set_dim({e.n, e.c, e.h, e.w})
      .set_stride({e.h * e.w * e.c, 1, e.w * e.c, e.c});
}

std::vector<std::int64_t> build_plans(fe::graph::Graph& graph,
                                      const std::vector<fe::NumericalNote_t>& unwanted, cudnnHandle_t handle,
                                      int most) {
  check(graph.validate());
  check(graph.build_operation_graph(handle));
  check(graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}));
  graph.deselect_numeric_notes(unwanted);
  graph.deselect_workspace_greater_than(most_workspace_bytes);
  std::vector<std::int64_t> built;
  std::string refusal = "no engine is deterministic, and of the precision that is asked for";
  bool shortage = false;
  for (std::int64_t i = 0; i < graph.get_execution_plan_count() && std::ssize(built) < most; ++i) {
    const fe::error_t status = graph.build_plan_at_index(i);
    if (status.is_good()) {
      built.push_back(i);
    } else if (status.err_msg != "Deselecting execution plan") {
      refusal = status.err_msg;
      shortage = shortage || is_shortage(status);
    }
  }
  if (built.empty()) fail("cudnn", one_line(refusal), shortage);
  return built;
}

CudnnHandle make_cudnn_handle(cudaStream_t stream) {
  cudnnHandle_t made = nullptr;
  check(cudnnCreate(&made), "starting cuDNN");
  CudnnHandle handle(made);
  check(cudnnSetStream(made, stream), "choosing a stream");
  return handle;
}

cudaStream_t stream_of(cudnnHandle_t handle) {
  cudaStream_t stream = nullptr;
  check(cudnnGetStream(handle, &stream), "asking for the stream");
  return stream;
}

}  // namespace fusetape::backends::cuda
