// A user's mistake throws at the call: an Error with the op, what was expected, what came, and the user's
// line. It leaves the tape as it was.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/tape/tape.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "ops/optimizer.hpp"

namespace ft = fusetape;
using ft::DType;
using ft::Parameter;
using ft::Tensor;
using fusetape::tests::new_throws;
using fusetape::tests::OnBackend;

namespace {

/// Tensors of these extents.
Tensor of(DType dtype, auto... extents) { return ft::ones({extents...}, dtype); }
Tensor of(auto... extents) { return of(DType::f32, extents...); }
Tensor whole(auto... extents) { return ft::zeros({extents...}, DType::i64); }

ft::Location here(ft::Location at = ft::Location::current()) { return at; }

struct Mistake {
  std::string op;                 ///< that the error names
  std::function<void()> call;     ///< makes it
  std::vector<std::string> says;  ///< what the message holds, beside the op and this file's name
};

void check(const Mistake& mistake) {
  CAPTURE(mistake.op);
  const std::size_t pending = ft::core::Tape::current().pending_nodes();
  try {
    mistake.call();
    FAIL_CHECK("no error; wanted one of " << mistake.op);
  } catch (const ft::Error& error) {
    const std::string text = error.what();
    CAPTURE(text);
    CHECK(error.op() == mistake.op);
    CHECK(text.rfind("[" + mistake.op + "] ", 0) == 0);
    CHECK(text.find("(errors_test.cpp:") != std::string::npos);
    for (const std::string& part : mistake.says) CHECK_MESSAGE(text.find(part) != std::string::npos, part);
  }
  CHECK(ft::core::Tape::current().pending_nodes() == pending);
}

void check_all(const std::vector<Mistake>& mistakes,
               const std::vector<const char*>& backends = {"cpu", "reference", "null"}) {
  for (const char* name : backends) {
    const OnBackend backend(name);
    for (const Mistake& mistake : mistakes) check(mistake);
  }
}

}  // namespace

