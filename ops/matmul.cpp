// Matrix products and the linear layer.
#include "core/autograd/autocast.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

using core::Attrs;
using core::bit;
using core::GradContext;
using core::InferContext;
using core::MatmulAttrs;
using core::RefContext;
using core::TensorInfo;

namespace {

/// A stack of matrices {…, rows, columns}, transposed or not, as the product sees it.
struct Matrices {
  Matrices(const Shape& shape, bool transpose) : stacked(shape.rank() > 2) {
    const std::int64_t last = shape[shape.rank() - 1], before = shape[shape.rank() - 2];
    rows = transpose ? last : before;
    columns = transpose ? before : last;
    row_stride = transpose ? 1 : last;
    column_stride = transpose ? last : 1;
  }
  std::int64_t rows, columns, row_stride, column_stride;
  bool stacked;

  double at(const double* data, std::int64_t matrix, std::int64_t row, std::int64_t column) const {
    return data[(stacked ? matrix * rows * columns : 0) + row * row_stride + column * column_stride];
  }
};

// ---- shape ----

bool same_leading_axes(const Shape& a, const Shape& b) {
  if (a.rank() == 2 || b.rank() == 2) return true;
  if (a.rank() != b.rank()) return false;
  for (int axis = 0; axis < a.rank() - 2; ++axis) {
    if (a[axis] != b[axis]) return false;
  }
  return true;
}

[[noreturn]] void fail_inner(InferContext& ctx, const MatmulAttrs& attrs) {
  const Shape &a = ctx.shape(0), &b = ctx.shape(1);
  const std::string inner = std::to_string(b[b.rank() - (attrs.transpose_b != 0 ? 1 : 2)]);
  const std::string left = attrs.transpose_a != 0 ? "{…, " + inner + ", M}ᵀ" : "{…, " + inner + "}";
  const std::string right = attrs.transpose_b != 0 ? "{…, N, " + inner + "}ᵀ" : "{" + inner + ", …}";
  ctx.fail("a " + left + " × " + right, to_string(a) + (attrs.transpose_a != 0 ? "ᵀ × " : " × ") +
                                            to_string(b) + (attrs.transpose_b != 0 ? "ᵀ" : ""));
}

void infer_matmul(InferContext& ctx) {
  const DType dtype = ctx.same_floating_dtype();
  const auto attrs = ctx.attrs.as<MatmulAttrs>();
  const Shape &a = ctx.shape(0), &b = ctx.shape(1);
  if (a.rank() < 2 || b.rank() < 2) ctx.fail("a {…, M, K} × {…, K, N}", to_string(a) + " × " + to_string(b));
  const Matrices left(a, attrs.transpose_a != 0), right(b, attrs.transpose_b != 0);
  if (left.columns != right.rows) fail_inner(ctx, attrs);
  if (!same_leading_axes(a, b)) {
    ctx.fail("equal leading axes, or a matrix on one side", to_string(a) + " × " + to_string(b));
  }
  Shape y = a.rank() > 2 ? a : b;
  y[y.rank() - 2] = left.rows;
  y[y.rank() - 1] = right.columns;
  ctx.output(y, dtype);
}

double matmul_flops(std::span<const TensorInfo> in, std::span<const TensorInfo> out, const Attrs& attrs) {
  const Matrices left(in[0].shape, attrs.as<MatmulAttrs>().transpose_a != 0);
  return 2.0 * static_cast<double>(out[0].shape.elements()) * static_cast<double>(left.columns);
}

// ---- gradient ----

Tensor product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) {
  return matmul(a, b, {.transpose_a = transpose_a, .transpose_b = transpose_b});
}

Tensor as_matrix(const Tensor& x) {
  std::int64_t rows = 1;
  for (int axis = 0; axis < x.rank() - 1; ++axis) rows *= x.shape()[axis];
  return reshape(x, {rows, x.shape().back()});
}

