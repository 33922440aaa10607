#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

void add_chains(Cases& cases) {
  for (const Shape& x : {Shape{3}, Shape{2, 3, 2, 17}, Shape{0, 3}, Shape{1}, Shape{9, 31, 33, 5}}) {
    cases.push_back({named("chain of five", x), {real(x), real(x)}, [](In in) {
                       return sigmoid(tanh(in[0] * 0.5 + in[1]) * in[1] - 0.25);
                     }});
    cases.push_back({named("chain with a fork and a join", x), {real(x), positive(x)}, [](In in) {
                       const Tensor a = in[0] + in[1], b = exp(-abs(a));
                       return Results{a * b, log(b + in[1]) / (a * a + 1)};
                     }});
    cases.push_back({named("chain of choices", x), {real(x), real(x)}, [](In in) {
                       return where(less(in[0], in[1]), leaky_relu(in[0], 0.1), clamp(in[1], -0.505, 0.505)) *
                              3;
                     }});
    cases.push_back(
        {named("chain of gelu and relu", x), {real(x)}, [](In in) { return gelu(relu(in[0] * 2) - 0.3); }});
  }
  cases.push_back({"chain with broadcast operands",
                   {real({2, 3, 4, 5}), real({5}), real({3, 1, 1}), real({})},
                   [](In in) { return tanh((in[0] + in[1]) * in[2] - in[3]); }});
  cases.push_back({"chain through casts",
                   {real({7, 5})},
                   [](In in) {
                     return cast(cast(in[0] * 2, DType::f32) * cast(less(in[0], 0.1), DType::f32),
                                 in[0].dtype());
                   },
                   {.smooth = false, .wide_only = true}});
  cases.push_back({"chain of 1,000 ops",
                   {real({3, 5})},
                   [](In in) {
                     Tensor x = in[0];
                     for (int i = 0; i < 1000; ++i)
                       x = i % 3 == 0 ? tanh(x) : i % 3 == 1 ? x * 1.25 : x + 0.125;
                     return x;
                   },
                   {.smooth = false,
                    .wide_only = true,
                    .groups = {"tanh+mul+add+tanh+mul+add+tanh+mul+(991 more)+tanh"}}});
  cases.push_back({"chain with more temporaries than fit the L1 cache",
                   {real({1030})},
                   [](In in) {
                     std::vector<Tensor> parts;
                     for (int i = 0; i < 120; ++i) parts.push_back(tanh(in[0] * (0.01 * i)));
                     Tensor x = in[0];
                     for (const Tensor& part : parts) x = x * 0.5 + part;
                     return x;
                   },
                   {.smooth = false, .wide_only = true}});
  cases.push_back({"chain interrupted by a sum that goes back into it",
                   {real({4, 6})},
                   [](In in) {
                     const Tensor e = exp(in[0] * 0.5);
                     return log(e / sum(e, {1}, {.keep_dims = true}) + 0.5) * e;
                   },
                   {.tolerance = 2e-5}});
  cases.push_back({"views inside a chain", {real({4, 6})}, [](In in) {
                     return (tanh(in[0] * 2).reshape({6, 4}) + 1).reshape({24}) * 0.5;
                   }});
  cases.push_back({"equal subexpressions", {real({5, 3})}, [](In in) {
                     return tanh(in[0] * 2) * (tanh(in[0] * 2) + sum(tanh(in[0] * 2)));
                   }});
}

void add_broadcast_chains(Cases& cases) {
  const std::pair<Shape, std::vector<Shape>> operands[] = {
      {{2, 7, 5, 3}, {{}, {3}, {5, 3}, {7, 1, 1}, {2, 1, 1, 3}, {2, 1, 1, 1}, {1, 7, 1, 3}}},
      {{1, 1, 1, 17}, {{17}, {1}, {1, 1, 17}}},
      {{3, 24, 4}, {{24, 1}, {3, 1, 4}, {3, 1, 1}, {4}}},
      {{4, 700}, {{700}, {4, 1}}},
      {{2, 9, 9, 24}, {{2, 1, 1, 24}, {9, 1, 24}, {24}}},
      {{0, 3}, {{3}, {1}}}};
  for (const auto& [shape, others] : operands) {
    for (const Shape& other : others) {
      cases.push_back({named("chain", shape) + " with " + to_string(other),
                       {real(shape), real(other), positive(other)},
                       [](In in) { return tanh((in[0] - in[1]) * in[2]) / in[2] + in[1]; }});
    }
  }
  // More periodic operands than are laid out beforehand.
  cases.push_back({"chain with a dozen biases",
                   std::vector<Input>(13, real({6, 5})),
                   [](In in) {
                     Tensor x = in[0];
                     for (std::size_t i = 1; i < in.size(); ++i)
                       x = tanh(x) + slice(in[i], 0, i % 6, i % 6 + 1);
                     return x;
                   },
                   {.wide_only = true}});
}

