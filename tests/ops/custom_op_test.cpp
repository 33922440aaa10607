// Ops of a user's own: recorded, planned, differentiable and refused as the library's are.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/tape/tape.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::CustomForward;
using ft::CustomGradient;
using ft::CustomOp;
using ft::DType;
using ft::Tensor;
using fusetape::tests::contains;
using fusetape::tests::message_of;
using fusetape::tests::OnBackend;
using Floats = std::vector<float>;
using Tensors = std::vector<Tensor>;

namespace {

const char* const backends[] = {"cpu", "reference"};

/// x·σ(βx), β {1}: the forward in the tensors' own type.
CustomOp make_swish() {
  return CustomOp({.name = "swish",
                   .inputs = 2,
                   .forward =
                       [](CustomForward& call) {
                         call.typed([&](auto zero) {
                           using T = decltype(zero);
                           const auto x = call.input<T>(0), beta = call.input<T>(1);
                           const auto y = call.output<T>(0);
                           for (std::size_t i = 0; i < x.size(); ++i)
                             y[i] = x[i] / (1 + std::exp(-beta[0] * x[i]));
                         });
                       },
                   .gradient = [](const CustomGradient& call) -> Tensors {
                     const Tensor x = call.input(0), beta = call.input(1), g = call.incoming();
                     const Tensor s = ft::sigmoid(beta * x), slope = s * (1 - s);
                     return {call.needs(0) ? g * (s + beta * x * slope) : Tensor(),
                             call.needs(1) ? ft::reshape(ft::sum(g * x * x * slope), {1}) : Tensor()};
                   },
                   .saves_inputs = {0, 1}});
}

const CustomOp& swish() {
  static const CustomOp op = make_swish();
  return op;
}

/// Two outputs of other shapes and types: the largest of each row and where it is. In double, whatever comes.
const CustomOp& row_max() {
  static const CustomOp op(
      {.name = "row_max",
       .shapes = [](const std::vector<ft::TensorSpec>& in) -> std::vector<ft::TensorSpec> {
         if (in[0].shape.rank() != 2) throw std::invalid_argument("expected a matrix");
         return {{{in[0].shape[0]}, in[0].dtype}, {{in[0].shape[0]}, DType::i64}};
       },
       .forward =
           [](CustomForward& call) {
             const auto x = call.input<double>(0);
             const auto largest = call.output<double>(0);
             const auto place = call.output<std::int64_t>(1);
             const std::size_t columns = x.size() / largest.size();
             for (std::size_t r = 0; r < largest.size(); ++r) {
               const auto row = x.subspan(r * columns, columns);
               const auto best = std::max_element(row.begin(), row.end());
               largest[r] = *best;
               place[r] = best - row.begin();
             }
           }});
  return op;
}

std::vector<std::string> groups_run() {
  std::vector<std::string> names;
  for (const ft::GroupReport& group : ft::explain().groups) names.push_back(group.name);
  return names;
}

CustomOp identity(std::string name) {
  return CustomOp({.name = std::move(name), .forward = [](CustomForward& call) {
                     std::ranges::copy(call.input<float>(0), call.output<float>(0).begin());
                   }});
}

}  // namespace

TEST_CASE("a custom op is recorded, runs with the plan and is named in explain()") {
  for (const char* name : backends) {
    const OnBackend backend(name);
    const Tensor x = ft::from_vector({-2, 0, 3}, {3}), beta = ft::from_vector({1}, {1});
    const Tensor y = swish().one({x * 2, beta}), z = y + 1 - y;
    CHECK(y.pending());
    CHECK(z.to_vector() == Floats{1, 1, 1});
    const std::vector<std::string> groups = groups_run();
    CHECK(std::count(groups.begin(), groups.end(), "swish") == 1);
    CHECK(groups.size() == 3);  // nothing is fused into it: mul, swish, add+sub
    const Floats values = y.to_vector();
    const Floats inputs{-4, 0, 6};
    for (std::size_t i = 0; i < 3; ++i) CHECK(values[i] == inputs[i] / (1 + std::exp(-inputs[i])));
  }
  const OnBackend backend("null");
  const Tensor planned = swish().one({ft::ones({2, 3}), ft::ones({1})});
  ft::materialize({planned});
  CHECK(planned.shape() == ft::Shape{2, 3});
  CHECK(groups_run() == std::vector<std::string>{"swish"});
}

