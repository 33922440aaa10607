// Convolutions and matrix products through the libraries, and the kernels beside them: what is one launch, in
// shapes that the table of op cases is too small for, and what happens where a library refuses.
#include <doctest/doctest.h>

#include "backends/cuda/cuda_backend.hpp"
#include "backends/cuda/kernels/all.hpp"
#include "core/op.hpp"
#include "core/op_attrs.hpp"
#include "core/tape.hpp"
#include "on_double.hpp"
#include "op_runs.hpp"

namespace ft = fusetape;
namespace core = fusetape::core;
using namespace fusetape::tests;
using namespace fusetape::backends::cuda;
using ft::DType;
using ft::Shape;
using ft::Tensor;

namespace {

using In = const Inputs&;

constexpr Mode on_double{"cuda", "cuda double", true, false};
constexpr DType dtypes[] = {DType::f32, DType::bf16, DType::f16};
constexpr ft::Conv2dOptions same{.padding = {1, 1}};

constexpr double tolerance_of(DType dtype) {
  return dtype == DType::f32 ? 1e-5 : dtype == DType::bf16 ? 0.04 : 0.005;
}

/// Against the reference, in every dtype. The kernels that ran, by group.
void check(const OpCase& op_case) {
  host_double();
  for (const DType dtype : dtypes) {
    expect_no_error(op_case, [&] {
      const Outcome got = run(op_case, dtype, on_double);
      compare(op_case, std::string(name_of(dtype)), got, run(op_case, dtype, oracle), tolerance_of(dtype));
      for (const std::string& group : op_case.flags.groups) {
        CAPTURE(op_case.name);
        REQUIRE(got.groups.contains(group));
        for (const std::string& kernel : got.kernels.at(group)) CHECK_FALSE(contains(kernel, "host:"));
      }
    });
  }
}

Flags forward_only(std::vector<std::string> groups) {
  return {.differentiable = false, .groups = std::move(groups)};
}

/// "group by kernel; " of the last run.
std::string launches() {
  std::string text;
  for (const ft::GroupReport& group : ft::explain().groups) text += group.name + " by " + group.kernel + "; ";
  return text;
}

/// That the device ran every kernel of a list, at some time.
template <class... K>
void expect_run(KernelList<K...>) {
  const std::set<std::string> ran = host_double().kernels_run();
  for (const std::string& name : {K::name()...}) CHECK_MESSAGE(ran.contains(name), name);
}

}  // namespace

TEST_CASE("cuda: a convolution with its epilogue is one operation of the library") {
  const Shape x{2, 5, 4, 6}, y{2, 5, 4, 3};
  const std::vector<Input> inputs{eighths(x), eighths({3, 3, 3, 6}), real({3}), real(y)};
  const std::pair<const char*, std::function<Tensor(In)>> cases[] = {
      {"conv2d", [](In in) { return conv2d(in[0], in[1], same); }},
      {"conv2d+bias", [](In in) { return conv2d(in[0], in[1], in[2], same); }},
      {"conv2d+relu", [](In in) { return relu(conv2d(in[0], in[1], same)); }},
      {"conv2d+bias+relu", [](In in) { return relu(conv2d(in[0], in[1], in[2], same)); }},
      {"conv2d+add", [](In in) { return conv2d(in[0], in[1], same) + in[3]; }},
      {"conv2d+bias+add", [](In in) { return conv2d(in[0], in[1], in[2], same) + in[3]; }},
      {"conv2d+bias+add+relu", [](In in) { return relu(conv2d(in[0], in[1], in[2], same) + in[3]); }},
  };
  for (const auto& [group, call] : cases) {
    const OpCase op_case{group, inputs, [&call = call](In in) { return call(in); }, forward_only({group})};
    check(op_case);
    const OnDouble device;
    const Tensor result = call(data_for(op_case, DType::bf16));
    ft::materialize({result});
    CHECK(launches() == std::string(group) + " by double:convolution; ");
  }
}

TEST_CASE("cuda: what the ReLU reads is wanted, too: the ReLU runs apart, and the report says why") {
  const OnDouble device;
  const OpCase op_case{"", {eighths({1, 4, 4, 2}), eighths({3, 3, 3, 2}), real({3})}, {}};
  const Inputs in = data_for(op_case, DType::f32);
  const Tensor before = conv2d(in[0], in[1], in[2], same), y = relu(before);
  ft::materialize({before, y});
  CHECK(contains(launches(), "conv2d+bias by double:convolution; relu by "));
  CHECK(contains(refusal_of("conv2d+bias+relu"), "cudnn: what the ReLU reads is wanted, too"));
}