TEST_CASE("shapes") {
  check_all({
      {"add", [] { return of(2, 3) + of(2); }, {"expected shapes that broadcast", "got {2, 3} and {2}"}},
      {"where", [] { return ft::where(of(DType::boolean, 3), of(2), of(3)); }, {"expected", "got", "{2}"}},
      {"mul", [] { return of(4, 1, 3) * of(2, 2); }, {"expected", "got {4, 1, 3} and {2, 2}"}},
      {"bias_add",
       [] { return ft::bias_add(of(2, 3), of(2)); },
       {"expected x {…, C} + b {C}", "got {2, 3} + {2}"}},
      {"matmul", [] { return ft::matmul(of(2, 3), of(2, 3)); }, {"expected", "got {2, 3} × {2, 3}"}},
      {"matmul",
       [] { return ft::matmul(of(3), of(3, 2)); },
       {"expected a {…, M, K} × {…, K, N}", "got {3} × {3, 2}"}},
      {"matmul", [] { return ft::matmul(of(2, 3, 4), of(5, 4, 3)); }, {"expected equal leading axes", "got"}},
      {"matmul",
       [] { return ft::matmul(of(2, 3), of(2, 4), {.transpose_b = true}); },
       {"expected", "got {2, 3} × {2, 4}ᵀ"}},
      {"linear",
       [] { return ft::linear(of(2, 3), of(5, 4)); },
       {"expected x {…, 4} for weights {5, 4}", "got {2, 3}"}},
      {"linear",
       [] { return ft::linear(of(2, 4), of(5, 4), of(4)); },
       {"expected bias {out}", "got {4} for {5, 4}"}},
      {"conv2d",
       [] { return ft::conv2d(of(2, 8, 8), of(4, 3, 3, 3)); },
       {"expected x {N, H, W, C}", "got {2, 8, 8}"}},
      {"conv2d",
       [] { return ft::conv2d(of(2, 8, 8, 3), of(4, 3, 3)); },
       {"expected weights {out, kh, kw, in/groups}", "got {4, 3, 3}"}},
      {"conv2d",
       [] { return ft::conv2d(of(2, 8, 8, 3), of(4, 3, 3, 5)); },
       {"expected x {N, H, W, 5}", "got x {2, 8, 8, 3} and w {4, 3, 3, 5}"}},
      {"conv2d",
       [] { return ft::conv2d(of(2, 2, 2, 3), of(4, 3, 3, 3)); },
       {"expected a padded image of at least", "got x {2, 2, 2, 3}"}},
      {"conv2d",
       [] { return ft::conv2d(of(1, 8, 8, 4), of(3, 3, 3, 2), {.groups = 2}); },
       {"expected output channels that 2 groups divide", "got"}},
      {"conv2d",
       [] { return ft::conv2d(of(1, 8, 8, 4), of(3, 3, 3, 4), of(4)); },
       {"expected bias {3}", "got bias {4}"}},
      {"conv_transpose2d",
       [] { return ft::conv_transpose2d(of(1, 8, 8, 4), of(3, 3, 3, 4)); },
       {"expected x {N, H, W, 3}", "got x {1, 8, 8, 4}"}},
      {"conv_transpose2d",
       [] { return ft::conv_transpose2d(of(1, 0, 8, 4), of(4, 3, 3, 4)); },
       {"expected x and w with no empty axis", "got"}},
      {"batch_norm",
       [] { return ft::batch_norm(of(2, 4, 4, 3), of(4), of(3)); },
       {"expected gamma {3}", "got {4}"}},
      {"batch_norm",
       [] { return ft::batch_norm(of(2, 4, 4, 3), of(3), of(3), of(3), of(2)); },
       {"expected running_var {3}", "got {2}"}},
      {"batch_norm",
       [] { return ft::batch_norm(of(2, 3), of(3), of(3), of(3), Tensor()); },
       {"expected both running statistics", "got one"}},
      {"batch_norm_inference",
       [] { return ft::batch_norm_inference(of(3), of(3), of(3), of(3), of(3)); },
       {"expected", "got {3}"}},
      {"max_pool2d",
       [] { return ft::max_pool2d(of(2, 3, 4)); },
       {"expected x {N, H, W, C}", "got {2, 3, 4}"}},
      {"avg_pool2d",
       [] { return ft::avg_pool2d(of(2, 1, 4, 3)); },
       {"expected a padded image", "got x {2, 1, 4, 3}"}},
      {"global_avg_pool",
       [] { return ft::global_avg_pool(of(2, 3)); },
       {"expected x {N, H, W, C}", "got {2, 3}"}},
      {"reshape", [] { return of(2, 3).reshape({4}); }, {"expected a shape of 6 elements", "got {4}"}},
      {"reshape",
       [] {
         return of(2, 3).reshape({4, -1});
       },
       {"expected a shape that 6 elements fill", "got {4, -1}"}},
      {"reshape",
       [] {
         return of(2, 3).reshape({-1, -1});
       },
       {"expected", "at most one of them -1", "got {-1, -1}"}},
      {"transpose",
       [] {
         return ft::transpose(of(2, 3), {0, 0});
       },
       {"expected a permutation", "got {0, 0}"}},
      {"transpose", [] { return ft::transpose(of(2, 3), {0}); }, {"expected a permutation", "got {0}"}},
      {"transpose", [] { return ft::transpose(of(3)); }, {"expected a matrix", "got {3}"}},
      {"from_nchw", [] { return ft::from_nchw(of(2, 3)); }, {"expected images {N, C, H, W}", "got {2, 3}"}},
      {"broadcast_to",
       [] {
         return ft::broadcast_to(of(2, 3), {2, 4});
       },
       {"expected a shape that x {2, 3} broadcasts to", "got {2, 4}"}},
      {"concat",
       [] {
         return ft::concat({of(2, 3), of(3, 3)}, 1);
       },
       {"expected parts that differ only on axis 1", "got {2, 3} and {3, 3}"}},
      {"concat", [] { return ft::concat({}, 0); }, {"expected at least one tensor", "got none"}},
      {"slice",
       [] { return ft::slice(of(2, 3), 1, 0, 4); },
       {"expected 0 ≤ start ≤ stop ≤ 3", "got 0:4:1 of {2, 3}"}},
      {"slice", [] { return ft::slice(of(2, 3), 1, 0, 3, 0); }, {"expected", "step ≥ 1", "got 0:3:0"}},
      {"pad",
       [] {
         return ft::pad(of(2, 3), {{1, 1}});
       },
       {"expected {before, after} for each axis", "got 1"}},
      {"pad",
       [] {
         return ft::pad(of(2), {{-1, 1}});
       },
       {"expected no negative padding", "got -1"}},
      {"sum", [] { return ft::sum(of(2, 3), {2}); }, {"expected an axis of 2 axes", "got 2"}},
      {"mean", [] { return ft::mean(of(2, 3), {-3}); }, {"expected an axis of 2 axes", "got -3"}},
      {"max", [] { return ft::max(of(0, 3)); }, {"expected at least one element", "got {0, 3}"}},
      {"argmax", [] { return ft::argmax(of(3, 0), 1); }, {"expected at least one element", "got {3, 0}"}},
      {"softmax", [] { return ft::softmax(of(2, 3), 2); }, {"expected an axis of 2 axes", "got 2"}},
      {"cross_entropy",
       [] { return ft::cross_entropy(of(2, 3), whole(3)); },
       {"expected labels {2}", "got {3}"}},
      {"cross_entropy",
       [] { return ft::cross_entropy(of(2, 3, 4), whole(2)); },
       {"expected labels {2, 3} for {2, 3, 4}", "got {2}"}},
      {"mse_loss",
       [] { return ft::mse_loss(of(2, 3), of(3)); },
       {"expected a target of shape {2, 3}", "got {3}"}},
      {"bce_with_logits",
       [] { return ft::bce_with_logits(of(2, 3), of(2, 1)); },
       {"expected a target of shape {2, 3}", "got {2, 1}"}},
      {"from_span",
       [] {
         return ft::from_vector({1, 2, 3}, {2});
       },
       {"expected 2 elements for {2}", "got 3"}},
      {"item", [] { return of(2).item(); }, {"expected one element", "got {2}"}},
      {"size", [] { return of(2).size(1); }, {"axis 1 is outside {2}"}},
  });
}