TEST_CASE("every call of one structure is one plan, and other custom ops are other plans") {
  const OnBackend backend("cpu");
  const CustomOp a = identity("identity"), b = identity("identity");
  const auto run = [](const CustomOp& op, float x) {
    return op.one({ft::from_vector({x}, {1})}).to_vector() == Floats{x};
  };
  CHECK(run(a, 1));
  const auto before = ft::plan_cache_stats();
  CHECK(run(a, 2));
  CHECK(ft::plan_cache_stats().hits == before.hits + 1);
  CHECK(run(b, 3));
  CHECK(ft::plan_cache_stats().misses == before.misses + 1);
}

TEST_CASE("every dtype, in place or converted; outputs of other shapes and types") {
  for (const char* name : backends) {
    const OnBackend backend(name);
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::u8}) {
      CAPTURE(ft::name_of(dtype));
      const Tensor x = ft::from_doubles(std::vector<double>{1, 5, 3, 8, 2, 8}, {2, 3}, dtype);
      const Tensors out = row_max()({x});
      CHECK(out[0].dtype() == dtype);
      CHECK(out[0].to_vector<double>() == std::vector<double>{5, 8});
      CHECK(out[1].to_vector<std::int64_t>() == std::vector<std::int64_t>{1, 0});
      CHECK_FALSE(out[0].requires_grad());
    }
    for (const DType dtype : {DType::f64, DType::bf16, DType::f16}) {
      const Tensor y = swish().one({ft::full({2}, 1, dtype), ft::full({1}, 1, dtype)});
      const double tolerance = dtype == DType::f64 ? 1e-15 : 4e-3;
      CHECK(std::abs(y.to_vector<double>()[1] - 1 / (1 + std::exp(-1.0))) < tolerance);
    }
    CHECK(swish().one({ft::zeros({0, 3}), ft::ones({1})}).to_vector().empty());
    CHECK(swish().one({ft::scalar(0), ft::ones({1})}).item() == 0);
  }
}

TEST_CASE("gradients of first and second order agree with central differences") {
  const Tensors inputs{ft::from_doubles(std::vector<double>{-1.5, -0.2, 0.3, 2}, {2, 2}, DType::f64),
                       ft::from_doubles(std::vector<double>{0.8}, {1}, DType::f64)};
  ft::gradcheck([](const Tensors& in) { return swish().one(in); }, inputs);
  ft::gradcheck(
      [](const Tensors& in) {
        const Tensors first =
            ft::grad({ft::sum(swish().one(in))}, in, {}, {.retain_graph = true, .create_graph = true});
        return first[0] * first[1];
      },
      inputs);
  const CustomOp wrong(
      {.name = "wrong_gradient",
       .forward =
           [](CustomForward& call) {
             const auto x = call.input<double>(0);
             std::ranges::transform(x, call.output<double>(0).begin(), [](double v) { return v * v; });
           },
       .gradient = [](const CustomGradient& call) -> Tensors { return {call.input(0) * call.incoming()}; },
       .saves_inputs = {0}});
  CHECK_THROWS_WITH_AS(ft::gradcheck([&](const Tensors& in) { return wrong.one(in); }, {inputs[0]}),
                       doctest::Contains("input 0, element 0"), ft::Error);
}

TEST_CASE("a training step with a custom op on every backend, fused and not") {
  std::vector<Floats> results;
  for (const char* name : backends) {
    const OnBackend backend(name);
    for (const bool fusion : {true, false}) {
      const fusetape::tests::Fusion mode(fusion);
      ft::Parameter w(ft::from_vector({1, -2, 0.5, 3}, {2, 2})), beta(ft::ones({1}));
      ft::optim::SGD sgd({w, beta}, {.lr = 0.1});
      for (int step = 0; step < 3; ++step) {
        const Tensor y = swish().one({ft::matmul(ft::from_vector({1, 2, 3, 4}, {2, 2}), w), beta});
        sgd.zero_grad();
        ft::mean(y * y).backward();
        sgd.step();
      }
      results.push_back(w.value().to_vector());
      results.back().push_back(beta.value().to_vector()[0]);
    }
  }
  for (const Floats& result : results) {
    for (std::size_t i = 0; i < result.size(); ++i)
      CHECK(result[i] == doctest::Approx(results[0][i]).epsilon(1e-5));
  }
}

