// Pooling, and the gradients of bias and ReLU: the kernels in shapes that the table of op cases has not, or
// that are too large for it.
#include <doctest/doctest.h>

#include "backends/cuda/kernels/all.hpp"
#include "core/op/op.hpp"
#include "core/op/op_attrs.hpp"
#include "device_cases.hpp"

namespace ft = fusetape;
namespace core = fusetape::core;
using namespace fusetape::tests;
using namespace fusetape::backends::cuda;
using ft::Shape;
using ft::Tensor;

namespace {

using In = const Inputs&;

}  // namespace

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
        check_on_device({"max " + how, {input}, [o](In in) { return max_pool2d(in[0], o); }, pooled});
        check_on_device({"average " + how, {input}, [o](In in) { return avg_pool2d(in[0], o); }, averaged});
        check_on_device({"gather " + how,
                         {input, real(x)},
                         [=](In in) { return gather(in[0], in[1], o); },
                         forward_only({"max_pool2d_gather"})});
        if (input.kind != Kind::real) continue;
        check_on_device({"max of relu " + how,
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
      check_on_device(
          {"mask as bits " + to_string(x),
           {y, eighths(x)},
           [&](In in) {
             const Tensor masked = record("relu_grad_mask", {in[1], record("relu_mask", {in[0]})});
             return Results{sum(masked, {0}), masked};
           },
           forward_only({"relu_mask", "relu_grad+bias_grad"})});
      check_on_device({"mask from y " + to_string(x),
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
