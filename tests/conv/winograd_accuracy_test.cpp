// How exact Winograd is: what is stated of its error, what is expected of it by shape, and what `automatic`
// makes of that.
#include <doctest/doctest.h>

#include <set>
#include <string>

#include "backends/cpu/conv/winograd/accuracy.hpp"
#include "backends/cpu/conv/winograd_candidate.hpp"
#include "core/op/op.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "tests/conv/winograd_helpers.hpp"
#include "tests/conv/winograd_reference.hpp"
#include "tests/conv/winograd_shapes.hpp"

namespace ft = fusetape;
namespace wino = fusetape::backends::cpu::conv::winograd;
using namespace fusetape::tests;
using ft::DType;
using ft::Tensor;
using wino::GradientBlocking;
using wino::Problem;

namespace {

using Floats = std::vector<float>;

enum class Pass : std::uint8_t { forward, input_gradient, weight_gradient };

std::string name_of(Pass pass) {
  return pass == Pass::forward          ? "forward"
         : pass == Pass::input_gradient ? "input gradient"
                                        : "weight gradient";
}

double stated_error(Pass pass) {
  return pass == Pass::forward ? ft::winograd_error : ft::winograd_gradient_error;
}

std::int64_t x_size(const Problem& p) { return p.batch * p.height * p.width * p.in; }
std::int64_t y_size(const Problem& p) { return p.batch * p.out_height() * p.out_width() * p.out; }

/// The largest number that `run` gives on any target.
template <class F>
double worst_target(F&& run) {
  double worst = 0;
  on_every_target([&] { worst = std::max(worst, run()); });
  return worst;
}

double relative_error(const Floats& got, const Numbers& expected) {
  return difference(Numbers(got.begin(), got.end()), expected, 1e-30);
}

constexpr int threads = most_threads;

double weight_gradient_error(const Problem& p, const GradientBlocking& blocking) {
  const Floats x = drawn<float>(x_size(p), 1), dy = drawn<float>(y_size(p), 2);
  const Numbers expected = weight_gradient_of(p, x, dy);
  Floats dw(expected.size());
  const wino::GradientMemory memory = wino::weight_gradient_memory(p, blocking, threads);
  Scratch scratch(memory.scratch);
  ThreadRooms rooms(memory.room, threads);
  return worst_target([&] {
    wino::weight_gradient(p, {.x = x.data()}, {.x = dy.data()}, dw.data(), DType::f32, blocking, threads,
                          scratch.data(), rooms);
    return relative_error(dw, expected);
  });
}

double convolution_error(const Problem& forward, bool backward_data) {
  const Problem p = backward_data ? forward.mirrored() : forward;
  const Floats x = drawn<float>(x_size(p), 1), w = drawn<float>(p.in * p.out * 9, 2);
  const Numbers expected = convolved(p, x, taps_of(forward, w, backward_data));
  Floats y(expected.size());
  const wino::Blocking blocking = wino::default_blocking(p, threads);
  Scratch u(wino::weights_bytes(forward));
  ThreadRooms rooms(wino::convolve_room_bytes(p, blocking, threads), threads);
  return worst_target([&] {
    wino::transform_weights(forward, w.data(), DType::f32, backward_data, u.floats(), threads);
    wino::convolve(p, {.x = x.data()}, u.floats(), {.y = y.data()}, blocking, threads, rooms);
    return relative_error(y, expected);
  });
}

double error_of(Pass pass, const Problem& p) {
  if (pass == Pass::weight_gradient)
    return weight_gradient_error(p, wino::default_gradient_blocking(p, threads));
  return convolution_error(p, pass == Pass::input_gradient);
}

/// Whether Winograd is taken for a pass, and why not, without any tensor of the shape.
ft::backends::Support served(Pass pass, const Problem& p,
                             ft::ConvAlgorithm algorithm = ft::ConvAlgorithm::automatic) {
  ft::plan::Graph graph;
  graph.conv_algorithm = algorithm;
  const auto add = [&](const ft::Shape& shape) { graph.values.push_back({.shape = shape}); };
  const ft::Shape x{p.batch, p.height, p.width, p.in}, w{p.out, 3, 3, p.in},
      y{p.batch, p.out_height(), p.out_width(), p.out};
  add(pass == Pass::input_gradient ? y : x);
  add(pass == Pass::weight_gradient ? y : w);
  add(pass == Pass::forward ? y : pass == Pass::input_gradient ? x : w);
  ft::plan::GraphNode node;
  node.op = &ft::core::find_op(pass == Pass::forward          ? "conv2d"
                               : pass == Pass::input_gradient ? "conv2d_grad_input"
                                                              : "conv2d_grad_weight");
  node.attrs =
      ft::core::Attrs::of(ft::core::ConvAttrs{.pad_h = p.pad, .pad_w = p.pad, .kernel_h = 3, .kernel_w = 3});
  node.inputs = {0, 1};
  node.outputs = {2};
  return ft::backends::cpu::conv::winograd_serves(graph, node);
}

}  // namespace