TEST_CASE("tensors and weights in PyTorch's layout are recognised") {
  check_all({
      {"conv2d",
       [] { return ft::conv2d(of(8, 3, 32, 32), of(16, 3, 3, 3)); },
       {"x looks like NCHW; use from_nchw"}},
      {"conv2d",
       [] { return ft::conv2d(of(8, 1, 28, 28), of(16, 3, 3, 1)); },
       {"x looks like NCHW; use from_nchw"}},
      {"conv2d",
       [] { return ft::conv2d(of(8, 32, 32, 4), of(16, 4, 3, 3)); },
       {"w looks like {out, in, kh, kw}; use from_nchw on it"}},
      {"batch_norm",
       [] { return ft::batch_norm(of(8, 3, 32, 32), of(3), of(3)); },
       {"expected gamma {32}", "x looks like NCHW; use from_nchw"}},
      {"bias_add", [] { return ft::bias_add(of(8, 3, 32, 32), of(3)); }, {"expected", "from_nchw"}},
  });
}

TEST_CASE("dtypes") {
  check_all({
      {"add",
       [] { return of(2) + of(DType::f64, 2); },
       {"expected equal dtypes", "got f32 and f64; use cast"}},
      {"mul",
       [] { return of(DType::boolean, 2) * of(DType::boolean, 2); },
       {"expected a numeric dtype", "got bool"}},
      {"div", [] { return whole(2) / whole(2); }, {"expected a floating dtype", "got i64; use cast"}},
      {"add", [] { return whole(2) + 0.5; }, {"expected a number that i64 holds", "got 0.5"}},
      {"sub", [] { return of(DType::u8, 2) - 300; }, {"expected a number that u8 holds", "got 300"}},
      {"relu", [] { return ft::relu(whole(2)); }, {"expected a floating dtype", "got i64"}},
      {"where", [] { return ft::where(of(2), of(2), of(2)); }, {"expected a bool condition", "got f32"}},
      {"matmul",
       [] { return ft::matmul(of(2, 2), of(DType::bf16, 2, 2)); },
       {"expected equal dtypes", "got f32 and bf16"}},
      {"conv2d",
       [] { return ft::conv2d(of(DType::u8, 1, 4, 4, 1), of(1, 1, 1, 1)); },
       {"expected a floating dtype", "got u8"}},
      {"conv2d",
       [] { return ft::conv2d(of(1, 4, 4, 1), of(1, 1, 1, 1), of(DType::f64, 1)); },
       {"expected equal dtypes", "got f32 and f64"}},
      {"conv_transpose2d",
       [] { return ft::conv_transpose2d(of(1, 4, 4, 1), of(DType::f64, 1, 1, 1, 1)); },
       {"expected equal dtypes", "got f32 and f64"}},
      {"linear",
       [] { return ft::linear(of(2, 4), of(5, 4), of(DType::f64, 5)); },
       {"expected a bias of the weights' dtype f32", "got f64"}},
      {"mse_loss",
       [] { return ft::mse_loss(of(2), of(DType::f64, 2)); },
       {"expected equal dtypes", "got f32 and f64"}},
      {"mse_loss", [] { return ft::mse_loss(whole(2), whole(2)); }, {"expected a floating dtype", "got i64"}},
      {"bce_with_logits",
       [] { return ft::bce_with_logits(of(2), of(DType::f64, 2)); },
       {"expected equal dtypes", "got f32 and f64"}},
      {"batch_norm",
       [] { return ft::batch_norm(of(4, 2), of(DType::f64, 2), of(2)); },
       {"expected gamma of dtype f32", "got f64"}},
      {"max_pool2d",
       [] { return ft::max_pool2d(whole(1, 4, 4, 1)); },
       {"expected x of a floating dtype", "got i64"}},
      {"mean", [] { return ft::mean(whole(3)); }, {"expected a floating dtype", "got i64"}},
      {"cross_entropy",
       [] { return ft::cross_entropy(of(2, 3), of(2)); },
       {"expected labels of dtype i64 or u8, or probabilities {2, 3}", "got {2} f32"}},
      {"concat",
       [] {
         return ft::concat({of(2), whole(2)}, 0);
       },
       {"expected equal dtypes", "got f32 and i64"}},
      {"rand", [] { return ft::rand({2}, DType::i64); }, {"expected a floating dtype", "got i64"}},
      {"dropout", [] { return ft::dropout(whole(2), 0.5); }, {"expected a floating dtype", "got i64"}},
      {"variable", [] { return ft::variable(whole(2)); }, {"expected a floating dtype", "got i64"}},
      {"span", [] { return of(2).span<double>(); }, {"the elements are f32, not f64"}},
  });
}

