#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

// ---- linear algebra ----

void add_products(Cases& cases) {
  const std::array<std::int64_t, 3> sizes[] = {{2, 3, 4},   {1, 1, 1}, {17, 24, 3}, {1, 64, 10},
                                               {33, 7, 65}, {0, 3, 2}, {2, 0, 3},   {2, 3, 0}};
  for (const auto& [m, k, n] : sizes) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        const Shape a = ta ? Shape{k, m} : Shape{m, k}, b = tb ? Shape{n, k} : Shape{k, n};
        cases.push_back(
            {named("matmul", a) + (ta ? "ᵀ " : " ") + to_string(b) + (tb ? "ᵀ" : ""),
             {real(a), real(b)},
             [ta, tb](In x) { return matmul(x[0], x[1], {.transpose_a = ta, .transpose_b = tb}); }});
      }
    }
  }
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      const std::string how = std::string(ta ? "ᵀ" : "") + " × " + (tb ? "ᵀ" : "");
      const MatmulOptions options{.transpose_a = ta, .transpose_b = tb};
      const Shape m = ta ? Shape{4, 2} : Shape{2, 4}, n = tb ? Shape{3, 4} : Shape{4, 3};
      const Shape ms = ta ? Shape{5, 4, 2} : Shape{5, 2, 4}, ns = tb ? Shape{5, 3, 4} : Shape{5, 4, 3};
      const auto call = [options](In x) { return matmul(x[0], x[1], options); };
      cases.push_back({"matmul, stacks" + how, {real(ms), real(ns)}, call});
      cases.push_back({"matmul, stack and matrix" + how, {real(ms), real(n)}, call});
      cases.push_back({"matmul, matrix and stack" + how, {real(m), real(ns)}, call});
    }
  }
  cases.push_back(
      {"matmul, rank 4", {real({2, 3, 2, 4}), real({2, 3, 4, 1})}, [](In x) { return matmul(x[0], x[1]); }});
  cases.push_back({"linear", {real({3, 4}), real({5, 4})}, [](In x) { return linear(x[0], x[1]); }});
  cases.push_back({"linear with bias", {real({2, 3, 4}), real({5, 4}), real({5})}, [](In x) {
                     return linear(x[0], x[1], x[2]);
                   }});
  cases.push_back({"linear with bias, wide", {real({31, 64}), real({10, 64}), real({10})}, [](In x) {
                     return linear(x[0], x[1], x[2]);
                   }});
}

struct ConvCase {
  Shape x, w;
  Conv2dOptions options = {};
};

void add_convolutions(Cases& cases) {
  const ConvCase convolutions[] = {
      {{1, 4, 3, 2}, {3, 3, 3, 2}, {.padding = {1, 1}}},
      {{1, 1, 1, 1}, {1, 1, 1, 1}},
      {{2, 1, 1, 3}, {4, 3, 3, 3}, {.padding = {1, 1}}},
      {{2, 7, 5, 3}, {17, 3, 3, 3}, {.padding = {1, 1}}},
      {{1, 7, 5, 17}, {24, 1, 1, 17}},
      {{2, 7, 5, 24}, {24, 3, 3, 24}, {.stride = {2, 2}, .padding = {1, 1}}},
      {{3, 8, 8, 16}, {32, 3, 3, 16}, {.padding = {1, 1}}},
      {{2, 8, 8, 16}, {32, 1, 1, 16}, {.stride = {2, 2}}},
      {{1, 6, 5, 2}, {2, 2, 3, 2}, {.stride = {2, 1}, .padding = {0, 2}}},
      {{1, 7, 6, 2}, {3, 3, 2, 2}, {.dilation = {2, 3}}},
      {{1, 6, 6, 4}, {6, 3, 3, 2}, {.padding = {1, 1}, .groups = 2}},
      {{1, 5, 5, 6}, {6, 3, 3, 1}, {.padding = {1, 1}, .groups = 6}},
      {{2, 5, 5, 3}, {6, 3, 3, 1}, {.stride = {2, 2}, .padding = {1, 1}, .groups = 3}},
      {{1, 9, 9, 2}, {2, 3, 3, 1}, {.stride = {2, 2}, .padding = {2, 2}, .dilation = {2, 2}, .groups = 2}},
      {{1, 5, 4, 1}, {2, 5, 4, 1}},
      {{0, 5, 5, 3}, {4, 3, 3, 3}, {.padding = {1, 1}}},
  };
  for (const auto& [x, w, o] : convolutions) {
    const std::string how = " s" + to_string(Shape{o.stride[0], o.stride[1]}) + " p" +
                            to_string(Shape{o.padding[0], o.padding[1]}) + " d" +
                            to_string(Shape{o.dilation[0], o.dilation[1]}) + " g" + std::to_string(o.groups);
    cases.push_back({named("conv2d", x) + " " + to_string(w) + how, {real(x), real(w)}, [o = o](In in) {
                       return conv2d(in[0], in[1], o);
                     }});
    cases.push_back({named("conv2d with bias", x) + " " + to_string(w) + how,
                     {real(x), real(w), real({w[0]})},
                     [o = o](In in) { return conv2d(in[0], in[1], in[2], o); }});
  }

  struct Transposed {
    Shape x, w;
    ConvTranspose2dOptions options = {};
  };
  const Transposed transposed[] = {
      {{1, 3, 2, 2}, {2, 3, 3, 3}, {.padding = {1, 1}}},
      {{1, 1, 1, 1}, {1, 2, 2, 1}},
      {{2, 4, 3, 3}, {3, 3, 3, 5}, {.stride = {2, 2}, .padding = {1, 1}, .output_padding = {1, 1}}},
      {{1, 4, 4, 16}, {16, 4, 4, 8}, {.stride = {2, 2}, .padding = {1, 1}}},
      {{1, 3, 3, 2}, {2, 2, 2, 2}, {.stride = {2, 1}, .output_padding = {1, 0}, .dilation = {2, 1}}},
      {{1, 3, 3, 4}, {4, 3, 3, 1}, {.padding = {1, 1}, .groups = 2}},
  };
  for (const auto& [x, w, o] : transposed) {
    cases.push_back({named("conv_transpose2d", x) + " " + to_string(w), {real(x), real(w)}, [o = o](In in) {
                       return conv_transpose2d(in[0], in[1], o);
                     }});
  }
}