TEST_CASE("cuda: gradients of convolutions, with a fork's sum and in f32 at once") {
  check({"fork",
         {eighths({2, 7, 6, 4}), eighths({6, 3, 3, 2}), eighths({2, 7, 6, 4})},
         [](In in) {
           return Results{conv2d(in[0], in[1], {.padding = {1, 1}, .groups = 2}), in[0] * in[2]};
         },
         {.groups = {"conv2d_grad_input+add"}}});

  const OpCase op_case{"", {eighths({2, 5, 4, 3}), eighths({4, 3, 3, 3})}, {}};
  const auto gradient = [&](const char* backend) {
    const OnBackend on(backend);
    const Inputs in = data_for(op_case, DType::f32);
    const Tensor w = ft::variable(in[1]);
    const Tensor y = conv2d(cast(in[0], DType::bf16), cast(w, DType::bf16), same);
    const Tensor dw = ft::grad({ft::sum(cast(y, DType::f32))}, {w})[0];
    return dw.to_vector<double>();
  };
  host_double();
  const Numbers got = gradient("cuda double");
  CHECK(contains(launches(), "conv2d_grad_weight+cast by double:convolution; "));
  CHECK(got == gradient("reference"));
}

TEST_CASE("cuda: a batch norm behind a convolution is folded into its weights, with one rounding") {
  for (const std::int64_t out : {1, 3, 24}) {
    const Shape x{2, 7, 5, 3}, y{2, 7, 5, out};
    const std::vector<Input> inputs{real(x),    real({out, 3, 3, 3}), real({out}), scale(out),
                                    shift(out), shift(out),           scale(out),  real(y)};
    const auto norm = [](const Tensor& t, In in) {
      return batch_norm_inference(t, in[3], in[4], in[5], in[6]);
    };
    check({"alone", inputs, [=](In in) { return norm(conv2d(in[0], in[1], same), in); },
           forward_only({"conv2d+batch_norm_inference"})});
    check({"bias", inputs, [=](In in) { return norm(conv2d(in[0], in[1], in[2], same), in); },
           forward_only({"conv2d+bias+batch_norm_inference"})});
    check({"add+relu", inputs, [=](In in) { return relu(norm(conv2d(in[0], in[1], same), in) + in[7]); },
           forward_only({"conv2d+batch_norm_inference+add+relu"})});
  }
  expect_run(KernelList<FoldWeights<float>, FoldWeights<Bf16>, FoldWeights<F16>>{});
}

TEST_CASE("cuda: no images and empty products are zeros, without a library") {
  struct Case {
    const char* group;
    std::vector<Input> inputs;
    std::function<Tensor(In)> call;
  };
  const Case cases[] = {
      {"conv2d", {real({0, 5, 5, 3}), real({4, 3, 3, 3})}, [](In in) { return conv2d(in[0], in[1], same); }},
      {"conv2d+bias+relu",
       {real({0, 5, 5, 3}), real({4, 3, 3, 3}), real({4})},
       [](In in) { return relu(conv2d(in[0], in[1], in[2], same)); }},
      {"matmul", {real({2, 0}), real({0, 3})}, [](In in) { return matmul(in[0], in[1]); }},
      {"matmul+relu", {real({2, 0}), real({0, 3})}, [](In in) { return relu(matmul(in[0], in[1])); }},
      {"matmul", {real({0, 2, 3}), real({3, 4})}, [](In in) { return matmul(in[0], in[1]); }},
  };
  for (const Case& c : cases) {
    const OnDouble device;
    const OpCase op_case{c.group, c.inputs, {}};
    const Tensor y = c.call(data_for(op_case, DType::f16));
    CHECK(y.to_vector<double>() == Numbers(static_cast<std::size_t>(y.elements()), 0.0));
    CHECK(launches() == std::string(c.group) + " by cuda:clear; ");
  }
  check({"no image's gradients",
         {real({0, 5, 5, 3}), real({4, 3, 3, 3})},
         [](In in) { return conv2d(in[0], in[1], same); },
         {.groups = {"conv2d"}}});
  check({"a bias on a product of nothing",
         {real({2, 0}), real({3, 0}), real({3})},
         [](In in) { return relu(linear(in[0], in[1], in[2])); },
         {.groups = {"matmul"}}});
}