TEST_CASE("undefined tensors, numbers for tensors") {
  check_all({
      {"add", [] { return Tensor() + of(2); }, {"expected a tensor", "got an undefined Tensor"}},
      {"mul", [] { return 2 * Tensor(); }, {"expected a tensor", "got an undefined Tensor"}},
      {"relu", [] { return ft::relu(Tensor()); }, {"expected a tensor", "got an undefined Tensor"}},
      {"relu", [] { return ft::relu(2.5); }, {"expected a tensor", "got the number 2.5"}},
      {"conv2d",
       [] { return ft::conv2d(of(1, 4, 4, 3), Tensor()); },
       {"expected a tensor", "got an undefined Tensor"}},
      {"batch_norm",
       [] { return ft::batch_norm(of(4, 2), Tensor(), of(2)); },
       {"expected a tensor", "got an undefined Tensor"}},
      {"where",
       [] { return ft::where(Tensor(), of(2), of(2)); },
       {"expected a tensor", "got an undefined Tensor"}},
      {"concat",
       [] {
         return ft::concat({of(2), Tensor()}, 0);
       },
       {"undefined"}},
      {"concat",
       [] {
         return ft::concat({Tensor(), of(2)}, 0);
       },
       {"undefined"}},
      {"from_nchw", [] { return ft::from_nchw(Tensor()); }, {"expected a tensor", "got an undefined Tensor"}},
      {"reshape", [] { return Tensor().reshape({2}); }, {"expected a tensor", "got an undefined Tensor"}},
      {"cross_entropy",
       [] { return ft::cross_entropy(of(2, 3), Tensor()); },
       {"expected a tensor", "got an undefined Tensor"}},
      {"item", [] { return Tensor().item(); }, {"the tensor is undefined"}},
      {"read", [] { return Tensor().to_vector(); }, {"undefined"}},
      {"backward", [] { return Tensor().backward(); }, {"undefined"}},
      {"detach", [] { return Tensor().detach(); }, {"undefined"}},
  });
}

TEST_CASE("options") {
  const double nan = std::nan("");
  const Tensor image = of(1, 8, 8, 4), w = of(4, 3, 3, 4), c = of(4);
  check_all({
      {"conv2d",
       [&] {
         return ft::conv2d(image, w, {.stride = {0, 1}});
       },
       {"expected stride of at least 1", "got {0, 1}"}},
      {"conv2d",
       [&] {
         return ft::conv2d(image, w, {.padding = {1, -1}});
       },
       {"expected padding of at least 0", "got {1, -1}"}},
      {"conv2d",
       [&] {
         return ft::conv2d(image, w, {.dilation = {0, 1}});
       },
       {"expected dilation of at least 1", "got {0, 1}"}},
      {"conv2d",
       [&] { return ft::conv2d(image, w, {.groups = 0}); },
       {"expected groups of at least 1", "got 0"}},
      {"conv2d",
       [&] { return ft::conv2d(image, w, {.groups = -2}); },
       {"expected groups of at least 1", "got -2"}},
      {"conv_transpose2d",
       [&] {
         return ft::conv_transpose2d(image, w, {.stride = {0, 0}});
       },
       {"expected stride of at least 1", "got 0"}},
      {"conv_transpose2d",
       [&] {
         return ft::conv_transpose2d(image, w, {.padding = {-1, 0}});
       },
       {"expected padding of at least 0", "got -1"}},
      {"conv_transpose2d",
       [&] {
         return ft::conv_transpose2d(image, w, {.padding = {1, 5}});
       },
       {"expected padding that leaves an output", "got 0"}},
      {"conv_transpose2d",
       [&] {
         return ft::conv_transpose2d(image, w, {.output_padding = {1, 0}});
       },
       {"expected output_padding in [0, stride)", "got 1"}},
      {"conv_transpose2d",
       [&] {
         return ft::conv_transpose2d(image, w, {.dilation = {1, 0}});
       },
       {"expected dilation of at least 1", "got 0"}},
      {"conv_transpose2d",
       [&] { return ft::conv_transpose2d(image, w, {.groups = 0}); },
       {"expected groups of at least 1", "got 0"}},
      {"conv_transpose2d",
       [&] { return ft::conv_transpose2d(image, w, {.groups = 3}); },
       {"expected groups that divide", "got 3"}},
      {"batch_norm",
       [&] { return ft::batch_norm(of(1, 1, 1, 3), of(3), of(3)); },
       {"expected more than one value a channel in training", "got {1, 1, 1, 3}", "drop_last"}},
      {"batch_norm",
       [&] { return ft::batch_norm(image, c, c, {.eps = -1}); },
       {"expected eps of at least 0", "got -1"}},
      {"batch_norm",
       [&] { return ft::batch_norm(image, c, c, {.momentum = 1.5}); },
       {"expected momentum in [0, 1]", "got 1.5"}},
      {"batch_norm",
       [&] { return ft::batch_norm(image, c, c, {.eps = nan}); },
       {"expected eps of at least 0", "got"}},
      {"max_pool2d",
       [&] {
         return ft::max_pool2d(image, {.window = {0, 2}});
       },
       {"expected window of at least 1", "got {0, 2}"}},
      {"max_pool2d",
       [&] {
         return ft::max_pool2d(image, {.stride = {-1, 1}});
       },
       {"expected stride of at least 1", "got {-1, 1}"}},
      {"avg_pool2d",
       [&] {
         return ft::avg_pool2d(image, {.padding = {2, 2}});
       },
       {"expected padding", "got {2, 2}"}},
      {"clamp", [&] { return ft::clamp(image, 1, 0); }, {"expected low ≤ high", "got 1"}},
      {"dropout", [&] { return ft::dropout(image, 1); }, {"expected p in [0, 1)", "got 1"}},
      {"dropout", [&] { return ft::dropout(image, -0.1); }, {"expected p in [0, 1)", "got -0.1"}},
      {"dropout", [&] { return ft::dropout(image, nan); }, {"expected p in [0, 1)", "got"}},
      {"cross_entropy",
       [&] { return ft::cross_entropy(of(2, 3), whole(2), {.label_smoothing = 1}); },
       {"expected label_smoothing in [0, 1)", "got 1"}},
      {"rand", [&] { return ft::rand({-1}); }, {"expected extents of at least 0", "got {-1}"}},
      {"zeros", [&] { return ft::zeros({-1}); }, {"expected extents of at least 0", "got {-1}"}},
      {"arange", [&] { return ft::arange(-1); }, {"expected n of at least 0", "got -1"}},
      {"set_backend", [&] { return ft::set_backend("gpu"); }, {"cpu", "reference", "got 'gpu'"}},
  });
}

