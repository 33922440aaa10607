#include "tests/ops/op_cases.hpp"

/// What works on places of axes, and what is made of other ops.
namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

Input index_of(Shape shape, std::int64_t limit) {
  return {.shape = std::move(shape), .kind = Kind::labels, .constant = true, .limit = limit};
}

void add_by_index(Cases& cases) {
  for (const int axis : {0, 1, 2, -1}) {
    const std::string how = " on axis " + std::to_string(axis);
    const Shape shape{3, 4, 5};
    const std::int64_t extent = shape[axis < 0 ? axis + 3 : axis];
    cases.push_back({"index_select" + how, {real(shape), index_of({7}, extent)}, [axis](In x) {
                       return index_select(x[0], axis, x[1]);
                     }});
    Shape chosen = shape;
    chosen[axis < 0 ? axis + 3 : axis] = 6;
    cases.push_back({"gather" + how, {real(shape), index_of(chosen, extent)}, [axis](In x) {
                       return gather(x[0], axis, x[1]);
                     }});
    cases.push_back({"scatter_add" + how,
                     {real(shape), index_of(chosen, extent), real(chosen)},
                     [axis](In x) { return scatter_add(x[0], axis, x[1], x[2]); }});
    cases.push_back({"cumsum" + how, {real(shape)}, [axis](In x) { return cumsum(x[0], axis); }});
    cases.push_back({"topk" + how, {real(shape)}, [axis](In x) {
                       const TopK top = topk(x[0], 2, axis);
                       return Results{top.values, cast(top.places, top.values.dtype())};
                     }});
    cases.push_back(
        {"roll" + how, {real(shape)}, [axis](In x) {
           return Results{roll(x[0], 1, axis), roll(x[0], -7, axis) * 2, roll(x[0], 60, axis) * 3};
         }});
    cases.push_back({"prod" + how, {real(shape)}, [axis](In x) {
                       return Results{prod(x[0], axis), prod(x[0] * 1.5, axis, {.keep_dims = true})};
                     }});
  }
  cases.push_back({"index_select of many rows",
                   {real({70, 300}), index_of({200}, 70)},
                   [](In x) { return index_select(x[0], 0, x[1]); },
                   {.tolerance = 2e-5}});
  cases.push_back({"gather along many lines", {real({40, 30, 50}), index_of({40, 20, 50}, 30)}, [](In x) {
                     return gather(x[0], 1, x[1]);
                   }});
  cases.push_back({"nothing by index", {real({3, 0}), index_of({0}, 3), real({0, 2})}, [](In x) {
                     return Results{index_select(x[0], 0, x[1]),
                                    index_select(x[0], 1, x[1]),
                                    cumsum(x[0], 0),
                                    topk(x[0], 0, 1).values,
                                    prod(x[2], 0),
                                    flip(x[0], {0, 1})};
                   }});
  cases.push_back(
      {"embedding", {real({9, 4}), index_of({2, 3}, 9)}, [](In x) { return embedding(x[0], x[1]); }});
  cases.push_back(
      {"integers by index",
       {index_of({4, 5}, 50), index_of({3}, 4), index_of({2, 5}, 4)},
       [](In x) {
         return Results{index_select(x[0], 0, x[1]), gather(x[0], 0, x[2]), cumsum(x[0], 1),
                        topk(x[0], 3).values,        topk(x[0], 3).places,  scatter_add(x[0], 0, x[2], x[2])};
       },
       {.differentiable = false}});
  cases.push_back(
      {"one_hot",
       {index_of({2, 3}, 6), bytes({4}, 9)},
       [](In x) {
         return Results{one_hot(x[0], 5), one_hot(x[1], 4, DType::i64), one_hot(x[0], 6, DType::boolean)};
       },
       {.differentiable = false}});
}

