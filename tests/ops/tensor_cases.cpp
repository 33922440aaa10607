#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

// ---- shape ----

void add_shapes(Cases& cases) {
  cases.push_back({"reshape", {real({2, 3, 4})}, [](In x) {
                     return Results{reshape(x[0], {6, 4}) * 2, x[0].reshape({4, -1}) * 3, reshape(x[0], {24}),
                                    reshape(x[0], {2, 3, 4})};
                   }});
  cases.push_back({"reshape of empty and scalar", {real({0, 3}), real({1, 1})}, [](In x) {
                     return Results{reshape(x[0], {3, 0, 2}), reshape(x[1], {}) * 2};
                   }});
  cases.push_back({"flatten", {real({2, 3, 2, 2})}, [](In x) {
                     return Results{flatten(x[0]) * 2, flatten(x[0], 0) * 3, flatten(x[0], -2) * 4};
                   }});
  const std::pair<Shape, std::vector<int>> permutations[] = {{{2, 3}, {1, 0}},
                                                             {{2, 3, 4}, {2, 0, 1}},
                                                             {{2, 3, 2, 5}, {0, 3, 1, 2}},
                                                             {{2, 1, 3, 2}, {-1, 0, -2, 1}},
                                                             {{0, 3}, {1, 0}},
                                                             {{17, 33}, {1, 0}},
                                                             {{2, 2, 2, 2, 3}, {4, 2, 0, 1, 3}}};
  for (const auto& [shape, permutation] : permutations) {
    cases.push_back({named("transpose", shape), {real(shape)}, [permutation = permutation](In x) {
                       return transpose(x[0], permutation);
                     }});
  }
  cases.push_back({"transpose of the last axes, NCHW", {real({2, 3, 4}), real({2, 3, 2, 5})}, [](In x) {
                     return Results{transpose(x[0]), from_nchw(x[1]), to_nchw(x[1])};
                   }});
  const std::pair<Shape, Shape> broadcasts[] = {
      {{}, {3}}, {{3}, {2, 3}}, {{2, 1, 3}, {2, 4, 3}}, {{1, 1}, {5, 0}}, {{1}, {2, 2, 17}}};
  for (const auto& [from, to] : broadcasts) {
    cases.push_back({named("broadcast_to", from) + " " + to_string(to), {real(from)}, [to = to](In x) {
                       return broadcast_to(x[0], to);
                     }});
  }
  for (const int axis : {0, 1, 2, -1}) {
    Shape a{2, 3, 2}, b = a, c = a;
    b[axis < 0 ? axis + 3 : axis] = 1;
    c[axis < 0 ? axis + 3 : axis] = 0;
    cases.push_back({"concat on axis " + std::to_string(axis), {real(a), real(b), real(c)}, [axis](In x) {
                       return concat({x[0], x[1], x[2], x[0]}, axis);
                     }});
  }
  cases.push_back({"concat of i64",
                   {labels(3, 50), labels(5, 50)},
                   [](In x) { return concat(x, 0); },
                   {.differentiable = false}});
  struct SliceCase {
    int axis;
    std::int64_t start, stop, step;
  };
  for (const auto& row :
       {SliceCase{0, 1, 3, 1}, {1, 0, 5, 2}, {2, -2, 2, 1}, {1, 1, -1, 3}, {1, 2, 2, 1}, {-3, 0, 3, 2}}) {
    const int axis = row.axis;
    const std::int64_t start = row.start;
    const std::int64_t stop = row.stop;
    const std::int64_t step = row.step;
    cases.push_back({"slice " + std::to_string(axis) + " " + std::to_string(start) + ":" +
                         std::to_string(stop) + ":" + std::to_string(step),
                     {real({3, 5, 2})},
                     [=](In x) { return slice(x[0], axis, start, stop, step); }});
  }
  cases.push_back({"pad", {real({2, 3})}, [](In x) {
                     return Results{pad(x[0], {{1, 0}, {0, 2}}), pad(x[0], {{0, 1}, {3, 1}}, -2.5),
                                    pad(x[0], {{0, 0}, {0, 0}})};
                   }});
  cases.push_back({"pad an image", {real({1, 3, 2, 3})}, [](In x) {
                     return pad(x[0], {{0, 0}, {1, 1}, {2, 1}, {0, 0}});
                   }});
}

// ---- reductions, losses ----