TEST_CASE("cuda: a matrix product with its epilogue is one operation of the library") {
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      const ft::MatmulOptions options{.transpose_a = ta, .transpose_b = tb};
      const auto product = [options](In in) { return matmul(in[0], in[1], options); };
      const Shape m = ta ? Shape{6, 5} : Shape{5, 6}, ms = ta ? Shape{3, 6, 5} : Shape{3, 5, 6};
      const Shape n = tb ? Shape{7, 6} : Shape{6, 7}, ns = tb ? Shape{3, 7, 6} : Shape{3, 6, 7};
      const std::pair<Shape, Shape> operands[] = {{m, n}, {ms, n}, {m, ns}, {ms, ns}};
      for (const auto& [a, b] : operands) {
        const std::string how = to_string(a) + (ta ? "ᵀ " : " ") + to_string(b) + (tb ? "ᵀ" : "");
        const std::vector<Input> inputs{eighths(a), eighths(b), real({7})};
        check({"plain " + how, {inputs[0], inputs[1]}, product, {.groups = {"matmul"}}});
        check({"bias+relu " + how,
               inputs,
               [=](In in) { return relu(bias_add(product(in), in[2])); },
               {.groups = {"matmul+bias+relu"}}});
        check(
            {"gelu " + how, inputs, [=](In in) { return gelu(product(in)); }, forward_only({"matmul+gelu"})});
      }
    }
  }
  check({"cast",
         {eighths({19, 4}), eighths({4, 33})},
         [](In in) { return cast(matmul(cast(in[0], DType::f16), cast(in[1], DType::f16)), DType::f32); },
         forward_only({"matmul+cast"})});
}

TEST_CASE("cuda: pooling in runs of eight channels and one by one, NaN included") {
  const auto gather = [](const Tensor& x, const Tensor& y, const ft::Pool2dOptions& o) {
    const core::Pool2dAttrs attrs{.window_h = o.window[0],
                                  .window_w = o.window[1],
                                  .stride_h = o.stride[0],
                                  .stride_w = o.stride[1],
                                  .pad_h = o.padding[0],
                                  .pad_w = o.padding[1],
                                  .input_h = x.shape()[1],
                                  .input_w = x.shape()[2]};
    const core::Outputs largest =
        core::record(core::find_op("max_pool2d"), {y}, core::Attrs::of(attrs), ft::Location::current());
    return core::record(core::find_op("max_pool2d_gather"), {x, largest[1]}, core::Attrs::of(attrs),
                        ft::Location::current())[0];
  };
  const ft::Pool2dOptions pools[] = {{.window = {2, 2}, .stride = {2, 2}},
                                     {.window = {3, 3}, .stride = {2, 2}, .padding = {1, 1}},
                                     {.window = {3, 2}, .stride = {1, 3}, .padding = {0, 1}},
                                     {.window = {17, 17}, .stride = {3, 3}, .padding = {8, 8}}};
  for (const ft::Pool2dOptions& o : pools) {
    for (const Shape& x : {Shape{1, 3, 4, 8}, Shape{2, 7, 5, 24}, Shape{2, 7, 5, 17}, Shape{1, 4, 4, 1}}) {
      for (const Input& input : {real(x), special(x)}) {
        const std::string how = to_string(x) + to_string(Shape{o.window[0], o.window[1]});
        Flags pooled = forward_only({"max_pool2d"}), averaged = forward_only({"avg_pool2d"});
        if (input.kind == Kind::real) {
          pooled = {.groups = {"max_pool2d", "max_pool2d_grad"}};
          averaged = {.groups = {"avg_pool2d", "avg_pool2d_grad"}};
        }
        check({"max " + how, {input}, [o](In in) { return max_pool2d(in[0], o); }, pooled});
        check({"average " + how, {input}, [o](In in) { return avg_pool2d(in[0], o); }, averaged});
        check({"gather " + how,
               {input, real(x)},
               [=](In in) { return gather(in[0], in[1], o); },
               forward_only({"max_pool2d_gather"})});
        if (input.kind != Kind::real) continue;
        check({"max of relu " + how,
               {input},
               [o](In in) { return max_pool2d(relu(in[0] * 2), o); },
               {.groups = {"max_pool2d_grad+relu_grad"}}});
      }
    }
  }
  const auto ran_of = []<class T>(T) {
    expect_run(MaxPoolsOf<T, std::uint8_t, 1>{});
    expect_run(MaxPoolsOf<T, std::uint8_t, 8>{});
    expect_run(MaxPoolsOf<T, std::int64_t, 1>{});
    expect_run(KernelList<AvgPool<T, 1>, AvgPool<T, 8>, AvgPoolGrad<T, 1>, AvgPoolGrad<T, 8>>{});
  };
  ran_of(float{}), ran_of(Bf16{}), ran_of(F16{});
}