void add_shapes(Cases& cases) {
  cases.push_back({"squeeze, unsqueeze, flip", {real({2, 1, 3})}, [](In x) {
                     return Results{squeeze(x[0], 1) * 2, unsqueeze(x[0], -1) * 3, unsqueeze(x[0], 0) * 4,
                                    flip(x[0], {0, -1})};
                   }});
  for (const int axis : {0, 1, 2, -1}) {
    cases.push_back({"stack on axis " + std::to_string(axis), {real({2, 3}), real({2, 3})}, [axis](In x) {
                       return stack({x[0], x[1], x[0]}, axis);
                     }});
  }
  cases.push_back({"split", {real({2, 7})}, [](In x) {
                     const std::vector<Tensor> parts = split(x[0], {3, 0, 4}, 1);
                     return Results{parts[0] * 2, parts[1], parts[2] * 3};
                   }});
  cases.push_back({"repeat", {real({2, 3}), real({0, 2}), real({2, 1, 2, 1, 2, 1, 2, 1})}, [](In x) {
                     return Results{repeat(x[0], {2, 3}), repeat(x[0], {1, 1}) * 2, repeat(x[0], {0, 2}),
                                    repeat(x[1], {3, 2}), repeat(x[2], {1, 2, 1, 3, 1, 1, 2, 2})};
                   }});
}

void add_reductions(Cases& cases) {
  for (const Axes& axes : {Axes(), Axes(0), Axes{0, -1}, Axes(1)}) {
    std::string how;
    for (const int axis : axes) how += " " + std::to_string(axis);
    cases.push_back({"min, var and logsumexp over" + how, {real({3, 4, 2})}, [axes](In x) {
                       return Results{
                           min(x[0], axes),       min(x[0] * 2, axes, {.keep_dims = true}),
                           var(x[0], axes),       var(x[0] * 3, axes, {.correction = 0, .keep_dims = true}),
                           logsumexp(x[0], axes), logsumexp(x[0] * 4, axes, {.keep_dims = true})};
                     }});
  }
  cases.push_back({"argmin",
                   {real({3, 4})},
                   [](In x) {
                     return Results{cast(argmin(x[0]), x[0].dtype()), cast(argmin(x[0], 0), x[0].dtype())};
                   },
                   {.differentiable = false}});
  cases.push_back({"min of integers",
                   {bytes({3, 5}, 200), index_of({3, 5}, 90)},
                   [](In x) {
                     return Results{min(x[0]), min(x[1], 1), argmin(x[0], 1), argmin(x[1], 0)};
                   },
                   {.differentiable = false}});
}

void add_truths(Cases& cases) {
  cases.push_back({"logical ops",
                   {integers({5, 6}), integers({6}), bytes({5, 6}, 2)},
                   [](In x) {
                     const Tensor truth = less(x[0], 1.5);
                     return Results{logical_and(x[0], x[1]),  logical_or(truth, x[2]),
                                    logical_xor(x[0], truth), logical_not(x[2]),
                                    logical_and(truth, 3),    logical_or(x[1], false)};
                   },
                   {.differentiable = false}});
}

void add_images(Cases& cases) {
  for (const Size2d size : {Size2d(3, 2), Size2d(5, 7), Size2d(1, 1), Size2d(10, 14), Size2d(2, 11)}) {
    const std::string how = " to " + std::to_string(size.height) + "x" + std::to_string(size.width);
    cases.push_back({"adaptive_avg_pool2d" + how, {real({2, 5, 7, 3})}, [size](In x) {
                       return adaptive_avg_pool2d(x[0], size);
                     }});
    for (const Upsampling by : {Upsampling::nearest, Upsampling::bilinear}) {
      cases.push_back({(by == Upsampling::nearest ? "nearest" : "bilinear") + how,
                       {real({2, 5, 7, 3})},
                       [=](In x) { return upsample(x[0], size, by); }});
    }
  }
  cases.push_back({"pixel_shuffle", {real({2, 3, 2, 12})}, [](In x) {
                     return Results{pixel_shuffle(x[0], 2), pixel_shuffle(x[0], 1) * 2};
                   }});
}

