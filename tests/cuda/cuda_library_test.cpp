// Convolutions and matrix products through the libraries: what is one operation, what a library is never
// asked, and what happens where it refuses.
#include <doctest/doctest.h>

#include "backends/cuda/conv/convolutions.hpp"
#include "backends/cuda/cuda_backend.hpp"
#include "backends/cuda/library_cache.hpp"
#include "core/backends.hpp"
#include "core/tape/tape.hpp"
#include "device_cases.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
namespace cuda = fusetape::backends::cuda;
using ft::DType;
using ft::Shape;
using ft::Tensor;

namespace {

using In = const Inputs&;

constexpr ft::Conv2dOptions same{.padding = {1, 1}};

/// "group by kernel; " of the last run.
std::string launches() {
  std::string text;
  for (const ft::GroupReport& group : ft::explain().groups) text += group.name + " by " + group.kernel + "; ";
  return text;
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
    check_on_device(op_case);
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

TEST_CASE("cuda: what the library is not asked for, and why") {
  const OnDouble device;
  const OpCase op_case{"", {eighths({1, 5, 5, 3}), eighths({8, 3, 3, 3}), eighths({8, 3, 3, 3})}, {}};
  Inputs in = data_for(op_case, DType::f32);
  ft::materialize({conv2d(in[0], in[1]), conv2d(in[0], in[2])});
  CHECK(launches() == "conv2d by double:convolution; conv2d by double:convolution; ");
  CHECK(contains(refusal_of("conv2d&conv2d"), "cudnn: convolutions of one image run one after the other"));

  in = data_for(op_case, DType::f64);
  ft::materialize({conv2d(in[0], in[1])});
  CHECK(launches() == "conv2d by host:reference; ");
  CHECK(ft::explain().groups[0].why == "on the host: cudnn: expected f32, bf16 or f16, got f64");
}

TEST_CASE("cuda: gradients of convolutions, with a fork's sum and in f32 at once") {
  check_on_device({"fork",
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
    check_on_device({"alone", inputs, [=](In in) { return norm(conv2d(in[0], in[1], same), in); },
                     forward_only({"conv2d+batch_norm_inference"})});
    check_on_device({"bias", inputs, [=](In in) { return norm(conv2d(in[0], in[1], in[2], same), in); },
                     forward_only({"conv2d+bias+batch_norm_inference"})});
    check_on_device({"add+relu", inputs,
                     [=](In in) { return relu(norm(conv2d(in[0], in[1], same), in) + in[7]); },
                     forward_only({"conv2d+batch_norm_inference+add+relu"})});
  }
  expect_run(cuda::KernelList<cuda::FoldWeights<float>, cuda::FoldWeights<cuda::Bf16>,
                              cuda::FoldWeights<cuda::F16>>{});
}

TEST_CASE("cuda: a batch norm's statistics come with the convolution where the library makes them") {
  const Shape x{3, 5, 4, 6};
  const std::vector<Input> inputs{eighths(x), eighths({6, 3, 3, 6}), scale(6), shift(6)};
  const auto normed = [](const Tensor& y, In in) { return batch_norm(y, in[2], in[3], {.eps = 1e-2}); };
  const std::pair<const char*, std::function<Tensor(In)>> cases[] = {
      {"alone", [&](In in) { return normed(conv2d(in[0], in[1], same), in); }},
      {"relu", [&](In in) { return relu(normed(conv2d(in[0], in[1], same), in)); }},
      {"one behind the other",
       [&](In in) {
         const Tensor y = relu(normed(conv2d(in[0], in[1], same), in));
         return relu(normed(conv2d(y, in[1], same), in) + in[0]);
       }},
  };
  for (const auto& row : cases) {
    const auto& name = row.first;
    const auto& call = row.second;
    CAPTURE(name);
    const OpCase op_case{name, inputs, [&call = call](In in) { return call(in); }, forward_only({})};
    check_on_device(op_case);
    const OnDouble device;
    ft::materialize({call(data_for(op_case, DType::f16))});
    CHECK(contains(launches(), "+batch_norm_statistics by double:convolution; "));
    CHECK_FALSE(contains(launches(), "; conv2d by "));
    ft::materialize({call(data_for(op_case, DType::bf16))});
    CHECK_FALSE(contains(launches(), "batch_norm_statistics"));
  }
  expect_run(cuda::KernelList<cuda::NormStatisticsOfSums>{});
}

TEST_CASE("cuda: without its batch norm's statistics, a convolution says why") {
  const OnDouble device;
  const OpCase op_case{"", {eighths({2, 5, 4, 6}), eighths({6, 3, 3, 6}), scale(6), shift(6)}, {}};
  const Inputs in = data_for(op_case, DType::bf16);
  ft::materialize({batch_norm(conv2d(in[0], in[1], same), in[2], in[3])});
  CHECK(ft::explain().groups[0].why ==
        "without its batch norm's statistics: cudnn: statistics beside f16 only");
}

TEST_CASE("cuda: the running statistics are tracked from the convolution's sums") {
  const OpCase op_case{"", {eighths({4, 6, 5, 3}), eighths({8, 3, 3, 3}), scale(8), shift(8)}, {}};
  const auto tracked = [&](const char* backend) {
    const OnBackend on(backend);
    const Inputs in = data_for(op_case, DType::f16);
    const Tensor mean = ft::zeros({8}), var = ft::ones({8});
    const ft::BatchNormResult result =
        batch_norm(conv2d(in[0], in[1], same), in[2], in[3], mean, var, {.momentum = 0.3});
    ft::materialize({result.y, result.running_mean, result.running_var});
    std::vector<float> all = result.running_mean.to_vector();
    for (const float value : result.running_var.to_vector()) all.push_back(value);
    return all;
  };
  const std::vector<float> expected = tracked("reference"), got = tracked("cuda double");
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == doctest::Approx(expected[i]).epsilon(2e-3));
}

TEST_CASE("cuda: of a batch norm behind a convolution, only some results are wanted") {
  struct Row {
    const char* groups;
    std::function<Results(const Tensor& y, const ft::BatchNormResult&)> wanted;
  };
  const Row rows[] = {
      {"conv2d; batch_norm_statistics; ", [](const Tensor&, const auto& norm) { return norm.running_mean; }},
      {"conv2d+batch_norm_statistics; ",
       [](const Tensor& y, const auto& norm) {
         return Results{y, norm.running_var};
       }},
      {"conv2d+batch_norm_statistics; batch_norm_apply; ",
       [](const Tensor&, const auto& norm) { return norm.y; }},
  };
  for (const Row& row : rows) {
    CAPTURE(row.groups);
    const OpCase op_case{row.groups,
                         {eighths({3, 5, 4, 6}), eighths({6, 3, 3, 6}), scale(6), shift(6)},
                         [&](In in) {
                           const Tensor y = conv2d(in[0], in[1], same);
                           return row.wanted(y, batch_norm(y, in[2], in[3], in[3], in[2], {.eps = 1e-2}));
                         },
                         forward_only({})};
    check_on_device(op_case);
    const OnDouble device;
    const Results results = op_case.call(data_for(op_case, DType::f16));
    ft::materialize();
    CHECK(group_names() == row.groups);
  }
}

TEST_CASE("cuda: statistics ride in a convolution where that was not measured slower than a pass") {
  struct Row {
    double with, without, pass;
    bool pays;
  };
  for (const Row& row : {Row{0, 5, 1, true},
                         {5, 0, 1, true},
                         {5, 5, 1, true},
                         {5.9, 5, 1, true},
                         {6, 5, 1, false},
                         {9, 5, 1, false}}) {
    CAPTURE(row.with);
    CHECK(cuda::conv::pays_with_statistics(row.with, row.without, row.pass) == row.pays);
  }
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
  check_on_device({"no image's gradients",
                   {real({0, 5, 5, 3}), real({4, 3, 3, 3})},
                   [](In in) { return conv2d(in[0], in[1], same); },
                   {.groups = {"conv2d"}}});
  check_on_device({"a bias on a product of nothing",
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
        check_on_device({"plain " + how, {inputs[0], inputs[1]}, product, {.groups = {"matmul"}}});
        check_on_device({"bias+relu " + how,
                         inputs,
                         [=](In in) { return relu(bias_add(product(in), in[2])); },
                         {.groups = {"matmul+bias+relu"}}});
        check_on_device(
            {"gelu " + how, inputs, [=](In in) { return gelu(product(in)); }, forward_only({"matmul+gelu"})});
      }
    }
  }
  check_on_device(
      {"cast",
       {eighths({19, 4}), eighths({4, 33})},
       [](In in) { return cast(matmul(cast(in[0], DType::f16), cast(in[1], DType::f16)), DType::f32); },
       forward_only({"matmul+cast"})});
}

namespace {

/// A device of its own for this file, whose libraries can be told to refuse.
HostDouble& refusing_double() {
  static HostDouble& device = *[] {
    auto made = std::make_shared<HostDouble>(2);
    ft::core::add_backend(ft::backends::make_device_backend(made, "refusing double"));
    return made.get();
  }();
  return device;
}

}  // namespace

TEST_CASE("cuda: where a library refuses, its words are in the report and the host computes") {
  HostDouble& device = refusing_double();
  device.refuse_operations(HostDouble::Refusal::verdict, "no engine has a plan");
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
  device.refuse_operations(HostDouble::Refusal::none);
}

TEST_CASE(
    "cuda: a library's verdict is remembered; a shortage of memory is an error, and the step can be "
    "repeated") {
  HostDouble& device = refusing_double();
  const OnBackend backend("refusing double");
  const auto inputs_of =
      [](std::int64_t width) {  // of a convolution and a product that nobody asked for before
        return data_for(
            {"",
             {eighths({1, 3, 3, width}), eighths({2, 3, 3, width}), eighths({2, width}), eighths({width, 2})},
             {}},
            DType::f32);
      };
  const auto results_of = [](const Inputs& in) {
    return std::pair{conv2d(in[0], in[1], same), matmul(in[2], in[3])};
  };
  const auto run = [](const std::pair<Tensor, Tensor>& results) {
    ft::materialize({results.first, results.second});
  };
  const char* const on_host = "conv2d by host:reference; matmul by host:reference; ";
  device.refuse_operations(HostDouble::Refusal::verdict, "no engine has a plan");
  run(results_of(inputs_of(11)));
  CHECK(launches() == on_host);
  device.refuse_operations(HostDouble::Refusal::none);
  ft::clear_plan_cache();
  run(results_of(inputs_of(11)));
  CHECK(launches() == on_host);

  device.refuse_operations(HostDouble::Refusal::shortage, "no room for its workspace");
  const auto results = results_of(inputs_of(12));
  CHECK(contains(message_of([&] { run(results); }), "no room for its workspace"));
  device.refuse_operations(HostDouble::Refusal::none);
  run(results_of(inputs_of(12)));
  CHECK(launches() == "conv2d by double:convolution; matmul by double:product; ");
}

TEST_CASE("cuda: operations of the libraries are built once, whatever plan asks for them") {
  HostDouble& device = refusing_double();
  device.refuse_operations(HostDouble::Refusal::none);
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
  ft::set_tf32(true);  // others, both of them
  plan();
  CHECK(device.operations_built() == before + 4);
  ft::set_tf32(false);
  // Whether kernels may be timed is a part of the convolution, not of the product.
  ft::set_tuning(!ft::tuning_enabled());
  plan();
  CHECK(device.operations_built() == before + 5);
  ft::set_deterministic(true);
  plan();
  CHECK(device.operations_built() == before + 5);
  ft::set_deterministic(false);
  ft::set_tuning(!ft::tuning_enabled());
}

TEST_CASE("cuda: of too many operations those that no kernel holds are let go, once what is queued has run") {
  HostDouble device;
  cuda::LibraryCache libraries(device);
  const auto spec_of = [](std::size_t n) { return cuda::ProductSpec{.m = static_cast<std::int64_t>(n) + 1}; };
  const auto held = libraries.find(spec_of(0)).operation;
  device.run(Stream::compute, *libraries.find(spec_of(1)).operation, cuda::OperationArgs{}, {});
  for (std::size_t n = 1; n <= cuda::LibraryCache::most; ++n) libraries.find(spec_of(n));
  CHECK(device.operations_built() == cuda::LibraryCache::most + 1);
  CHECK(libraries.find(spec_of(0)).operation == held);
  CHECK(device.operations_built() == cuda::LibraryCache::most + 1);
  libraries.find(spec_of(1));
  CHECK(device.operations_built() == cuda::LibraryCache::most + 2);
  device.synchronize();
}

TEST_CASE("cuda: of too many programs those that no kernel holds are let go, once what is queued has run") {
  HostDouble device;
  cuda::LibraryCache libraries(device);
  int runs = 0;
  const auto source = [&](std::size_t n) {
    return cuda::ProgramSource{.name = "program",
                               .text = std::to_string(n),
                               .run_block = [&](const void*, cuda::Thread, cuda::HostOrder) { ++runs; }};
  };
  const cuda::LibraryCache::Program held = libraries.find(source(0));
  device.launch(Stream::compute, {.kernel = libraries.find(source(1)).get()}, {});
  for (std::size_t n = 2; n < cuda::LibraryCache::most; ++n) libraries.find(source(n));
  CHECK(device.programs_held() == cuda::LibraryCache::most);
  CHECK(runs == 0);
  const cuda::LibraryCache::Program one_too_many = libraries.find(source(cuda::LibraryCache::most));
  CHECK(device.programs_held() == 2);
  CHECK(runs == 1);
  CHECK(libraries.find(source(0)) == held);
  CHECK(libraries.find(source(cuda::LibraryCache::most)) == one_too_many);
}