// ---- normalisation, pooling ----

void add_norms(Cases& cases) {
  for (const Shape& x : {Shape{3, 2}, Shape{2, 3, 2, 1}, Shape{1, 7, 5, 3}, Shape{2, 4, 3, 17},
                         Shape{3, 5, 24}, Shape{16, 6, 6, 8}}) {
    const std::int64_t c = x.back();
    cases.push_back({named("batch_norm", x), {real(x), scale(c), shift(c)}, [](In in) {
                       return batch_norm(in[0], in[1], in[2]);
                     }});
    cases.push_back({named("batch_norm with running statistics", x),
                     {real(x), scale(c), shift(c), constant(shift(c)), constant(scale(c))},
                     [](In in) {
                       const BatchNormResult result =
                           batch_norm(in[0], in[1], in[2], in[3], in[4], {.eps = 1e-3, .momentum = 0.25});
                       return Results{result.y, result.running_mean, result.running_var};
                     }});
    cases.push_back({named("batch_norm_inference", x),
                     {real(x), scale(c), shift(c), constant(shift(c)), constant(scale(c))},
                     [](In in) { return batch_norm_inference(in[0], in[1], in[2], in[3], in[4]); }});
  }
  cases.push_back({"batch_norm_inference, differentiable statistics",
                   {real({2, 3, 3, 2}), scale(2), shift(2), shift(2), scale(2)},
                   [](In in) { return batch_norm_inference(in[0], in[1], in[2], in[3], in[4]); }});
  cases.push_back({"batch_norm of an empty batch",
                   {real({0, 4, 4, 3}), scale(3), shift(3), constant(shift(3)), constant(scale(3))},
                   [](In in) {
                     const BatchNormResult result =
                         batch_norm(in[0], in[1], in[2], in[3], in[4], {.eps = 0.5});
                     return Results{result.y, result.running_mean, result.running_var};
                   }});
}

void add_pools(Cases& cases) {
  struct PoolCase {
    Shape x;
    Pool2dOptions options = {};
  };
  const PoolCase pools[] = {
      {{1, 4, 4, 1}},
      {{2, 7, 5, 3}},
      {{1, 7, 5, 17}, {.window = {3, 3}, .stride = {2, 2}, .padding = {1, 1}}},
      {{1, 5, 6, 2}, {.window = {3, 2}, .stride = {1, 1}, .padding = {1, 0}}},
      {{1, 5, 6, 2}, {.window = {3, 2}, .stride = {2, 3}, .padding = {1, 1}, .count_padding = false}},
      {{2, 1, 1, 3}, {.window = {1, 1}}},
      {{1, 20, 20, 1}, {.window = {17, 17}, .stride = {3, 3}}},
      {{0, 4, 4, 3}},
  };
  for (const auto& [x, o] : pools) {
    cases.push_back({named("max_pool2d", x), {real(x)}, [o = o](In in) { return max_pool2d(in[0], o); }});
    cases.push_back({named("avg_pool2d", x), {real(x)}, [o = o](In in) { return avg_pool2d(in[0], o); }});
  }
  for (const Shape& x : {Shape{1, 1, 1, 1}, Shape{2, 3, 2, 3}, Shape{3, 8, 8, 64}}) {
    cases.push_back({named("global_avg_pool", x), {real(x)}, [](In in) { return global_avg_pool(in[0]); }});
  }
}

}  // namespace

std::vector<OpCase> layer_cases() {
  Cases cases;
  for (const auto add : {add_products, add_convolutions, add_norms, add_pools}) add(cases);
  return cases;
}

}  // namespace fusetape::tests
