#include "backends/cuda/device/cublaslt_product.hpp"

#include <string>
#include <utility>

#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

using Activation = ProductSpec::Activation;

constexpr std::uint64_t most_workspace_bytes = std::uint64_t{32} << 20;
/// Of every operand: values begin on boundaries of 64 bytes.
constexpr std::uint32_t operand_alignment = 16;

void check(cublasStatus_t status, const char* doing) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail("cublaslt",
       std::string(doing) + ": " + cublasLtGetStatusName(status) + " (" + cublasLtGetStatusString(status) +
           ")",
       status == CUBLAS_STATUS_ALLOC_FAILED);
}

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return CUDA_R_32F;
    case DType::f64:
      return CUDA_R_64F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    default:
      throw Error("cublaslt", "expected a floating dtype, got " + std::string(name_of(dtype)));
  }
}

cublasComputeType_t compute_type_of(const ProductSpec& spec) {
  if (spec.dtype == DType::f64) return CUBLAS_COMPUTE_64F;
  return spec.dtype == DType::f32 && spec.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

cublasLtEpilogue_t epilogue_of(const ProductSpec& spec) {
  if (spec.activation == Activation::gelu) {
    throw Error("cublaslt", "its GELU is the approximation by tanh");
  }
  if (spec.activation == Activation::relu) {
    return spec.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  }
  return spec.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy<cublasLtMatrixLayoutDestroy>>;
using Description = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy<cublasLtMatmulDescDestroy>>;
using Preference =
    std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroy<cublasLtMatmulPreferenceDestroy>>;

/// A row-major matrix {rows, columns}, which cuBLASLt reads as its transpose.
Layout layout_of(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t batch,
                 std::int64_t stride) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, type_of(dtype), static_cast<std::uint64_t>(columns),
                                   static_cast<std::uint64_t>(rows), columns),
        "describing a matrix");
  Layout layout(made);
  const auto count = static_cast<std::int32_t>(batch);
  check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count),
        "describing a batch");
  check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                         sizeof stride),
        "describing a batch");
  return layout;
}

template <class T>
void set(const Description& description, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(description.get(), attribute, &value, sizeof value),
        "describing a product");
}

template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value),
        "describing what is preferred");
}

Preference preference_of() {
  cublasLtMatmulPreference_t made = nullptr;
  check(cublasLtMatmulPreferenceCreate(&made), "describing what is preferred");
  Preference preference(made);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, most_workspace_bytes);
  // Parts of a sum are added in f32, and in their order.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  for (const auto operand :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set(preference, operand, operand_alignment);
  }
  return preference;
}

std::string name_of(const cublasLtMatmulAlgo_t& algorithm) {
  const auto number = [&](cublasLtMatmulAlgoConfigAttributes_t attribute) {
    std::int32_t value = 0;
    std::size_t written = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof value, &written);
    return status == CUBLAS_STATUS_SUCCESS ? std::to_string(value) : std::string("?");
  };
  return "cublaslt:algo" + number(CUBLASLT_ALGO_CONFIG_ID) + "_tile" + number(CUBLASLT_ALGO_CONFIG_TILE_ID) +
         "_split" + number(CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
}

/// outᵀ = op(b)ᵀ · op(a)ᵀ: what is row-major for us is column-major for cuBLASLt, so b is its first operand.
class CublasltProduct final : public QueuedOperation {
 public:
  CublasltProduct(cublasLtHandle_t handle, const ProductSpec& spec)
      : handle_(handle),
        wide_(spec.dtype == DType::f64),
        description_(description_of(spec)),
        a_(layout_of(spec.dtype, spec.transpose_a ? spec.k : spec.m, spec.transpose_a ? spec.m : spec.k,
                     spec.batch, spec.stride_a)),
        b_(layout_of(spec.dtype, spec.transpose_b ? spec.n : spec.k, spec.transpose_b ? spec.k : spec.n,
                     spec.batch, spec.stride_b)),
        out_(layout_of(spec.result, spec.m, spec.n, spec.batch, spec.m * spec.n)) {
    const Preference preference = preference_of();
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle, description_.get(), b_.get(), a_.get(), out_.get(),
                                         out_.get(), preference.get(), 1, &found, &count),
          "looking for a kernel");
    if (count == 0) throw Error("cublaslt", "no kernel for these shapes and dtypes");
    check(found.state, "looking for a kernel");
    algorithm_ = found.algo;
    name = name_of(algorithm_);
    need_workspace(found.workspaceSize);
  }

  void queue(cudaStream_t stream, const OperationArgs& args) override {
    if (args.bias != nullptr) set(description_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
    const float one = 1, zero = 0;
    const double wide_one = 1, wide_zero = 0;
    check(cublasLtMatmul(handle_, description_.get(), wide_ ? static_cast<const void*>(&wide_one) : &one,
                         args.b, b_.get(), args.a, a_.get(),
                         wide_ ? static_cast<const void*>(&wide_zero) : &zero, args.out, out_.get(), args.out,
                         out_.get(), &algorithm_, aligned(args.workspace), needed_workspace(), stream),
          name.c_str());
  }

 private:
  static Description description_of(const ProductSpec& spec) {
    cublasLtMatmulDesc_t made = nullptr;
    check(cublasLtMatmulDescCreate(&made, compute_type_of(spec),
                                   spec.dtype == DType::f64 ? CUDA_R_64F : CUDA_R_32F),
          "describing a product");
    Description description(made);
    set(description, CUBLASLT_MATMUL_DESC_TRANSA, spec.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(description, CUBLASLT_MATMUL_DESC_TRANSB, spec.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(spec));
    if (spec.bias) set(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(spec.dtype));
    return description;
  }

  cublasLtHandle_t handle_;
  bool wide_;
  Description description_;
  Layout a_, b_, out_;
  cublasLtMatmulAlgo_t algorithm_ = {};
};

}  // namespace

ProductLibrary::ProductLibrary() {
  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle), "starting cuBLASLt");
  handle_.reset(handle);
}

std::unique_ptr<QueuedOperation> ProductLibrary::make(const ProductSpec& spec) {
  return std::make_unique<CublasltProduct>(handle_.get(), spec);
}

}  // namespace fusetape::backends::cuda