void add_borders(Cases& cases) {
  for (const std::int64_t stride : {1, 2, 3}) {
    cases.push_back(
        {"conv2d, same and asymmetric padding, stride " + std::to_string(stride),
         {real({2, 5, 8, 3}), real({4, 3, 2, 3}), real({4})},
         [stride](In x) {
           return Results{
               conv2d(x[0], x[1], x[2], {.stride = stride, .padding = Padding2d::same()}),
               conv2d(x[0], x[1], {.stride = stride, .padding = {0, 2, 1, 0}, .dilation = {1, 2}})};
         },
         {.tolerance = 2e-5}});
  }
  for (const bool count : {true, false}) {
    cases.push_back(
        {std::string("pooling that hangs over the edge") + (count ? "" : ", padding not counted"),
         {real({2, 6, 8, 3})},
         [count](In x) {
           return Results{
               max_pool2d(x[0], {.window = 3, .stride = 2, .padding = 1, .ceil_mode = true}),
               max_pool2d(x[0], {.window = 2, .stride = 1, .padding = Padding2d::same()}),
               avg_pool2d(
                   x[0], {.window = 3, .stride = 2, .padding = 1, .count_padding = count, .ceil_mode = true}),
               avg_pool2d(x[0],
                          {.window = {3, 5}, .stride = 3, .padding = {1, 0, 0, 2}, .count_padding = count})};
         }});
  }
}

void add_attention(Cases& cases) {
  const std::vector<Input> inputs{real({2, 3, 4, 5}), real({2, 3, 6, 5}), real({2, 3, 6, 2})};
  cases.push_back({"attention", inputs, [](In x) { return scaled_dot_product_attention(x[0], x[1], x[2]); }});
  cases.push_back({"causal attention", inputs, [](In x) {
                     return scaled_dot_product_attention(x[0], x[1], x[2], {.causal = true, .scale = 0.7});
                   }});
  cases.push_back({"masked attention",
                   {real({3, 4, 5}), real({3, 4, 5}), real({3, 4, 2}), constant(real({4, 4}))},
                   [](In x) {
                     const Tensor diagonal =
                         equal(unsqueeze(arange(4, DType::i64), 1), arange(4, DType::i64));
                     const Tensor allowed = logical_or(greater(x[3], 0), diagonal);
                     return Results{scaled_dot_product_attention(x[0], x[1], x[2], {.mask = allowed}),
                                    scaled_dot_product_attention(x[0], x[1], x[2], {.mask = x[3]})};
                   }});
}

void add_group_norms(Cases& cases) {
  struct Row {
    Shape shape;
    std::int64_t groups;
    double tolerance = 1e-5;
  };
  const Row rows[] = {{{2, 3, 5, 6}, 3}, {{3, 4, 8}, 1},     {{2, 2, 2, 5}, 5},
                      {{4, 6}, 2},       {{1, 1, 1, 4}, 4},  {{0, 3, 4}, 2},
                      {{3, 0, 4}, 2},    {{2, 9, 9, 35}, 7}, {{3, 17, 19, 48}, 3, 2e-5}};
  for (const Row& row : rows) {
    const std::int64_t c = row.shape.back();
    cases.push_back({named("group_norm", row.shape) + " in " + std::to_string(row.groups),
                     {real(row.shape), scale(c), shift(c)},
                     [groups = row.groups](In x) { return group_norm(x[0], groups, x[1], x[2]); },
                     {.tolerance = row.tolerance}});
  }
  for (const Shape& shape : {Shape{5, 7}, {2, 3, 16}, {9}, {2, 3, 4, 1}, {0, 4}, {130, 193}}) {
    const std::int64_t c = shape.back();
    cases.push_back({named("layer_norm", shape),
                     {real(shape), scale(c), shift(c)},
                     [](In x) { return layer_norm(x[0], x[1], x[2], 1e-3); },
                     {.tolerance = 2e-5}});
  }
}

}  // namespace

std::vector<OpCase> array_cases() {
  Cases cases;
  add_by_index(cases);
  add_shapes(cases);
  add_reductions(cases);
  add_truths(cases);
  add_images(cases);
  add_borders(cases);
  add_attention(cases);
  add_group_norms(cases);
  return cases;
}

}  // namespace fusetape::tests