TEST_CASE("integers in options that overflow, or lead to sizes that do") {
  constexpr std::int64_t huge = std::numeric_limits<std::int64_t>::max(), large = std::int64_t{1} << 62;
  const Tensor image = of(1, 8, 8, 4), w = of(4, 3, 3, 4), x = of(2, 3);
  check_all({
      {"conv2d",
       [&] { return ft::conv2d(image, w, {.padding = large}); },
       {"expected padding", "below 2^31"}},
      {"conv2d", [&] { return ft::conv2d(image, w, {.stride = huge}); }, {"expected stride", "below 2^31"}},
      {"conv2d",
       [&] {
         return ft::conv2d(image, w, {.dilation = {1, huge}});
       },
       {"expected dilation", "below 2^31"}},
      {"conv2d",
       [&] { return ft::conv2d(image, w, {.dilation = 1 << 30}); },
       {"expected a padded image of at least the kernel's reach {2147483649, 2147483649}"}},
      {"conv2d", [&] { return ft::conv2d(image, w, {.groups = large}); }, {"expected groups", "got"}},
      {"conv2d",
       [&] { return ft::conv2d(image, w, {.padding = (std::int64_t{1} << 31) - 1}); },
       {"expected extents of at least 0 and at most 2^56 elements"}},
      {"conv_transpose2d",
       [&] { return ft::conv_transpose2d(image, w, {.stride = large}); },
       {"expected stride", "below 2^31"}},
      {"conv_transpose2d",
       [&] { return ft::conv_transpose2d(image, w, {.padding = huge}); },
       {"expected padding", "below 2^31"}},
      {"conv_transpose2d",
       [&] { return ft::conv_transpose2d(image, w, {.dilation = huge}); },
       {"expected dilation", "below 2^31"}},
      {"max_pool2d", [&] { return ft::max_pool2d(image, huge); }, {"expected window", "below 2^31"}},
      {"avg_pool2d",
       [&] { return ft::avg_pool2d(image, {.window = huge, .padding = large}); },
       {"expected window", "below 2^31"}},
      {"max_pool2d", [&] { return ft::max_pool2d(image, {.stride = huge}); }, {"expected stride", "below"}},
      {"max_pool2d", [&] { return ft::max_pool2d(image, {.padding = large}); }, {"expected padding", "got"}},
      {"pad",
       [&] {
         return ft::pad(x, {{huge, 1}, 0});
       },
       {"expected at most 2^56 elements", "{2, 3} padded by 9223372036854775807 and 1"}},
      {"pad",
       [&] {
         return ft::pad(x, {large, large});
       },
       {"expected at most 2^56 elements"}},
      {"pad",
       [&] {
         return ft::pad(x, {std::int64_t{1} << 40, std::int64_t{1} << 40});
       },
       {"expected extents of at least 0 and at most 2^56 elements"}},
      {"slice", [&] { return ft::slice(x, 1, -huge - 1, 2); }, {"expected 0 ≤ start ≤ stop ≤ 3"}},
      {"reshape",
       [&] {
         return x.reshape({std::int64_t{1} << 32, std::int64_t{1} << 32, -1});
       },
       {"expected a shape that 6 elements fill"}},
      {"reshape",
       [&] {
         return x.reshape({std::int64_t{1} << 32, std::int64_t{1} << 32});
       },
       {"expected a shape of 6 elements"}},
      {"broadcast_to",
       [&] {
         return ft::broadcast_to(of(1, 1), {std::int64_t{1} << 40, std::int64_t{1} << 40});
       },
       {"at most 2^56 elements"}},
  });
}

