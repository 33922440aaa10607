#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

void add_binary(Cases& cases) {
  struct Binary {
    const char* name;
    Tensor (*op)(Operand, Operand);
    Kind first, second;
  };
  const Binary ops[] = {
      {"add", add, Kind::real, Kind::real},        {"sub", sub, Kind::real, Kind::real},
      {"mul", mul, Kind::real, Kind::real},        {"div", div, Kind::real, Kind::positive},
      {"pow", pow, Kind::positive, Kind::real},    {"minimum", minimum, Kind::real, Kind::real},
      {"maximum", maximum, Kind::real, Kind::real}};
  const std::pair<Shape, Shape> shapes[] = {{{2, 3}, {2, 3}},    {{}, {}},
                                            {{2, 7, 5, 3}, {3}}, {{17}, {2, 1, 17}},
                                            {{3, 1}, {1, 4}},    {{1}, {2, 3, 2}},
                                            {{2, 1, 3}, {}},     {{0, 3}, {3}},
                                            {{0}, {1}},          {{1, 5, 1, 2}, {3, 1, 4, 1}},
                                            {{33}, {33}},        {{4, 1}, {2, 1, 1}}};
  for (const Binary& b : ops) {
    for (const auto& [left, right] : shapes) {
      cases.push_back({named(b.name, left) + " " + to_string(right),
                       {{.shape = left, .kind = b.first}, {.shape = right, .kind = b.second}},
                       [op = b.op](In x) { return op(x[0], x[1]); }});
    }
  }
}

void add_unary(Cases& cases) {
  struct Unary {
    const char* name;
    Tensor (*op)(Operand);
    Kind kind;
  };
  const Unary ops[] = {{"neg", neg, Kind::real},
                       {"abs", abs, Kind::real},
                       {"exp", exp, Kind::real},
                       {"log", log, Kind::positive},
                       {"sqrt", sqrt, Kind::positive},
                       {"relu", relu, Kind::real},
                       {"sigmoid", sigmoid, Kind::real},
                       {"tanh", tanh, Kind::real},
                       {"rsqrt", rsqrt, Kind::positive},
                       {"expm1", expm1, Kind::real},
                       {"log1p", log1p, Kind::positive},
                       {"sin", sin, Kind::real},
                       {"cos", cos, Kind::real},
                       {"gelu", gelu, Kind::real},
                       {"gelu_tanh", gelu_tanh, Kind::real},
                       {"relu6", relu6, Kind::real},
                       {"silu", silu, Kind::real},
                       {"softplus", softplus, Kind::real},
                       {"mish", mish, Kind::real},
                       {"hardsigmoid", hardsigmoid, Kind::real},
                       {"hardswish", hardswish, Kind::real}};
  const Shape shapes[] = {{}, {1}, {17}, {2, 3, 1, 5}, {0, 4}, {9, 31}};
  for (const Unary& u : ops) {
    for (const Shape& shape : shapes) {
      cases.push_back(
          {named(u.name, shape), {{.shape = shape, .kind = u.kind}}, [op = u.op](In x) { return op(x[0]); }});
    }
  }
  for (const Shape& shape : shapes) {
    cases.push_back({named("floor, round and sign", shape),
                     {real(shape)},
                     [](In x) {
                       return Results{floor(x[0] * 3), round(x[0] * 3), sign(x[0]), round(x[0] * 0.0 + 2.5)};
                     },
                     {.differentiable = false}});
    cases.push_back({named("clamp", shape), {real(shape)}, [](In x) { return clamp(x[0], -0.505, 0.755); }});
    cases.push_back({named("elu", shape), {real(shape)}, [](In x) { return elu(x[0], 0.7); }});
    cases.push_back({named("leaky_relu", shape), {real(shape)}, [](In x) { return leaky_relu(x[0], 0.2); }});
  }
  cases.push_back({"sin and cos of large numbers, beyond vectors' range, too",
                   {real({37})},
                   [](In x) {
                     const Tensor wide = round(x[0] * 64) * 997.0;
                     return Results{sin(wide), cos(wide), sin(wide * 8192.0), cos(wide * 8192.0)};
                   },
                   {.differentiable = false, .wide_only = true}});
  cases.push_back({"steps of integers",
                   {integers({40})},
                   [](In x) {
                     const Tensor n = cast(x[0], DType::i64);
                     return Results{floor(n), round(n), sign(n)};
                   },
                   {.differentiable = false}});
  cases.push_back({"leaky_relu, default slope", {real({5})}, [](In x) { return leaky_relu(x[0]); }});
  cases.push_back({"both sides of every kink",
                   {real({64})},
                   [](In x) {
                     return Results{relu6(x[0] * 9), hardsigmoid(x[0] * 5), hardswish(x[0] * 5),
                                    elu(x[0] * 9),   silu(x[0] * 30),       softplus(x[0] * 30),
                                    mish(x[0] * 30)};
                   },
                   {.smooth = false}});
  cases.push_back({"wide exp, tanh, sigmoid, gelu",
                   {real({64})},
                   [](In x) {
                     return Results{exp(x[0] * 20), tanh(x[0] * 20), sigmoid(x[0] * 40), gelu(x[0] * 6)};
                   },
                   {.smooth = false, .wide_only = true}});
}

