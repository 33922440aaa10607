#include "tests/helpers.hpp"
#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

/// So padded that the image keeps its size.
Conv2dOptions padded(std::int64_t kh, std::int64_t kw, std::int64_t dilation = 1, std::int64_t groups = 1) {
  return {.padding = {(kh - 1) * dilation / 2, (kw - 1) * dilation / 2},
          .dilation = {dilation, dilation},
          .groups = groups};
}

const Shape image_shapes[] = {{1, 4, 3, 2},  {2, 3, 3, 1}, {2, 7, 5, 3},   {1, 7, 5, 17},
                              {3, 4, 4, 24}, {2, 1, 1, 8}, {2, 3, 33, 16}, {1, 9, 30, 32}};

// ---- y = relu(conv + bias + z) ----

void add_sums(Cases& cases) {
  for (const Shape& x : image_shapes) {
    for (const std::int64_t out : {1, 3, 17, 24}) {
      const Shape w{out, 3, 3, x[3]}, y{x[0], x[1], x[2], out};
      const std::string how = named("", x) + " to " + std::to_string(out);
      const Conv2dOptions same = padded(3, 3);
      // Sums of eighths are multiples of 1/64; with the bias or z no ReLU sees 0, and every sum is exact.
      const std::vector<Input> plain{eighths(x), eighths(w), real(y)};
      const std::vector<Input> with_bias{eighths(x), eighths(w), real({out}), real(y)};
      // Rows that oneDNN adds to slowly are refused (see conv_forward_test.cpp).
      const bool slow = x[2] >= 28 && out <= 16;
      const auto group = [&](const char* name) { return slow ? Flags{} : Flags{.groups = {name}}; };
      cases.push_back({"conv+bias+add+relu" + how, with_bias,
                       [same](In in) { return relu(conv2d(in[0], in[1], in[2], same) + in[3]); },
                       group("conv2d+bias+add+relu")});
      cases.push_back({"add of conv on the right, relu" + how, plain,
                       [same](In in) { return relu(in[2] + conv2d(in[0], in[1], same)); },
                       group("conv2d+add+relu")});
      cases.push_back({"conv+bias+add" + how, with_bias,
                       [same](In in) { return conv2d(in[0], in[1], in[2], same) + in[3]; },
                       group("conv2d+bias+add")});
      // A z that dies here: added in its own buffer.
      cases.push_back({"conv+add of a temporary" + how,
                       plain,
                       [same](In in) { return conv2d(in[0], in[1], same) + in[2] * 2; },
                       {.groups = {"conv2d+add"}}});
    }
  }
}

void add_odd_sums(Cases& cases) {
  const Shape x{2, 5, 4, 6};
  const Conv2dOptions same = padded(3, 3);
  cases.push_back({"conv+add where z is x",
                   {eighths(x), eighths({6, 3, 3, 6})},
                   [same](In in) {
                     const Tensor doubled = in[0] * 2;
                     return conv2d(doubled, in[1], same) + doubled;
                   },
                   {.groups = {"conv2d+add"}}});
  cases.push_back({"conv+add+relu where z is x",
                   {real(x), real({6, 3, 3, 6})},
                   [same](In in) { return relu(conv2d(in[0], in[1], same) + in[0]); },
                   {.same_bits = false, .groups = {"conv2d+add+relu"}}});
  cases.push_back({"two convolutions added, relu",
                   {eighths(x), eighths({6, 3, 3, 6}), eighths({6, 1, 1, 6}), real({6})},
                   [same](In in) {
                     Tensor first = conv2d(in[0], in[1], same);  // the one recorded later adds
                     return relu(std::move(first) + conv2d(in[0], in[2], in[3]));
                   },
                   {.groups = {"conv2d+bias+add+relu"}}});
  cases.push_back({"a convolution added to itself", {eighths(x), eighths({6, 3, 3, 6})}, [same](In in) {
                     const Tensor y = conv2d(in[0], in[1], same);
                     return y + y;
                   }});
  cases.push_back({"conv+add, z broadcast", {eighths(x), eighths({6, 3, 3, 6}), real({4, 6})}, [same](In in) {
                     return relu(conv2d(in[0], in[1], same) + in[2]);
                   }});
  cases.push_back({"conv+bias+add+relu, the sum is read elsewhere",
                   {eighths(x), eighths({6, 3, 3, 6}), real({6}), real(x)},
                   [same](In in) {
                     const Tensor before = conv2d(in[0], in[1], in[2], same) + in[3];
                     return Results{relu(before), before * 2};
                   },
                   {.groups = {"conv2d+bias+add"}}});
  cases.push_back(
      {"conv+add+relu, strided, in groups",
       {eighths({2, 7, 6, 4}), eighths({6, 3, 3, 2}), real({2, 4, 3, 6})},
       [](In in) {
         return relu(conv2d(in[0], in[1], {.stride = {2, 2}, .padding = {1, 1}, .groups = 2}) + in[2]);
       },
       {.groups = {"conv2d+add+relu"}}});
}