TEST_CASE("numbers that a dtype does not hold") {
  const double nan = std::nan(""), infinity = HUGE_VAL;
  const std::vector<double> mixed = {1, 300};
  const std::vector<float> undefined = {NAN};
  check_all(
      {
          {"full",
           [] { return ft::full({2}, 300, DType::u8); },
           {"expected a number that u8 holds", "got 300"}},
          {"full",
           [] { return ft::full({2}, -1, DType::u8); },
           {"expected a number that u8 holds", "got -1"}},
          {"full", [&] { return ft::full({2}, nan, DType::i64); }, {"a number that i64 holds", "got nan"}},
          {"full",
           [&] { return ft::full({2}, infinity, DType::i64); },
           {"a number that i64 holds", "got inf"}},
          {"full", [] { return ft::full({2}, 0x1p63, DType::i64); }, {"a number that i64 holds", "got 9"}},
          {"full", [] { return ft::full({2}, 0.5, DType::i64); }, {"a number that i64 holds", "got 0.5"}},
          {"full", [] { return ft::full({2}, 2, DType::boolean); }, {"a number that bool holds", "got 2"}},
          {"full", [] { return ft::full({2}, 1e6, DType::f16); }, {"a number that f16 holds", "got 1e+06"}},
          {"full", [] { return ft::full({2}, 1e39); }, {"a number that f32 holds", "got 1e+39"}},
          {"full",
           [] { return ft::full({2}, 3.4e38, DType::bf16); },
           {"a number that bf16 holds", "3.4e+38"}},
          {"scalar", [&] { return ft::scalar(nan, DType::u8); }, {"a number that u8 holds", "got nan"}},
          {"arange", [] { return ft::arange(257, DType::u8); }, {"numbers that u8 holds", "got 0 to 256"}},
          {"arange", [] { return ft::arange(3, DType::boolean); }, {"numbers that bool holds", "0 to 2"}},
          {"arange", [] { return ft::arange(70000, DType::f16); }, {"numbers that f16 holds", "0 to 69999"}},
          {"pad",
           [&] { return ft::pad(whole(2), {1}, nan); },
           {"expected a value that i64 holds", "got nan"}},
          {"pad",
           [] { return ft::pad(of(DType::u8, 2), {1}, 256); },
           {"expected a value that u8 holds", "got 256"}},
          {"add", [&] { return whole(2) + nan; }, {"expected a number that i64 holds", "got nan"}},
          {"add", [] { return whole(2) + std::numeric_limits<std::uint64_t>::max(); }, {"that i64 holds"}},
          {"maximum",
           [] { return ft::maximum(of(DType::f16, 2), 1e6); },
           {"expected a number that f16 holds", "got 1e+06"}},
          {"where",
           [] { return ft::where(of(DType::boolean, 2), of(DType::u8, 2), -1); },
           {"expected a number that u8 holds", "got -1"}},
          {"from_doubles",
           [&] { return ft::from_doubles(mixed, {2}, DType::u8); },
           {"expected numbers that u8 holds", "got 300 as element 1"}},
          {"from_floats",
           [&] { return ft::from_floats(undefined, {1}, DType::i64); },
           {"expected numbers that i64 holds", "got nan as element 0"}},
          {"from_vector",
           [] {
             return ft::from_vector(std::vector<std::uint64_t>{1, ~std::uint64_t{0}}, {2});
           },
           {"expected elements that i64 holds", "got 18446744073709551615"}},
          {"item",
           [] { return of(DType::f32, 1).item<bool>() ? ft::full({1}, 2).item<bool>() : false; },
           {"[0, 1], got 2"}},
          {"item",
           [] { return ft::full({1}, 2.5).item<std::int64_t>(); },
           {"expected a whole number", "got 2.5"}},
          {"item", [&] { return ft::full({1}, nan).item<int>(); }, {"expected a whole number", "got nan"}},
          {"item", [] { return ft::full({1}, 300).item<std::uint8_t>(); }, {"in [0, 255], got 300"}},
      },
      {"cpu", "reference"});
}

TEST_CASE("an axis is reduced once") {
  check_all({
      {"sum",
       [] {
         return ft::sum(of(2, 3), {0, 0});
       },
       {"expected each axis once", "got {0, 0}"}},
      {"mean",
       [] {
         return ft::mean(of(2, 3), {1, -1});
       },
       {"expected each axis once", "got {1, -1}"}},
      {"max",
       [] {
         return ft::max(of(2, 3), {-2, 0});
       },
       {"expected each axis once", "got {-2, 0}"}},
  });
}

TEST_CASE("labels out of range: at the call where they are known, at the run where they are not") {
  const auto labels = [](std::vector<std::int64_t> numbers) { return ft::from_vector(numbers, {2}); };
  check_all({
      {"cross_entropy",
       [&] {
         return ft::cross_entropy(of(2, 3), labels({0, 3}));
       },
       {"expected labels in [0, 3)", "got labels[1] = 3"}},
      {"cross_entropy",
       [&] {
         return ft::cross_entropy(of(2, 3), labels({-1, 0}));
       },
       {"expected labels in [0, 3)", "got labels[0] = -1"}},
      {"cross_entropy",
       [&] { return ft::cross_entropy(of(2, 3), ft::full({2}, 200, DType::u8)); },
       {"expected labels in [0, 3)", "got labels[0] = 200"}},
  });
  for (const char* name : {"cpu", "reference"}) {
    const OnBackend backend(name);
    const Tensor late = labels({1, 2}) * 2, loss = ft::cross_entropy(of(2, 3), late);
    CHECK_THROWS_WITH_AS(loss.item(), doctest::Contains("[cross_entropy]"), ft::Error);
    CHECK_THROWS_WITH_AS(loss.item(), doctest::Contains("errors_test.cpp"), ft::Error);
    CHECK_THROWS_WITH_AS(loss.item(), doctest::Contains("4"), ft::Error);
  }
}