TEST_CASE("an output that no gradient came for, and inputs that want none") {
  static const CustomOp both({.name = "sum_and_difference",
                              .inputs = 2,
                              .shapes = [](const std::vector<ft::TensorSpec>& in) { return in; },
                              .forward =
                                  [](CustomForward& call) {
                                    const auto a = call.input<float>(0), b = call.input<float>(1);
                                    const auto sum = call.output<float>(0),
                                               difference = call.output<float>(1);
                                    for (std::size_t i = 0; i < a.size(); ++i) {
                                      sum[i] = a[i] + b[i];
                                      difference[i] = a[i] - b[i];
                                    }
                                  },
                              .gradient = [](const CustomGradient& call) -> Tensors {
                                CHECK(call.has_incoming(1));
                                CHECK_FALSE(call.has_incoming(0));
                                CHECK_FALSE(call.needs(1));
                                return {call.incoming(0) + call.incoming(1), {}};
                              }});
  const OnBackend backend("cpu");
  const Tensor a = ft::variable(ft::ones({2})), b = ft::ones({2});
  const Tensors out = both({a, b});
  CHECK_THROWS_WITH_AS(both.one({a, b}), doctest::Contains("expected one output, got 2"), ft::Error);
  CHECK(ft::grad({ft::sum(out[1] * 3)}, {a})[0].to_vector() == Floats{3, 3});
}

TEST_CASE("a composed forward with a gradient of the user's own") {
  const CustomOp straight_through = ft::custom_gradient(
      {.name = "round_straight_through",
       .forward =
           [](const Tensors& in) {
             return ft::where(ft::greater(in[0], 0), 1.0, -1.0) * ft::abs(in[0] - in[0] + 1);
           },
       .gradient = [](const CustomGradient& call) -> Tensors { return {call.incoming()}; }});
  const CustomOp reversal = ft::custom_gradient(
      {.name = "reversal",
       .forward = [](const Tensors& in) { return in[0]; },
       .gradient = [](const CustomGradient& call) -> Tensors { return {call.incoming() * -2}; }});
  // exp, with a gradient from its own output; the second input wants its own, too.
  const CustomOp scaled_exp = ft::custom_gradient(
      {.name = "scaled_exp",
       .inputs = 2,
       .forward = [](const Tensors& in) { return ft::exp(in[0]) * in[1]; },
       .gradient = [](const CustomGradient& call) -> Tensors {
         return {call.incoming() * call.output(), ft::sum(call.incoming() * ft::exp(call.input(0)))};
       },
       .saves_inputs = {0},
       .saves_output = true});
  for (const char* name : backends) {
    const OnBackend backend(name);
    const Tensor x = ft::variable(ft::from_vector({-2, 0.5, 3}, {3}));
    const Tensor y = straight_through.one({x});
    CHECK(ft::grad({ft::sum(y * y * ft::from_vector({1, 2, 3}, {3}))}, {x})[0].to_vector() ==
          Floats{-2, 4, 6});
    CHECK(y.to_vector() == Floats{-1, 1, 1});
    CHECK(ft::grad({ft::sum(reversal.one({x * x}))}, {x})[0].to_vector() == Floats{8, -2, -12});
    const Tensor in_chain = reversal.one({x * 3});
    CHECK((in_chain + 1).to_vector() == Floats{-5, 2.5, 10});
    CHECK_FALSE(ft::no_grad([&] { return reversal.one({x}); }).requires_grad());
  }
  ft::gradcheck(
      [&](const Tensors& in) { return scaled_exp.one(in); },
      {ft::from_doubles(std::vector<double>{-0.5, 1}, {2}, DType::f64), ft::scalar(0.7, DType::f64)});
  ft::gradcheck(
      [&](const Tensors& in) {
        return ft::grad({ft::sum(scaled_exp.one(in))}, {in[0]}, {},
                        {.retain_graph = true, .create_graph = true})[0];
      },
      {ft::from_doubles(std::vector<double>{-0.5, 1}, {2}, DType::f64), ft::scalar(0.7, DType::f64)});
}