void add_reductions(Cases& cases) {
  struct Reduced {
    Shape x;
    std::vector<int> axes;
  };
  const Reduced reductions[] = {{{7}, {}},
                                {{}, {}},
                                {{2, 3, 4}, {}},
                                {{2, 3, 4}, {0}},
                                {{2, 3, 4}, {1}},
                                {{2, 3, 4}, {-1}},
                                {{2, 3, 4}, {0, 2}},
                                {{2, 3, 2, 3}, {0, 1, 2}},
                                {{2, 3, 2, 3}, {1, 2}},
                                {{1, 1, 1, 5}, {0, 1, 2}},
                                {{31, 17}, {0}},
                                {{31, 17}, {1}},
                                {{3, 8, 8, 24}, {0, 1, 2}}};
  for (const auto& [shape, axes] : reductions) {
    for (const bool keep : {false, true}) {
      std::string how = named("", shape) + " over";
      for (int axis : axes) how += " " + std::to_string(axis);
      if (keep) how += ", keep_dims";
      const ReduceOptions options{.keep_dims = keep};
      cases.push_back(
          {"sum" + how, {real(shape)}, [axes = axes, options](In x) { return sum(x[0], axes, options); }});
      cases.push_back(
          {"mean" + how, {real(shape)}, [axes = axes, options](In x) { return mean(x[0], axes, options); }});
      if (shape.elements() < 190) {  // all different
        cases.push_back(
            {"max" + how, {real(shape)}, [axes = axes, options](In x) { return max(x[0], axes, options); }});
      }
    }
  }
  cases.push_back({"sum of nothing", {real({0, 3})}, [](In x) {
                     return Results{sum(x[0]), sum(x[0], {0}), sum(x[0], {1})};
                   }});
  cases.push_back({"sum of whole numbers and bools",
                   {labels(9, 50), bytes({3, 7}, 250), integers({11})},
                   [](In x) {
                     return Results{sum(x[0]), sum(x[1], {0}), sum(x[1]), sum(less(x[2], 1))};
                   },
                   {.differentiable = false}});
  cases.push_back({"max of equal elements, of i64",
                   {integers({5, 20}), labels(30, 7)},
                   [](In x) {
                     return Results{max(x[0], {1}), max(x[0], {0}), max(x[1])};
                   },
                   {.differentiable = false}});
  for (const auto& [shape, axis] :
       {std::pair<Shape, int>{{7}, 0}, {{3, 5}, -1}, {{3, 5}, 0}, {{2, 9, 3}, 1}, {{1, 1}, 1}}) {
    cases.push_back({named("argmax", shape) + " on " + std::to_string(axis),
                     {integers(shape), real(shape)},
                     [axis = axis](In x) {
                       return Results{argmax(x[0], axis), argmax(x[1], axis, {.keep_dims = true})};
                     },
                     {.differentiable = false}});
  }
}

void add_losses(Cases& cases) {
  for (const auto& [shape, axis] : {std::pair<Shape, int>{{4}, -1},
                                    {{2, 5}, -1},
                                    {{3, 4}, 0},
                                    {{2, 3, 2, 3}, 1},
                                    {{6, 17}, 1},
                                    {{2, 1}, 1},
                                    {{0, 3}, 1},
                                    {{3, 100}, -1}}) {
    cases.push_back({named("softmax", shape) + " on " + std::to_string(axis),
                     {real(shape)},
                     [axis = axis](In x) { return softmax(x[0] * 3, axis); }});
    cases.push_back({named("log_softmax", shape) + " on " + std::to_string(axis),
                     {real(shape)},
                     [axis = axis](In x) { return log_softmax(x[0] * 3, axis); }});
  }
  for (const Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
    const std::string how = ", reduction " + std::to_string(static_cast<int>(reduction));
    for (const auto& [n, classes] :
         {std::pair<std::int64_t, std::int64_t>{3, 4}, {1, 1}, {1, 10}, {17, 10}, {5, 100}}) {
      for (const double smoothing : {0.0, 0.1}) {
        cases.push_back({named("cross_entropy", {n, classes}) + how + (smoothing > 0 ? ", smoothed" : ""),
                         {real({n, classes}), labels(n, classes)},
                         [=](In x) {
                           return cross_entropy(x[0], x[1],
                                                {.label_smoothing = smoothing, .reduction = reduction});
                         }});
      }
    }
    cases.push_back({"cross_entropy, u8 labels" + how, {real({4, 3}), bytes({4}, 3)}, [=](In x) {
                       return cross_entropy(x[0], x[1], {.reduction = reduction});
                     }});
    cases.push_back({"bce_with_logits" + how, {real({2, 5}), positive({2, 5})}, [=](In x) {
                       return bce_with_logits(x[0] * 4, x[1] * 0.5, reduction);
                     }});
    cases.push_back({"mse_loss" + how, {real({3, 5}), real({3, 5})}, [=](In x) {
                       return mse_loss(x[0], x[1], reduction);
                     }});
  }
  cases.push_back({"cross_entropy of no rows", {real({0, 3}), labels(0, 3)}, [](In x) {
                     return Results{cross_entropy(x[0], x[1], {.reduction = Reduction::sum}),
                                    cross_entropy(x[0], x[1], {.reduction = Reduction::none})};
                   }});
}