TEST_CASE("cuda: the gradients of bias and ReLU, over several blocks of rows and of channels") {
  const auto record = [](const char* op, std::initializer_list<Tensor> in) {
    return core::record(core::find_op(op), in, core::Attrs::of(core::NoAttrs{}), ft::Location::current())[0];
  };
  for (const Shape& x :
       {Shape{3, 1}, Shape{4100, 3}, Shape{700, 264}, Shape{70, 257}, Shape{2100, 24}, Shape{4300, 33}}) {
    for (const Input& y : {real(x), special(x)}) {
      check({"mask as bits " + to_string(x),
             {y, eighths(x)},
             [&](In in) {
               const Tensor masked = record("relu_grad_mask", {in[1], record("relu_mask", {in[0]})});
               return Results{sum(masked, {0}), masked};
             },
             forward_only({"relu_mask", "relu_grad+bias_grad"})});
      check({"mask from y " + to_string(x),
             {y, eighths(x)},
             [&](In in) {
               const Tensor masked = record("relu_grad", {in[1], in[0]});
               return Results{sum(masked, {0}), masked};
             },
             forward_only({"relu_grad+bias_grad"})});
    }
  }
  const auto ran_of = []<class T>(T) {
    expect_run(KernelList<BiasReluGrad<T, 1>, BiasReluGrad<T, 8>, ChannelSums<T>, ReluMask<T>>{});
  };
  ran_of(float{}), ran_of(Bf16{}), ran_of(F16{});
}

namespace {

/// A device of its own for this file, whose libraries can be told to refuse.
HostDouble& refusing_double() {
  static HostDouble& device = *[] {
    auto made = std::make_shared<HostDouble>(2);
    core::add_backend(ft::backends::make_device_backend(made, "refusing double"));
    return made.get();
  }();
  return device;
}

}  // namespace

TEST_CASE("cuda: where a library refuses, its words are in the report and the host computes") {
  HostDouble& device = refusing_double();
  device.refuse_operations("no engine has a plan");
  const std::int64_t before = device.operations_built();
  const Mode mode{"cuda, refused", "refusing double", true, false};
  const OpCase cases[] = {
      {"convolution",
       {eighths({2, 5, 4, 3}), eighths({4, 3, 3, 3}), real({4})},
       [](In in) { return relu(conv2d(in[0], in[1], in[2], same)); }},
      {"product",
       {eighths({2, 5}), eighths({4, 5}), real({4})},
       [](In in) { return relu(linear(in[0], in[1], in[2])); }},
  };
  for (const OpCase& op_case : cases) {
    expect_no_error(op_case, [&] {
      compare(op_case, "refused", run(op_case, DType::f32, mode), run(op_case, DType::f32, oracle), 1e-5);
    });
  }
  CHECK(device.operations_built() == before);

  const OnBackend backend("refusing double");
  const Inputs in = data_for(cases[0], DType::f32);
  ft::materialize({cases[0].call(in)[0]});
  const ft::GroupReport& conv = ft::explain().groups[0];
  CHECK(conv.name == "conv2d");
  CHECK(conv.kernel == "host:reference");
  CHECK(conv.why == "on the host: cudnn: no engine has a plan");
  CHECK(contains(refusal_of("conv2d+bias+relu"), "cudnn: no engine has a plan"));
  device.refuse_operations("");
}

TEST_CASE("cuda: operations of the libraries are built once, whatever plan asks for them") {
  HostDouble& device = refusing_double();
  device.refuse_operations("");
  const OnBackend backend("refusing double");
  const OpCase op_case{
      "", {eighths({2, 5, 4, 9}), eighths({4, 3, 3, 9}), eighths({7, 9}), eighths({9, 2})}, {}};
  const Inputs in = data_for(op_case, DType::f32);
  const auto plan = [&] {
    ft::clear_plan_cache();
    ft::materialize({conv2d(in[0], in[1], same), matmul(in[2], in[3])});
  };
  const std::int64_t before = device.operations_built();
  plan();
  CHECK(device.operations_built() == before + 2);
  plan();
  CHECK(device.operations_built() == before + 2);
}