TEST_CASE("a checkpoint computes custom ops again") {
  const CustomOp doubled = ft::custom_gradient({.name = "doubled_gradient",
                                                .forward = [](const Tensors& in) { return ft::exp(in[0]); },
                                                .gradient = [](const CustomGradient& call) -> Tensors {
                                                  return {call.incoming() * call.output() * 2};
                                                },
                                                .saves_output = true});
  for (const char* name : backends) {
    const OnBackend backend(name);
    const Tensor x = ft::variable(ft::from_vector({-1, 0.5, 2}, {3})), beta = ft::ones({1});
    const auto block = [&](const Tensor& in) { return doubled.one({swish().one({in * 0.5, beta})}) * 3; };
    const Tensor plain = ft::grad({ft::sum(block(x))}, {x})[0];
    const Floats expected = plain.to_vector();
    const Tensor y = ft::checkpoint(block, x);
    ft::materialize({y});
    CHECK(ft::grad({ft::sum(y)}, {x})[0].to_vector() == expected);
    const std::vector<std::string> groups = groups_run();
    CHECK(std::count(groups.begin(), groups.end(), "swish") == 1);
  }
}

TEST_CASE("plans and histories outlive the CustomOp object") {
  const OnBackend backend("cpu");
  const Tensor x = ft::variable(ft::from_vector({2}, {1})), beta = ft::variable(ft::ones({1}));
  Tensor read_before, pending;
  {
    const CustomOp op = make_swish();
    read_before = ft::sum(op.one({x, beta}));
    CHECK(read_before.item() > 0);
    pending = ft::sum(op.one({x * 2, beta}));
  }
  CHECK(pending.item() > 0);
  CHECK(ft::grad({read_before}, {x})[0].item() > 0);
  CHECK(ft::grad({pending}, {beta})[0].item() > 0);
}