// ---- dx = conv2d_grad_input + other ----

void add_forks(Cases& cases) {
  const auto fork = [&](const Shape& x, const Shape& w, const Conv2dOptions& options, bool fuses) {
    const std::string how = named("", x) + ", filters " + to_string(w);
    const std::vector<std::string> groups =
        fuses ? std::vector<std::string>{"conv2d_grad_input+add"} : std::vector<std::string>{};
    cases.push_back({"fork of a convolution and a factor" + how,
                     {eighths(x), eighths(w), eighths(x)},
                     [options](In in) {
                       return Results{conv2d(in[0], in[1], options), in[0] * in[2]};
                     },
                     {.groups = groups}});
    cases.push_back({"fork of two convolutions" + how,
                     {eighths(x), eighths(w), eighths(w)},
                     [options](In in) {
                       return Results{conv2d(in[0], in[1], options), conv2d(in[0], in[2], options)};
                     },
                     {.groups = groups}});
  };
  for (const Shape& x : image_shapes) {
    for (const std::int64_t out : {1, 3, 24}) fork(x, {out, 3, 3, x[3]}, padded(3, 3), true);
    fork(x, {8, 1, 1, x[3]}, {}, true);
    fork(x, {x[3], 3, 3, 1}, padded(3, 3, 1, x[3]), true);
    fork(x, {5, 3, 3, x[3]}, {.stride = {2, 2}, .padding = {1, 1}}, false);
  }
  fork({2, 7, 6, 4}, {6, 3, 3, 2}, padded(3, 3, 2, 2), true);
  fork({2, 7, 6, 4}, {6, 5, 2, 4}, {.padding = {1, 0}}, true);
  fork({1, 4, 4, 3}, {4, 1, 1, 3}, {.padding = {1, 1}}, false);  // padding beyond the kernel
  cases.push_back({"identity shortcut: the other gradient is g itself",
                   {eighths({2, 6, 5, 3}), eighths({3, 3, 3, 3})},
                   [](In in) { return conv2d(in[0], in[1], padded(3, 3)) + in[0]; },
                   {.groups = {"conv2d_grad_input+add"}}});
}

// ---- siblings: convolutions of one image, side by side ----

/// What the CPU takes side by side: with AVX-512, where that pays (see backends/cpu/conv/siblings.cpp).
Flags merged(std::vector<std::string> groups) {
  if (!has_avx512()) groups.clear();
  return {.groups = std::move(groups)};
}

void add_siblings(Cases& cases) {
  const Shape images[] = {{2, 7, 5, 3}, {1, 7, 5, 17}, {3, 4, 4, 24}, {2, 1, 1, 8}, {2, 3, 33, 16}};
  struct Geometry {
    std::int64_t out, extent, stride;
  };
  for (const Shape& x : images) {
    for (const auto& [out, extent, stride] : {Geometry{8, 3, 1}, Geometry{4, 3, 2}, Geometry{8, 5, 2}}) {
      const Shape w{out, extent, extent, x[3]};
      const Conv2dOptions options{.stride = {stride, stride}, .padding = {extent / 2, extent / 2}};
      const std::string how =
          named("", x) + ", filters " + to_string(w) + ", stride " + std::to_string(stride);
      std::vector<std::string> pair{"conv2d&conv2d", "conv2d_grad_weight&conv2d_grad_weight"};
      if (stride == 2 && extent == 3 && x[3] >= 16) pair.push_back("conv2d_grad_input&conv2d_grad_input+add");
      cases.push_back({"two siblings" + how,
                       {eighths(x), eighths(w), eighths(w)},
                       [options](In in) {
                         return Results{conv2d(in[0], in[1], options), conv2d(in[0], in[2], options)};
                       },
                       merged(pair)});
      std::vector<std::string> three{"conv2d+bias+relu&conv2d&conv2d+bias"};
      if (x[3] >= 5 || out == 4) three.push_back("conv2d_grad_weight&conv2d_grad_weight&conv2d_grad_weight");
      cases.push_back({"three siblings, with and without bias and ReLU" + how,
                       {eighths(x), eighths(w), eighths(w), eighths(w), real({out}), real({out})},
                       [options](In in) {
                         return Results{relu(conv2d(in[0], in[1], in[4], options)),
                                        conv2d(in[0], in[2], options), conv2d(in[0], in[3], in[5], options)};
                       },
                       merged(three)});
    }
  }
  Flags forward_only = merged({"conv2d&conv2d"});
  forward_only.differentiable = false;
  const Shape w{8, 3, 3, 5};
  cases.push_back({"siblings over more images than one block holds",
                   {eighths({7, 40, 33, 5}), eighths(w), eighths(w)},
                   [](In in) {
                     return Results{conv2d(in[0], in[1], padded(3, 3)), conv2d(in[0], in[2], padded(3, 3))};
                   },
                   forward_only});
}