TEST_CASE("cells, gradients, optimizers, modules") {
  Parameter p(of(2, 3), "weight"), q(of(3));
  const Tensor plain = of(2);
  check_all({
      {"set_data",
       [&] { return p.set_data(of(3, 2)); },
       {"expected f32 {2, 3} for 'weight'", "got f32 {3, 2}"}},
      {"set_data",
       [&] { return p.set_data(of(DType::f64, 2, 3)); },
       {"expected f32 {2, 3}", "got f64 {2, 3}"}},
      {"set_data", [&] { return p.set_data(Tensor()); }, {"expected f32 {2, 3}", "got an undefined tensor"}},
      {"backward", [&] { return plain.backward(); }, {"no parameter leads to this tensor"}},
      {"backward", [&] { return p.value().backward(); }, {"expected a scalar", "got {2, 3}"}},
      {"grad", [&] { return ft::grad({plain}, {plain}); }, {"expected inputs that require a gradient"}},
      {"grad",
       [&] {
         return ft::grad({p.value()}, {p.value()}, {of(2, 3), of(2, 3)});
       },
       {"expected one gradient for each of 1 outputs", "got 2"}},
      {"gradcheck",
       [&] { return ft::gradcheck([](const std::vector<Tensor>& x) { return x[0]; }, {plain}); },
       {"expected f64 inputs"}},
      {"SGD", [&] { return ft::optim::SGD({}); }, {"expected at least one parameter", "got none"}},
      {"SGD",
       [&] {
         return ft::optim::SGD({p, q, p});
       },
       {"given twice"}},
      {"SGD",
       [&] { return ft::optim::SGD({p}, {.lr = -1}); },
       {"expected a finite learning rate ≥ 0", "got -1"}},
      {"SGD", [&] { return ft::optim::SGD({Parameter()}); }, {"undefined"}},
      {"SGD",
       [&] { return ft::optim::SGD({p}, {.max_grad_norm = -1}); },
       {"expected max_grad_norm ≥ 0", "got -1"}},
      {"AdamW",
       [&] { return ft::optim::AdamW({p}, {.max_grad_norm = NAN}); },
       {"expected max_grad_norm ≥ 0", "got nan"}},
      {"RMSprop",
       [&] { return ft::optim::RMSprop({p}, {.alpha = 1.5}); },
       {"expected alpha in [0, 1]", "got 1.5"}},
      {"RMSprop", [&] { return ft::optim::RMSprop({p}, {.eps = NAN}); }, {"a finite eps ≥ 0", "got nan"}},
      {"RMSprop",
       [&] {
         ft::optim::RMSprop rmsprop({p});
         ft::optim::Settings settings = rmsprop.settings();
         settings["centered"] = 1;
         rmsprop.set_settings(settings);
       },
       {"expected the same `centered`"}},
      {"clip_grad_norm",
       [&] { return ft::optim::clip_grad_norm({p}, 0); },
       {"expected max_norm > 0", "got 0"}},
      {"grad_norm",
       [] { return ft::ops::grad_norm({}, here()); },
       {"expected at least one gradient", "got none"}},
      {"grad_norm",
       [] {
         return ft::ops::grad_norm({of(2), whole(3)}, here());
       },
       {"expected gradients of a floating dtype", "got i64 as gradient 1"}},
      {"grad_norm",
       [] {
         return ft::ops::grad_norm({of(2), of(DType::f64, 2)}, here());
       },
       {"expected gradients that are all f64 or none", "got a mixture"}},
      {"Conv2d", [] { return ft::nn::Conv2d({.in = 3, .out = 0}); }, {"expected", "got"}},
      {"Linear", [] { return ft::nn::Linear(0, 3); }, {"expected", "got"}},
      {"resnet_cifar",
       [] { return ft::nn::resnet_cifar({.depth = 21}); },
       {"expected a depth of 6n + 2", "got 21"}},
  });
  CHECK(p.value().to_vector() == std::vector<float>(6, 1));
}