void add_random(Cases& cases) {
  cases.push_back({"rand, randn",
                   {},
                   [](In) {
                     manual_seed(3);
                     return Results{
                         rand({3, 5}),          randn({2, 17}),         rand({}), randn({1}), rand({0, 2}),
                         rand({4}, DType::f64), randn({3}, DType::bf16)};
                   },
                   {.differentiable = false}});
  for (const double p : {0.0, 0.3, 0.9}) {
    cases.push_back({"dropout " + std::to_string(p), {real({3, 17})}, [p](In x) {
                       manual_seed(4);
                       return dropout(x[0], p);
                     }});
  }
}

// ---- large enough for several threads, with odd ends ----

void add_large(Cases& cases) {
  const Shape x{9, 31, 33, 5};  // 46,035 elements
  cases.push_back({"large add, broadcast", {real(x), real({5}), real({31, 1, 5})}, [](In in) {
                     return in[0] + in[1] * in[2];
                   }});
  cases.push_back({"large cast, less, where", {real(x), real(x)}, [](In in) {
                     return where(less(in[0], in[1]), in[0], cast(cast(in[1], DType::f64), in[0].dtype()));
                   }});
  for (const std::vector<int>& axes : {std::vector<int>{}, {0, 1, 2}, {1, 2}, {0}, {3}, {0, 2}}) {
    std::string how = " over";
    for (int axis : axes) how += " " + std::to_string(axis);
    cases.push_back({"large sum" + how, {real(x)}, [axes](In in) { return sum(in[0], axes); }});
    cases.push_back({"large mean" + how, {real(x)}, [axes](In in) { return mean(in[0], axes); }});
    cases.push_back(
        {"large max" + how, {real(x)}, [axes](In in) { return max(in[0], axes); }, {.smooth = false}});
  }
  cases.push_back({"large softmax", {real({700, 33})}, [](In in) {
                     return Results{softmax(in[0]), log_softmax(in[0])};
                   }});
  cases.push_back({"large cross_entropy", {real({1500, 10}), labels(1500, 10)}, [](In in) {
                     return cross_entropy(in[0], in[1]);
                   }});
  cases.push_back(
      {"large matmul", {real({130, 200}), real({200, 70})}, [](In in) { return matmul(in[0], in[1]); }});
  cases.push_back({"large transpose", {real(x)}, [](In in) {
                     return Results{transpose(in[0], {0, 3, 1, 2}), transpose(in[0])};
                   }});
  cases.push_back({"large concat, slice, pad", {real(x), real({9, 31, 33, 2})}, [](In in) {
                     const Tensor both = concat({in[0], in[1]}, 3);
                     return Results{slice(both, 1, 3, 30, 2), pad(both, {{0, 0}, {1, 2}, {0, 1}, {0, 0}})};
                   }});
  cases.push_back(
      {"large conv2d with bias", {real({2, 17, 19, 24}), real({20, 3, 3, 24}), real({20})}, [](In in) {
         return conv2d(in[0], in[1], in[2], {.padding = {1, 1}});
       }});
  cases.push_back({"large batch_norm", {real({3, 31, 33, 17}), scale(17), shift(17)}, [](In in) {
                     return batch_norm(in[0], in[1], in[2]);
                   }});
  cases.push_back({"large pools", {real({2, 33, 31, 17})}, [](In in) {
                     return Results{
                         max_pool2d(in[0], {.window = {3, 3}, .stride = {2, 2}, .padding = {1, 1}}),
                         avg_pool2d(in[0])};
                   }});
  cases.push_back({"large rand, randn",
                   {},
                   [](In) {
                     manual_seed(6);
                     return Results{rand({101, 99}), randn({99, 101})};
                   },
                   {.differentiable = false}});
  cases.push_back({"large dropout", {real(x)}, [](In in) {
                     manual_seed(5);
                     return dropout(in[0], 0.4);
                   }});
}

}  // namespace

std::vector<OpCase> tensor_cases() {
  Cases cases;
  for (const auto add : {add_shapes, add_reductions, add_losses, add_random, add_large}) add(cases);
  return cases;
}

}  // namespace fusetape::tests