// ---- evaluation: the batch norm folded into the convolution ----

/// x, w, and the batch norm's γ, β, mean and variance.
std::vector<Input> norm_inputs(const Shape& x, const Shape& w) {
  const std::int64_t c = w[0];
  return {real(x), real(w), scale(c), shift(c), constant(shift(c)), constant(scale(c))};
}
Tensor norm(const Tensor& y, In in) { return batch_norm_inference(y, in[2], in[3], in[4], in[5]); }

void add_folds(Cases& cases) {
  for (const Shape& x : image_shapes) {
    for (const std::int64_t out : {3, 24}) {
      const std::vector<Input> inputs = norm_inputs(x, {out, 3, 3, x[3]});
      std::vector<Input> more = inputs;
      more.push_back(real({out}));
      more.push_back(real({x[0], x[1], x[2], out}));
      const std::string how = named("", x) + " to " + std::to_string(out);
      const Conv2dOptions same = padded(3, 3);
      const bool slow = x[2] >= 28 && out <= 16;
      const auto add = [&](const char* group, const std::vector<Input>& of,
                           const std::function<Results(In)>& call) {
        Flags flags{.same_bits = false, .groups = {group}};
        // In 16 bits the roundings that the fold skips may move a value across ReLU's kink.
        flags.wide_only = std::string_view(group).find("relu") != std::string_view::npos;
        cases.push_back({std::string(group) + how, of, call, flags});
      };
      add("conv2d+batch_norm_inference", inputs,
          [same](In in) { return norm(conv2d(in[0], in[1], same), in); });
      add("conv2d+batch_norm_inference+relu", inputs,
          [same](In in) { return relu(norm(conv2d(in[0], in[1], same), in)); });
      add("conv2d+bias+batch_norm_inference+relu", more,
          [same](In in) { return relu(norm(conv2d(in[0], in[1], in[6], same), in)); });
      if (slow) continue;
      add("conv2d+batch_norm_inference+add", more,
          [same](In in) { return norm(conv2d(in[0], in[1], same), in) + in[7]; });
      add("conv2d+batch_norm_inference+add+relu", more,
          [same](In in) { return relu(in[7] + norm(conv2d(in[0], in[1], same), in)); });
    }
  }
  cases.push_back(
      {"folded, in groups, strided and dilated",
       norm_inputs({2, 7, 6, 4}, {6, 3, 3, 2}),
       [](In in) {
         const Conv2dOptions options{.stride = {2, 1}, .padding = {2, 2}, .dilation = {2, 2}, .groups = 2};
         return relu(norm(conv2d(in[0], in[1], options), in));
       },
       {.same_bits = false, .groups = {"conv2d+batch_norm_inference+relu"}}});
  cases.push_back({"evaluation, the normalised value is read elsewhere",
                   norm_inputs({1, 4, 4, 2}, {3, 3, 3, 2}),
                   [](In in) {
                     const Tensor before = norm(conv2d(in[0], in[1]), in);
                     return Results{relu(before), before * 2};
                   },
                   {.same_bits = false, .groups = {"conv2d+batch_norm_inference"}}});
  cases.push_back({"evaluation, the convolution is read elsewhere",
                   norm_inputs({1, 4, 4, 2}, {3, 3, 3, 2}),
                   [](In in) {
                     const Tensor y = conv2d(in[0], in[1]);
                     return Results{relu(norm(y, in)), y * 2};
                   },
                   {.groups = {"batch_norm_inference+relu"}}});
  std::vector<Input> projection = norm_inputs({2, 6, 6, 4}, {24, 3, 3, 4});
  projection.push_back(real({24, 1, 1, 4}));
  cases.push_back({"evaluation, projection shortcut",
                   projection,
                   [](In in) {
                     return relu(norm(conv2d(in[0], in[1], padded(3, 3)), in) +
                                 norm(conv2d(in[0], in[6]), in));
                   },
                   {.same_bits = false,
                    .groups = {"conv2d+batch_norm_inference+add+relu", "conv2d+batch_norm_inference"}}});
}

}  // namespace

std::vector<OpCase> conv_fused_cases() {
  Cases cases;
  for (const auto add : {add_sums, add_odd_sums, add_forks, add_siblings, add_folds}) add(cases);
  return cases;
}

}  // namespace fusetape::tests