TEST_CASE("threads make and call custom ops at the same time") {
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 50; ++round) {
        const CustomOp own = identity("own");
        const Tensor x = ft::variable(ft::full({3}, static_cast<double>(t + 1)));
        const Tensor y = swish().one({own.one({x}), ft::ones({1})});
        const auto value = static_cast<double>(t + 1);
        if (std::abs(y.to_vector()[2] - value / (1 + std::exp(-value))) > 1e-5) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("mistakes in a description are refused where it is made") {
  const auto forward = [](CustomForward&) {};
  const auto make = [&](ft::CustomOpOptions options) { return message_of([&] { CustomOp op(options); }); };
  CHECK(contains(make({.name = "relu", .forward = forward}), "the built-in op \"relu\""));
  CHECK(contains(make({.name = "a+b", .forward = forward}), "got \"a+b\""));
  CHECK(contains(make({.name = "", .forward = forward}), "expected a name"));
  CHECK(contains(make({.name = "op"}), "expected a forward for \"op\""));
  CHECK(contains(make({.name = "op", .inputs = 0, .forward = forward}), "expected 1 to 30 inputs, got 0"));
  CHECK(
      contains(make({.name = "op", .forward = forward, .saves_inputs = {1}}), "[op] expected saves_inputs"));
  CHECK(contains(make({.name = "op", .forward = forward, .saves_outputs = {-1}}),
                 "[op] expected saves_outputs"));
  CHECK(contains(make({.name = "op", .forward = forward, .saves_outputs = {-1}}), "custom_op_test.cpp"));
  CHECK(contains(message_of([] { ft::custom_gradient({.name = "op"}); }),
                 "a forward and a gradient for \"op\""));
}

TEST_CASE("mistakes in a call name the op and the user's line, and leave the tape as it was") {
  const CustomOp saves_too_many(
      {.name = "saves_too_many", .forward = [](CustomForward&) {}, .saves_outputs = {1}});
  struct {
    std::string op;
    std::function<void()> call;
    std::vector<std::string> says;
  } const mistakes[] = {
      {"swish", [] { swish()({ft::ones({1})}); }, {"expected 2 inputs, got 1"}},
      {"swish",
       [] {
         swish()({ft::ones({1}), Tensor()});
       },
       {"input 1 is an undefined tensor"}},
      {"row_max", [] { row_max()({ft::ones({3})}); }, {"expected a matrix", "got f32 {3}"}},
      {"saves_too_many", [&] { saves_too_many({ft::ones({3})}); }, {"saves_outputs below 1", "got 1"}},
  };
  for (const auto& mistake : mistakes) {
    const std::size_t pending = ft::core::Tape::current().pending_nodes();
    const std::string text = message_of(mistake.call);
    CAPTURE(text);
    CHECK(text.rfind("[" + mistake.op + "] ", 0) == 0);
    CHECK(contains(text, "custom_op_test.cpp:"));
    for (const std::string& part : mistake.says) CHECK(contains(text, part));
    CHECK(ft::core::Tape::current().pending_nodes() == pending);
  }
}

TEST_CASE("mistakes in a gradient name the op and the line of its call") {
  const auto forward = [](CustomForward& call) { std::ranges::fill(call.output<float>(0), 1.0f); };
  using Gradient = std::function<Tensors(const CustomGradient&)>;
  const std::pair<Gradient, const char*> mistakes[] = {
      {[](const CustomGradient&) -> Tensors { return {ft::ones({2})}; },
       "expected a gradient f32 {3} for input 0, got f32 {2}"},
      {[](const CustomGradient&) -> Tensors { return {ft::ones({3}, DType::f64)}; }, "got f64 {3}"},
      {[](const CustomGradient&) -> Tensors { return {}; }, "for each of 1 inputs, got 0"},
      {[](const CustomGradient& call) -> Tensors { return {call.input(0)}; },
       "saves_inputs lists, got input 0"},
      {[](const CustomGradient& call) -> Tensors { return {call.output()}; },
       "saves_outputs lists, got output 0"},
      {[](const CustomGradient& call) -> Tensors { return {call.incoming(1)}; }, "an output below 1, got 1"},
      {[](const CustomGradient& call) -> Tensors { return {ft::matmul(call.incoming(), call.incoming())}; },
       "its gradient threw [matmul]"},
      {[](const CustomGradient&) -> Tensors { throw std::runtime_error("no idea"); },
       "its gradient threw no idea"},
  };
  for (const auto& [gradient, says] : mistakes) {
    const CustomOp op({.name = "ill", .forward = forward, .gradient = gradient});
    const Tensor loss = ft::sum(op.one({ft::variable(ft::ones({3}))}));
    const std::string text = message_of([&] { loss.backward(); });
    CAPTURE(text);
    CHECK(text.rfind("[ill] ", 0) == 0);
    CHECK(contains(text, says));
    CHECK(contains(text, "custom_op_test.cpp:"));
  }
}

TEST_CASE("what a forward throws comes out of the run, and the run's values are lost") {
  using Forward = std::function<void(CustomForward&)>;
  const std::pair<Forward, const char*> mistakes[] = {
      {[](CustomForward&) { throw std::runtime_error("no idea"); }, "its forward threw no idea"},
      {[](CustomForward&) { throw 42; }, "no std::exception"},
      {[](CustomForward& call) { call.input<float>(1); }, "expected a number below 1 for its inputs, got 1"},
      {[](CustomForward&) { ft::ones({1}) + 1; },
       "[add] expected a custom op's forward to work on the elements"},
  };
  for (const char* name : backends) {
    const OnBackend backend(name);
    for (const auto& [forward, says] : mistakes) {
      const CustomOp op({.name = "ill", .forward = forward});
      const Tensor y = op.one({ft::ones({3})}), other = ft::ones({1}) * 2;
      const std::string text = message_of([&] { y.to_vector(); });
      CAPTURE(text);
      CHECK(text.rfind("[ill] ", 0) == 0);
      CHECK(contains(text, says));
      CHECK(contains(text, "custom_op_test.cpp:"));
      CHECK_THROWS_WITH_AS(other.item(), doctest::Contains("lost"), ft::Error);
      CHECK((ft::ones({1}) * 3).item() == 3);
    }
  }
}

TEST_CASE("eager mode runs a custom op at its call") {
  const OnBackend backend("cpu");
  const fusetape::tests::Eager eager(true);
  const CustomOp op({.name = "ill", .forward = [](CustomForward&) { throw std::runtime_error("no idea"); }});
  CHECK_THROWS_WITH_AS(op.one({ft::ones({1})}), doctest::Contains("[ill] its forward threw no idea"),
                       ft::Error);
  CHECK(identity("own").one({ft::ones({1})}).to_vector() == Floats{1});
}

TEST_CASE("a shape rule that changes its mind gets a plan of its own") {
  std::int64_t rows = 2;
  const CustomOp ones(
      {.name = "ones_like_batch",
       .shapes = [&rows](const std::vector<ft::TensorSpec>& in) -> std::vector<ft::TensorSpec> {
         return {{{rows}, in[0].dtype}};
       },
       .forward =
           [](CustomForward& call) {
             for (float& element : call.output<float>(0)) element = 1;
           }});
  const Tensor x = ft::zeros({3});
  for (const std::int64_t count : {2, 4000, 2}) {
    rows = count;
    CHECK(ones.one({x}).to_vector() == Floats(static_cast<std::size_t>(count), 1));
  }
}
