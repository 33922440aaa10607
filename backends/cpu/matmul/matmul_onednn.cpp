#include <string>

#include "backends/cpu/matmul/matrix_product.hpp"
#include "backends/cpu/onednn_engine.hpp"

/// Matrix products by oneDNN, with bias and ReLU inside.
namespace fusetape::backends::cpu::matmul {
namespace {

using dnnl::memory;

memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

memory::desc describe(const Matrix& m) {
  const std::int64_t row = m.transposed ? 1 : m.columns, column = m.transposed ? m.rows : 1;
  return {{m.batch, m.rows, m.columns}, type_of(m.dtype), memory::dims{m.elements(), row, column}};
}

memory::desc describe_bias(const Product& p) {
  return {{1, 1, p.c.columns}, type_of(p.a.dtype), memory::format_tag::abc};
}

dnnl::matmul::primitive_desc describe(const Product& p) {
  dnnl::primitive_attr attributes = onednn_attributes();
  if (p.relu) {
    dnnl::post_ops post;
    post.append_eltwise(dnnl::algorithm::eltwise_relu, 0, 0);
    attributes.set_post_ops(post);
  }
  if (p.bias < 0) return {onednn_engine(), describe(p.a), describe(p.b), describe(p.c), attributes};
  return {onednn_engine(), describe(p.a), describe(p.b), describe_bias(p), describe(p.c), attributes};
}

bool multiplies_bf16() {
  // The enumerators are sets of bits: those of an instruction set hold those of the sets before it.
  const auto has = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto wanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (has & wanted) == wanted;
}

}  // namespace

Support supports_onednn_product(const Product& p) {
  const bool f32 = p.a.dtype == DType::f32 && p.c.dtype == DType::f32;
  const bool bf16 = p.a.dtype == DType::bf16 && (p.c.dtype == DType::bf16 || p.c.dtype == DType::f32);
  if (!f32 && !bf16)
    return {.ok = false, .reason = "f32 and bf16 only, not " + std::string(name_of(p.a.dtype))};
  if (bf16 && !multiplies_bf16()) return {.ok = false, .reason = "a processor without bf16 products"};
  if (p.empty()) return {.ok = false, .reason = "an empty tensor"};
  return supported_by_onednn([&] { describe(p); });
}

std::unique_ptr<Kernel> make_onednn_product(const Product& p) {
  const auto desc = describe(p);
  auto kernel = std::make_unique<OnednnKernel>();
  const memory a = kernel->value(p.a.id, describe(p.a)), b = kernel->value(p.b.id, describe(p.b));
  const memory c = kernel->value(p.c.id, describe(p.c));
  if (p.bias >= 0) {
    const memory bias = kernel->value(p.bias, describe_bias(p));
    kernel->add(dnnl::matmul(desc),
                {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_BIAS, bias}, {DNNL_ARG_DST, c}},
                desc.scratchpad_desc());
  } else {
    kernel->add(dnnl::matmul(desc), {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}},
                desc.scratchpad_desc());
  }
  kernel->name = std::string("onednn:") + desc.impl_info_str();
  kernel->tensor_passes = 3;
  return kernel;
}

}  // namespace fusetape::backends::cpu::matmul
