#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

const Flags only_compared{.smooth = false, .wide_only = true};

void add_special_numbers(Cases& cases) {
  struct Unary {
    const char* name;
    Tensor (*op)(Operand);
  };
  const Unary unary[] = {
      {"neg", neg},     {"abs", abs},     {"exp", exp},         {"log", log},   {"sqrt", sqrt},
      {"relu", relu},   {"tanh", tanh},   {"sigmoid", sigmoid}, {"gelu", gelu}, {"gelu_tanh", gelu_tanh},
      {"expm1", expm1}, {"log1p", log1p}, {"rsqrt", rsqrt},     {"sin", sin},   {"cos", cos}};
  for (const Unary& u : unary) {
    cases.push_back({std::string(u.name) + " of special numbers",
                     {special({191})},
                     [op = u.op](In x) { return op(x[0]); },
                     only_compared});
  }
  cases.push_back({"floor, round, sign of special numbers",
                   {special({191})},
                   [](In x) {
                     return Results{floor(x[0]), round(x[0]), sign(x[0])};
                   },
                   {.differentiable = false, .wide_only = true}});
  struct Binary {
    const char* name;
    Tensor (*op)(Operand, Operand);
  };
  const Binary binary[] = {{"add", add}, {"sub", sub},         {"mul", mul},        {"div", div},
                           {"pow", pow}, {"minimum", minimum}, {"maximum", maximum}};
  for (const Binary& b : binary) {
    cases.push_back({std::string(b.name) + " of special numbers",
                     {special({191}), special({191})},
                     [op = b.op](In x) { return op(x[0], x[1]); },
                     only_compared});
  }
  cases.push_back({"clamp, leaky_relu of special numbers",
                   {special({191})},
                   [](In x) {
                     return Results{clamp(x[0], -1, 17), leaky_relu(x[0], 0.25)};
                   },
                   only_compared});
  cases.push_back({"where, comparisons of special numbers",
                   {special({191}), special({191})},
                   [](In x) {
                     return Results{where(less(x[0], x[1]), x[0], x[1]), where(equal(x[0], x[1]), x[0], 1),
                                    where(not_equal(x[0], x[1]), x[0], 1),
                                    where(greater_equal(x[0], x[1]), x[0], x[1])};
                   },
                   only_compared});
  cases.push_back(
      {"reductions of special numbers",
       {special({12, 5, 7})},
       [](In x) {
         return Results{sum(x[0], {1}), mean(x[0], {2}), max(x[0], {1}), max(x[0], {2}), max(x[0])};
       },
       only_compared});
  cases.push_back({"argmax of special numbers",
                   {special({12, 17})},
                   [](In x) {
                     return Results{argmax(x[0], 0), argmax(x[0], 1)};
                   },
                   {.differentiable = false, .wide_only = true}});
  cases.push_back({"softmax, log_softmax of special numbers",
                   {special({40, 3})},
                   [](In x) {
                     return Results{softmax(x[0]), log_softmax(x[0]), softmax(x[0], 0)};
                   },
                   only_compared});
  cases.push_back({"cross_entropy of special numbers",
                   {special({40, 3}), labels(40, 3)},
                   [](In x) { return cross_entropy(x[0], x[1], {.reduction = Reduction::none}); },
                   only_compared});
  cases.push_back({"bce_with_logits of special numbers",
                   {special({40}), positive({40})},
                   [](In x) { return bce_with_logits(x[0], x[1], Reduction::none); },
                   only_compared});
  cases.push_back({"pools of special numbers",
                   {special({2, 8, 9, 3})},
                   [](In x) {
                     return Results{max_pool2d(x[0]),
                                    max_pool2d(x[0], {.window = {3, 3}, .stride = {1, 2}, .padding = {1, 1}}),
                                    avg_pool2d(x[0])};
                   },
                   only_compared});
  cases.push_back({"chain of special numbers",
                   {special({191}), special({191})},
                   [](In x) { return relu(tanh(x[0] * 0.5) + clamp(x[1], -2, 2)) * sigmoid(x[0] - x[1]); },
                   only_compared});
}

/// y = fma(a, x, β − a·μ) in f32 loses what a and μ have in common with x.
const Flags cancels{.smooth = false, .tolerance = 5e-4, .wide_only = true};

void add_hard_to_round(Cases& cases) {
  for (const double offset : {30.0, 1000.0}) {
    const std::string how = " of numbers around " + std::to_string(static_cast<int>(offset));
    cases.push_back({"batch_norm" + how,
                     {real({5, 9, 11, 7}), scale(7), shift(7)},
                     [offset](In in) { return batch_norm(in[0] + offset, in[1], in[2]); },
                     cancels});
    cases.push_back({"bn+relu" + how,
                     {real({5, 9, 11, 7}), scale(7), shift(7)},
                     [offset](In in) { return relu(batch_norm(in[0] + offset, in[1], in[2])); },
                     cancels});
    cases.push_back(
        {"softmax" + how,
         {real({7, 20})},
         [offset](In in) {
           return Results{softmax(in[0] * offset), log_softmax(in[0] * offset), softmax(in[0] + offset)};
         },
         only_compared});
    cases.push_back({"cross_entropy" + how,
                     {real({7, 20}), labels(7, 20)},
                     [offset](In in) { return cross_entropy(in[0] * offset, in[1]); },
                     only_compared});
    cases.push_back({"bce_with_logits" + how,
                     {real({50}), positive({50})},
                     [offset](In in) { return bce_with_logits(in[0] * offset, in[1] * 0.5); },
                     only_compared});
    cases.push_back({"sums" + how,
                     {real({9, 31, 33, 5})},
                     [offset](In in) {
                       return Results{sum(in[0] + offset), sum(in[0] + offset, {0, 1, 2}),
                                      mean(in[0] + offset, {3}), mean(in[0] + offset)};
                     },
                     only_compared});
  }
  cases.push_back({"batch_norm of a constant",
                   {scale(3), shift(3)},
                   [](In in) {
                     return batch_norm(full({4, 5, 3}, 7.3, in[0].dtype()), in[0], in[1]);
                   },
                   cancels});
}

}  // namespace

std::vector<OpCase> extreme_cases() {
  Cases cases;
  for (const auto add : {add_special_numbers, add_hard_to_round}) add(cases);
  return cases;
}

}  // namespace fusetape::tests