TEST_CASE("modules: numbers that overflow, and the caller's line from inside containers and models") {
  constexpr std::int64_t large = std::int64_t{1} << 62;
  ft::nn::Sequential net;
  net.emplace<ft::nn::ReLU>();
  check_all({
      {"Sequential", [&] { return static_cast<void>(net[1]); }, {"expected the number of one of 1", "got 1"}},
      {"Sequential",
       [&] { return static_cast<void>(net[-1]); },
       {"expected the number of one of 1", "got -1"}},
      {"kaiming_normal", [] { return ft::nn::Conv2d({.in = large, .out = 4}); }, {"at most 2^56 elements"}},
      {"kaiming_normal",
       [] { return ft::nn::Conv2d({.in = 1, .out = 1, .kernel = large}); },
       {"at most 2^56 elements"}},
      {"kaiming_normal",
       [] { return ft::nn::ConvTranspose2d({.in = large, .out = 1, .kernel = 3}); },
       {"at most 2^56 elements"}},
      {"uniform", [] { return ft::nn::Linear(large, 4); }, {"at most 2^56 elements"}},
      {"ones", [] { return ft::nn::BatchNorm2d(large); }, {"at most 2^56 elements"}},
      {"Conv2d",
       [&] { static_cast<void>(net.emplace<ft::nn::Conv2d>({.in = 0, .out = 1})); },
       {"expected in ≥ 1"}},
      {"Linear", [&] { static_cast<void>(net.emplace<ft::nn::Linear>(0, 1)); }, {"expected in ≥ 1"}},
      {"BatchNorm2d",
       [&] { static_cast<void>(net.emplace<ft::nn::BatchNorm2d>(0)); },
       {"expected channels ≥ 1"}},
      {"Dropout", [&] { static_cast<void>(net.emplace<ft::nn::Dropout>(2.0)); }, {"expected p in [0, 1)"}},
      {"Conv2d", [] { return ft::nn::BasicBlock({.in = 0, .out = 1}); }, {"expected in ≥ 1"}},
      {"Conv2d", [] { return ft::nn::ConvNorm({.in = 0, .out = 1}); }, {"expected in ≥ 1"}},
      {"ResNet", [] { return ft::nn::ResNet({.width = large}); }, {"expected width", "2^24"}},
      {"ResNet",
       [] { return ft::nn::ResNet({.blocks = std::vector<std::int64_t>(70, 1)}); },
       {"expected at most 32 stages", "got 70"}},
      {"ResNet", [] { return ft::nn::resnet_cifar({.depth = 6 * 100000 + 2}); }, {"1 to 10000 blocks"}},
      {"ResNet9", [] { return ft::nn::ResNet9({.width = large}); }, {"expected width", "2^24"}},
  });
}

TEST_CASE("what holds no tensor says so at the caller's line") {
  const Tensor none;
  ft::Cell cell;
  Parameter parameter;
  check_all({
      {"shape", [&] { return none.shape(); }, {"undefined"}},
      {"shape", [&] { return none.rank(); }, {"undefined"}},
      {"shape", [&] { return none.elements(); }, {"undefined"}},
      {"dtype", [&] { return none.dtype(); }, {"undefined"}},
      {"Cell", [&] { return ft::Cell(none); }, {"undefined"}},
      {"Cell", [&] { return Parameter(none); }, {"undefined"}},
      {"value", [&] { return cell.value(); }, {"the cell is empty"}},
      {"value", [&] { return ft::relu(parameter); }, {"the cell is empty"}},
      {"name", [&] { return cell.name(); }, {"the cell is empty"}},
      {"shape", [&] { return cell.shape(); }, {"the cell is empty"}},
      {"grad", [&] { return parameter.grad(); }, {"the cell is empty"}},
      {"zero_grad", [&] { return parameter.zero_grad(); }, {"the cell is empty"}},
      {"set_requires_grad", [&] { return parameter.set_requires_grad(true); }, {"the cell is empty"}},
      {"set_grad", [] { return Parameter(of(2)).set_grad(of(3)); }, {"expected f32 {2}", "got f32 {3}"}},
      {"shape",
       [] {
         return ft::Shape({1, 2, 3, 4, 5, 6, 7, 8, 9});
       },
       {"expected at most 8 axes"}},
  });
}

TEST_CASE("memory that there is not: an Error with the caller's line") {
  if (!new_throws) return;
  check_all({
      {"uniform",
       [] { return ft::nn::Linear(std::int64_t{1} << 28, std::int64_t{1} << 27); },
       {"expected memory for {134217728, 268435456}", "got none"}},
  });
  constexpr std::int64_t n = std::int64_t{1} << 52;
  for (const char* name : {"cpu", "reference"}) {
    const OnBackend backend(name);
    const auto refused = [](const char* op, const std::function<void()>& call) {
      CHECK_THROWS_WITH_AS(call(), doctest::Contains(op), ft::Error);
      CHECK_THROWS_WITH_AS(call(), doctest::Contains("(errors_test.cpp:"), ft::Error);
    };
    refused("[allocate]", [] { ft::zeros({n}); });
    refused("[allocate]", [] { ft::arange(n, DType::i64); });
    refused("[allocate]", [] { ft::materialize({ft::broadcast_to(of(1), {n})}); });
    CHECK((of(2) + 1).to_vector() == std::vector<float>{2, 2});
  }
}

TEST_CASE("the line is the caller's, and the place in the model is named") {
  struct Net : ft::nn::Module {
    ft::nn::Conv2d conv{{.in = 3, .out = 8, .kernel = 3}};
    Net() { register_child("stem", conv); }
    Tensor forward(const Tensor& x) override { return conv(x); }
  } net;
  std::uint_least32_t line = 0;
  std::string text;
  try {
    line = ft::Location::current().line() + 1;
    static_cast<void>(of(2) + (of(3) * of(4)));
  } catch (const ft::Error& error) {
    CHECK(error.location().line() == line);
  }
  try {
    net(of(1, 8, 8, 4));
  } catch (const ft::Error& error) {
    text = error.what();
  }
  CHECK(text.find("(stem, errors_test.cpp:") != std::string::npos);
  CHECK_THROWS_WITH_AS(net(of(1, 3, 8, 8)), doctest::Contains("from_nchw"), ft::Error);
}