TEST_CASE("winograd: fifty odd shapes and more, none twice") {
  std::set<std::string> different;
  for (const Problem& p : odd_shapes) different.insert(text(p));
  CHECK(different.size() == odd_shapes.size());
  CHECK(odd_shapes.size() >= 50);
}

TEST_CASE("winograd: the stated error holds for every pass of every shape") {
  for (const Pass pass : {Pass::forward, Pass::input_gradient, Pass::weight_gradient}) {
    double largest = 0;
    std::string of;
    for (const Problem& p : winograd_shapes()) {
      const double error = error_of(pass, p);
      INFO(name_of(pass), ", ", text(p));
      CHECK(error > 0);
      CHECK(error <= stated_error(pass));
      if (error <= largest) continue;
      largest = error;
      of = text(p);
    }
    MESSAGE(name_of(pass), ": largest error ", largest, ", of ", of);
  }
}

TEST_CASE("winograd: the expected error is above the measured one, and close to it") {
  const auto check = [](double measured, double expected) {
    CHECK(measured < expected);
    CHECK(measured > expected / 5);
  };
  for (const std::int64_t channels : {1, 16, 64, 256, 512, 1024, 2048, 4096}) {
    CAPTURE(channels);
    check(error_of(Pass::forward, {1, 8, 8, channels, 16, 1}), wino::convolution_error(channels));
    check(error_of(Pass::input_gradient, {1, 8, 8, 16, channels, 1}), wino::convolution_error(channels));
  }
  for (const std::int64_t batch : {1, 8, 64}) {
    const Problem p{batch, 32, 32, 16, 16, 1};
    for (const GradientBlocking& blocking :
         {wino::default_gradient_blocking(p, threads), GradientBlocking{.tiles = 8},
          GradientBlocking{.tiles = 256, .by_channels = true, .chunks = 1}}) {
      CAPTURE(batch);
      CAPTURE(blocking.tiles);
      check(weight_gradient_error(p, blocking), wino::weight_gradient_error(p, blocking, threads));
    }
  }
}

TEST_CASE("automatic leaves Winograd where its error would be above the stated one") {
  struct Case {
    Pass pass;
    Problem problem;
    std::string refusal;
  };
  const Case cases[] = {
      {Pass::forward, {1, 8, 8, 8192, 16, 1}, ""},
      {Pass::forward,
       {1, 8, 8, 131072, 16, 1},
       "over 131072 channels is about 1.04e-05 of the largest value, above 1e-05"},
      {Pass::forward, {1, 8, 8, 16, 131072, 1}, ""},
      {Pass::input_gradient, {1, 8, 8, 16, 131072, 1}, ""},
      {Pass::input_gradient,
       {1, 8, 8, 16, 1 << 20, 1},
       "over 1048576 channels is about 2.06e-05 of the largest value, above 2e-05"},
      {Pass::weight_gradient, {64, 56, 56, 256, 256, 1}, ""},
      {Pass::weight_gradient, {512, 56, 56, 256, 256, 1}, "over 100352 tiles is about 2.6"},
      {Pass::weight_gradient, {256, 128, 128, 16, 16, 1}, ""},
      {Pass::weight_gradient, {2048, 128, 128, 16, 16, 1}, "over 2097152 tiles is about "},
  };
  for (const Case& c : cases) {
    INFO(name_of(c.pass), ", ", text(c.problem));
    const ft::backends::Support winograd = served(c.pass, c.problem);
    CHECK(winograd.ok == c.refusal.empty());
    CHECK_MESSAGE(contains(winograd.reason, c.refusal), winograd.reason);
    CHECK(served(c.pass, c.problem, ft::ConvAlgorithm::winograd).ok);
  }
}

TEST_CASE("explain() says that Winograd's error leaves a convolution direct") {
  const OnBackend backend("cpu");
  const Tensor x = ft::ones({1, 4, 4, 131072}), w = ft::ones({1, 3, 3, 131072});
  ft::materialize({x, w});
  for (const ft::ConvAlgorithm algorithm : {ft::ConvAlgorithm::automatic, ft::ConvAlgorithm::direct}) {
    const ConvBy by(algorithm);
    ft::materialize({ft::conv2d(x, w, {.padding = {1, 1}})});
    const ft::GroupReport group = ft::explain().groups.back();
    CHECK(group.kernel.starts_with("onednn:"));
    CHECK(contains(group.why, "above 1e-05") == (algorithm == ft::ConvAlgorithm::automatic));
    CHECK(contains(ft::explain().to_string(), "above 1e-05") == (algorithm == ft::ConvAlgorithm::automatic));
  }
}
