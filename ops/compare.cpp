// Comparisons (bool, without gradients) and the choice between two tensors.
#include "core/numerics/formulas.hpp"
#include "core/op/op_list.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

namespace formulas = core::formulas;
using core::bit;
using core::GradContext;
using core::InferContext;

namespace {

void infer_comparison(InferContext& ctx) {
  same_dtype(ctx);
  ctx.output(broadcast_shape(ctx), DType::boolean);
}

template <double (*formula)(double, double), Whole (*whole)(Whole, Whole)>
constexpr OpDef comparison(std::string_view name) {
  return {.name = name,
          .infer = infer_comparison,
          .pointwise = element_of<formula>,
          .whole_pointwise = whole_element_of<Whole, whole>,
          .differentiable_outputs = 0,
          .takes = core::Takes::common,
          .elements = core::Elements::compare};
}

void infer_where(InferContext& ctx) {
  if (ctx.dtype(0) != DType::boolean) {
    ctx.fail("a bool condition", std::string(name_of(ctx.dtype(0))) + "; use a comparison or cast");
  }
  const DType dtype = same_dtype(ctx, 1);
  ctx.output(broadcast_shape(ctx), dtype);
}

void gradient_where(GradContext& ctx) {
  const Tensor g = ctx.incoming(), condition = ctx.input(0);
  if (ctx.needs(1)) ctx.set(1, sum_to(where(condition, g, 0), ctx.input_shape(1)));
  if (ctx.needs(2)) ctx.set(2, sum_to(where(condition, 0, g), ctx.input_shape(2)));
}

}  // namespace

constinit const OpDef equal_op = comparison<formulas::equal<double>, formulas::equal<Whole>>("equal");
constinit const OpDef not_equal_op =
    comparison<formulas::not_equal<double>, formulas::not_equal<Whole>>("not_equal");
constinit const OpDef less_op = comparison<formulas::less<double>, formulas::less<Whole>>("less");
constinit const OpDef less_equal_op =
    comparison<formulas::less_equal<double>, formulas::less_equal<Whole>>("less_equal");
constinit const OpDef greater_op = comparison<formulas::greater<double>, formulas::greater<Whole>>("greater");
constinit const OpDef greater_equal_op =
    comparison<formulas::greater_equal<double>, formulas::greater_equal<Whole>>("greater_equal");
constinit const OpDef where_op{.name = "where",
                               .infer = infer_where,
                               .gradient = gradient_where,
                               .saves_inputs = bit(0),
                               .pointwise = element_of<formulas::where<double>>,
                               .whole_pointwise = whole_element_of<Whole, formulas::where<Whole>>,
                               .takes = core::Takes::common,
                               .elements = core::Elements::select};

}  // namespace fusetape::ops

namespace fusetape {

Tensor equal(Operand a, Operand b) { return ops::record_binary(ops::equal_op, a, b); }
Tensor not_equal(Operand a, Operand b) { return ops::record_binary(ops::not_equal_op, a, b); }
Tensor less(Operand a, Operand b) { return ops::record_binary(ops::less_op, a, b); }
Tensor less_equal(Operand a, Operand b) { return ops::record_binary(ops::less_equal_op, a, b); }
Tensor greater(Operand a, Operand b) { return ops::record_binary(ops::greater_op, a, b); }
Tensor greater_equal(Operand a, Operand b) { return ops::record_binary(ops::greater_equal_op, a, b); }

Tensor where(Operand condition, Operand a, Operand b) {
  Tensor chooser = ops::require_tensor("where", condition);
  auto [first, second] = ops::require_tensors("where", a, b);
  return core::record_one(ops::where_op, {std::move(chooser), std::move(first), std::move(second)},
                          core::Attrs::of(core::NoAttrs{}), condition.at());
}

}  // namespace fusetape
