#include "backends/cpu/pointwise_ops.hpp"

namespace fusetape::backends::cpu {
namespace {

constexpr PointwiseOp rows[] = {
    {"add", Code::add},
    {"sub", Code::sub},
    {"mul", Code::mul},
    {"div", Code::div},
    {"pow", Code::pow},
    {"minimum", Code::minimum},
    {"maximum", Code::maximum},
    {"bias_add", Code::add},
    {"neg", Code::neg},
    {"abs", Code::abs},
    {"exp", Code::exp},
    {"log", Code::log},
    {"sqrt", Code::sqrt},
    {"relu", Code::relu},
    {"sigmoid", Code::sigmoid},
    {"tanh", Code::tanh},
    {"gelu", Code::gelu},
    {"clamp", Code::clamp},
    {"leaky_relu", Code::leaky_relu},
    {"relu_grad", Code::relu_grad},
    {"sigmoid_grad", Code::sigmoid_grad},
    {"tanh_grad", Code::tanh_grad},
    {"gelu_grad", Code::gelu_grad},
    {"abs_grad", Code::abs_grad},
    {"clamp_grad", Code::clamp_grad},
    {"leaky_relu_grad", Code::leaky_relu_grad},
    {"bce_logits", Code::bce_logits},
    {"bce_logits_grad", Code::bce_logits_grad},
    {"equal", Code::equal, Elements::compare},
    {"not_equal", Code::not_equal, Elements::compare},
    {"less", Code::less, Elements::compare},
    {"less_equal", Code::less_equal, Elements::compare},
    {"greater", Code::greater, Elements::compare},
    {"greater_equal", Code::greater_equal, Elements::compare},
    {"where", Code::where, Elements::select},
    {"broadcast_to", Code::copy, Elements::select},
    {"cast", Code::copy, Elements::convert},
};

}  // namespace

const PointwiseOp* find_pointwise_op(std::string_view name) {
  for (const PointwiseOp& row : rows) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

}  // namespace fusetape::backends::cpu