void add_casting_chains(Cases& cases) {
  for (const Shape& shape : {Shape{17}, Shape{2, 7, 5, 3}, Shape{1}, Shape{0, 4}, Shape{33, 65}}) {
    for (const DType to : {DType::bf16, DType::f16}) {
      const std::string how = " of " + std::string(name_of(to)) + " " + to_string(shape);
      cases.push_back({"chain through rounded values" + how,
                       {real(shape), real(shape)},
                       [to](In in) {
                         const Tensor a = cast(in[0] * 1.7, to), b = cast(in[1], to);
                         const Tensor y = tanh(a * b + a) * b;
                         return Results{cast(y, in[0].dtype()) - in[0], cast(a + b, in[0].dtype()),
                                        cast(less(a, b), in[0].dtype())};
                       },
                       {.smooth = false, .tolerance = to == DType::bf16 ? 0.04 : 0.005, .wide_only = true}});
      cases.push_back({"casts alone" + how,
                       {real(shape)},
                       [to](In in) {
                         return Results{cast(in[0], to).detach(), cast(cast(in[0], to), in[0].dtype()),
                                        cast(cast(in[0] + 1, to) * 2, in[0].dtype())};
                       },
                       {.smooth = false, .tolerance = 0.04, .wide_only = true}});
    }
  }
  cases.push_back({"chain from whole numbers and bools",
                   {labels(70, 9), bytes({70}, 200), real({70})},
                   [](In in) {
                     const Tensor chosen = less(cast(in[0], DType::f32), 4);
                     return Results{where(chosen, in[2], cast(in[1], in[2].dtype()) * 0.125) * 2, chosen};
                   },
                   {.differentiable = false, .wide_only = true}});
}

/// A chain that ends in a sum or a mean over each set of axes.
void add_reduced_chains(Cases& cases) {
  const Shape shapes[] = {{2, 7, 5, 3}, {1, 1, 1, 17}, {3, 1, 4, 24}, {2, 33, 31, 9}, {2, 16, 16, 64}};
  const std::vector<int> axes[] = {{}, {0, 1, 2}, {3}, {1, 2}, {0}, {0, 1}, {2, 3}};
  for (const Shape& shape : shapes) {
    for (const std::vector<int>& over : axes) {
      std::string how = named("", shape) + " over";
      for (const int axis : over) how += " " + std::to_string(axis);
      cases.push_back({"chain and mean" + how,
                       {real(shape), real(shape)},
                       [over](In in) { return mean(tanh(in[0] * in[1]) + 0.25, over); },
                       {.groups = {"mul+tanh+add+mean"}}});
      cases.push_back({"chain and sum that keeps its axes" + how,
                       {real(shape), real({shape[3]})},
                       [over](In in) { return sum(in[0] * in[1] - 0.5, over, {.keep_dims = true}); },
                       {.groups = {"mul+sub+sum"}}});
    }
    cases.push_back({named("square and mean", shape),
                     {real(shape)},
                     [](In in) {
                       return mean(in[0] * in[0], {0, 1, 2});
                     },
                     {.groups = {"mul+mean"}}});
    cases.push_back(
        {named("chain over axes that are no neighbours", shape), {real(shape), real(shape)}, [](In in) {
           return Results{sum(in[0] * in[1], {0, 2}), mean(exp(in[0]), {1, 3})};
         }});
    cases.push_back({named("chain whose result is also read elsewhere, and mean", shape),
                     {real(shape), real(shape)},
                     [](In in) {
                       const Tensor y = tanh(in[0] * in[1]);
                       return Results{mean(y, {1, 2}), max(y, {3}), y + 1};
                     }});
    cases.push_back({named("bias gradient after gelu_grad", shape),
                     {real(shape), real({shape[3]})},
                     [](In in) { return gelu(in[0] + in[1]); },
                     {.groups = {"broadcast_to+mul+gelu_grad+sum"}}});
  }
  for (const Shape& shape : {Shape{0, 3}, Shape{3, 0}, Shape{0}}) {
    cases.push_back({named("chain and sum of nothing", shape), {real(shape)}, [](In in) {
                       return Results{sum(exp(in[0]) * 2, {0}), sum(exp(in[0]) * 2)};
                     }});
    cases.push_back({named("chain and mean of nothing", shape),
                     {real(shape)},
                     [](In in) { return mean(exp(in[0]) * 2); },
                     {.differentiable = false}});
  }
  cases.push_back({"chain, casts and means",
                   {real({2, 8, 8, 24})},
                   [](In in) {
                     const Tensor half = cast(in[0] * 1.25, DType::bf16);
                     return Results{cast(mean(relu(half) + half, {1, 2}), in[0].dtype()),
                                    mean(cast(half, in[0].dtype()) * 0.5, {3}),
                                    cast(sum(half * half, {0, 1, 2}), in[0].dtype())};
                   },
                   {.smooth = false, .tolerance = 0.02, .wide_only = true}});
  cases.push_back({"chain and sum of special numbers",
                   {special({20, 9}), special({20, 9})},
                   [](In in) {
                     return Results{sum(relu(in[0]) * 0.5, {0}), mean(in[0] - in[1], {1})};
                   },
                   {.smooth = false, .wide_only = true}});
  cases.push_back(
      {"sums of one long row, and of many short ones", {real({3, 5000}), real({5000, 3})}, [](In in) {
         return Results{sum(in[0] * in[0], {1}), sum(in[1] * in[1], {1}), mean(in[1] * 3, {0}),
                        mean(in[0] * 3, {0})};
       }});
}

}  // namespace

std::vector<OpCase> chain_cases() {
  Cases cases;
  for (const auto add : {add_chains, add_broadcast_chains, add_casting_chains, add_reduced_chains})
    add(cases);
  return cases;
}

}  // namespace fusetape::tests