/// With A, B the factors as the product sees them: dA = g·Bᵀ, dB = Aᵀ·g, each transposed back where its
/// factor was. A stack beside a matrix is one tall matrix, so that the matrix's gradient is one product.
void gradient_matmul(GradContext& ctx) {
  const auto attrs = ctx.attrs<MatmulAttrs>();
  const bool ta = attrs.transpose_a != 0, tb = attrs.transpose_b != 0;
  Tensor g = ctx.incoming();
  if (ctx.needs(0)) {
    const Tensor b = ctx.input(1);
    ctx.set(0, sum_to(ta ? product(b, tb, g, true) : product(g, false, b, !tb), ctx.input_shape(0)));
  }
  if (!ctx.needs(1)) return;
  Tensor a = ctx.input(0);
  const Shape& b_shape = ctx.input_shape(1);
  if (b_shape.rank() == 2 && !ta) {
    a = as_matrix(a);
    g = as_matrix(g);
  }
  ctx.set(1, sum_to(tb ? product(g, true, a, ta) : product(a, !ta, g, false), b_shape));
}

// ---- reference ----

void reference_matmul(RefContext& ctx) {
  const auto attrs = ctx.attrs.as<MatmulAttrs>();
  const Matrices a(ctx.in[0].shape, attrs.transpose_a != 0), b(ctx.in[1].shape, attrs.transpose_b != 0);
  const double *a_data = ctx.in[0].data, *b_data = ctx.in[1].data;
  const std::int64_t size = ctx.out[0].size();
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int64_t column = i % b.columns, row = i / b.columns % a.rows, matrix = i / b.columns / a.rows;
    double sum = 0;
    for (std::int64_t k = 0; k < a.columns; ++k)
      sum += a.at(a_data, matrix, row, k) * b.at(b_data, matrix, k, column);
    ctx.out[0].data[i] = sum;
  }
}

}  // namespace

constinit const OpDef matmul_op{.name = "matmul",
                                .infer = infer_matmul,
                                .gradient = gradient_matmul,
                                .saves_inputs = bit(0) | bit(1),
                                .saves_for = saves_of_product,
                                .reference = reference_matmul,
                                .flops = matmul_flops,
                                .takes = core::Takes::low};

}  // namespace fusetape::ops

namespace fusetape {

Tensor matmul(Operand a, Operand b, MatmulOptions options) {
  const core::MatmulAttrs attrs{options.transpose_a, options.transpose_b};
  return core::record_one(ops::matmul_op,
                          {ops::require_tensor("matmul", a), ops::require_tensor("matmul", b)},
                          core::Attrs::of(attrs), a.at());
}

namespace {

/// Checked here, so that the message speaks of the layer rather than of its product.
void check_linear(const Shape& x, const Shape& w, Location at) {
  if (w.rank() != 2) ops::fail("linear", "weights {out, in}", to_string(w), at);
  if (x.rank() < 2 || x.back() != w[1]) {
    ops::fail("linear", "x {…, " + std::to_string(w[1]) + "} for weights " + to_string(w), to_string(x), at);
  }
}

}  // namespace

Tensor linear(Operand x, Operand w) {
  const Tensor input = ops::require_tensor("linear", x), weight = ops::require_tensor("linear", w);
  check_linear(input.shape(), weight.shape(), x.at());
  return core::record_one(ops::matmul_op, {input, weight},
                          core::Attrs::of(core::MatmulAttrs{.transpose_b = 1}), x.at());
}

Tensor linear(Operand x, Operand w, Operand b) {
  const Tensor input = ops::require_tensor("linear", x), weight = ops::require_tensor("linear", w),
               bias = ops::require_tensor("linear", b);
  if (bias.rank() != 1 || weight.rank() != 2 || bias.shape()[0] != weight.shape()[0]) {
    ops::fail("linear", "bias {out} for weights {out, in}",
              to_string(bias.shape()) + " for " + to_string(weight.shape()), x.at());
  }
  // Before the product is recorded.
  if (core::autocast_input(core::Takes::low, bias.dtype()) !=
      core::autocast_input(core::Takes::low, weight.dtype())) {
    ops::fail("linear", "a bias of the weights' dtype " + std::string(name_of(weight.dtype())),
              std::string(name_of(bias.dtype())) + "; use cast", x.at());
  }
  const Location at = x.at();
  return bias_add(Operand(linear(Operand(input, at), Operand(weight, at)), at), Operand(bias, at));
}

}  // namespace fusetape