void add_scalar_operands(Cases& cases) {
  cases.push_back({"numbers on the left", {positive({2, 5})}, [](In x) {
                     return Results{2 + x[0], 2 - x[0], 2 * x[0], 2 / x[0], pow(1.5, x[0])};
                   }});
  cases.push_back({"numbers on the right", {positive({2, 5})}, [](In x) {
                     return Results{x[0] + 2, x[0] - 2, x[0] * 2, x[0] / 2, pow(x[0], 3)};
                   }});
  cases.push_back({"pow with exponents 0, 1, 2 and −1", {positive({4})}, [](In x) {
                     return Results{pow(x[0], 0), pow(x[0], 1), pow(x[0], 2), pow(x[0], -1)};
                   }});
  cases.push_back({"pow of negative bases", {real({6})}, [](In x) {
                     return Results{pow(x[0], 2), pow(x[0], 3)};
                   }});
  cases.push_back({"an operand twice", {real({7})}, [](In x) {
                     return Results{x[0] + x[0], x[0] * x[0], x[0] - x[0]};
                   }});
}

void add_comparisons(Cases& cases) {
  struct Comparison {
    const char* name;
    Tensor (*op)(Operand, Operand);
  };
  const Comparison ops[] = {{"equal", equal},     {"not_equal", not_equal},
                            {"less", less},       {"less_equal", less_equal},
                            {"greater", greater}, {"greater_equal", greater_equal}};
  for (const Comparison& c : ops) {
    cases.push_back({named(c.name, {5, 13}),
                     {integers({5, 13}), integers({5, 13})},
                     [op = c.op](In x) { return op(x[0], x[1]); },
                     {.differentiable = false}});
    cases.push_back({named(c.name, {2, 3, 4}) + " {3, 1}",
                     {integers({2, 3, 4}), integers({3, 1})},
                     [op = c.op](In x) {
                       return Results{op(x[0], x[1]), op(x[0], 1), op(0, x[1])};
                     },
                     {.differentiable = false}});
    cases.push_back({std::string(c.name) + " of i64 and u8",
                     {labels(9, 3), labels(9, 3), bytes({9}, 3)},
                     [op = c.op](In x) {
                       return Results{op(x[0], x[1]), op(x[2], 1)};
                     },
                     {.differentiable = false}});
  }
  cases.push_back(
      {"where", {real({3, 4}), real({3, 4})}, [](In x) { return where(less(x[0], x[1]), x[0], x[1]); }});
  cases.push_back({"where, broadcast", {real({2, 1}), real({4}), real({3, 1, 1})}, [](In x) {
                     return where(greater(x[0], 0), x[1], x[2]);
                   }});
  cases.push_back({"where, a number", {real({9})}, [](In x) {
                     return Results{where(less(x[0], 0), x[0], 2), where(less(x[0], 0), 0.5, x[0])};
                   }});
}

void add_conversions(Cases& cases) {
  for (const DType to : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    cases.push_back({"cast to " + std::string(name_of(to)) + " and back",
                     {integers({3, 5}), real({0})},
                     [to](In x) {
                       return Results{cast(cast(x[0], to) * 0.5, x[0].dtype()), cast(x[1], to)};
                     },
                     {.differentiable = false}});
  }
  cases.push_back({"cast to whole numbers",
                   {integers({3, 5})},
                   [](In x) {
                     return Results{cast(x[0] * 0.75, DType::i64), cast(abs(x[0]), DType::u8),
                                    cast(x[0], DType::boolean)};
                   },
                   {.differentiable = false}});
  cases.push_back(
      {"cast from whole numbers",
       {labels(7, 100), bytes({7}, 200)},
       [](In x) {
         return Results{cast(x[0], DType::f32), cast(x[1], DType::f32), cast(less(x[0], 50), DType::f32)};
       },
       {.differentiable = false}});
  cases.push_back({"arithmetic of i64 and u8",
                   {labels(7, 100), labels(7, 5), bytes({7}, 20)},
                   [](In x) {
                     return Results{x[0] + x[1],      x[0] - x[1],         x[0] * x[1],      -x[0],
                                    abs(x[1] - x[0]), maximum(x[0], x[1]), minimum(x[2], 7), x[2] + x[2],
                                    x[2] * 3};
                   },
                   {.differentiable = false}});
  for (const Shape& shape : {Shape{3}, Shape{1, 7, 5, 1}, Shape{2, 1, 1, 17}, Shape{4, 24}, Shape{0, 5}}) {
    cases.push_back({named("bias_add", shape), {real(shape), real({shape.back()})}, [](In x) {
                       return bias_add(x[0], x[1]);
                     }});
  }
  cases.push_back({"variable, detach",
                   {real({5})},
                   [](In x) { return x[0] * x[0].detach(); },
                   {.differentiable = false}});
}

}  // namespace

std::vector<OpCase> pointwise_cases() {
  Cases cases;
  for (const auto add : {add_binary, add_unary, add_scalar_operands, add_comparisons, add_conversions})
    add(cases);
  return cases;
}

}  // namespace fusetape::tests
