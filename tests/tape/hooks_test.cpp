// Hooks on gradients: when they are called, with what, and what becomes of what they return.
#include <doctest/doctest.h>

#include <cmath>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Parameter;
using ft::Tensor;
using fusetape::tests::contains;
using fusetape::tests::message_of;
using fusetape::tests::OnBackend;
using Floats = std::vector<float>;

namespace {

/// Remembers what came, and leaves it as it is.
ft::GradientHook into(std::vector<Tensor>& seen) {
  return [&seen](const Tensor& gradient) {
    seen.push_back(gradient);
    return Tensor();
  };
}

Tensor doubled(const Tensor& gradient) { return gradient * 2.0; }
Tensor plus_one(const Tensor& gradient) { return gradient + 1.0; }

}  // namespace

TEST_CASE("hook on an intermediate value: its whole gradient, before it flows on") {
  for (const char* name : {"cpu", "reference"}) {
    const OnBackend backend(name);
    const Parameter p(ft::from_vector({2, 3}, {2}));
    std::vector<Tensor> seen;
    const Tensor middle = p * 5.0;
    middle.register_hook(into(seen));
    middle.register_hook(doubled);
    middle.register_hook(plus_one);
    ft::sum(middle * 2.0 + middle * 3.0).backward();
    REQUIRE(seen.size() == 1);
    CHECK(seen[0].to_vector() == Floats{5, 5});
    CHECK(p.grad().to_vector() == Floats{55, 55});  // (5·2 + 1)·5
  }
}

TEST_CASE("hook on a leaf: before its gradient is added to what is there") {
  const OnBackend backend("cpu");
  Parameter p(ft::from_vector({2, 3}, {2}));
  ft::HookHandle on_parameter = p.register_hook(doubled);
  const auto step = [&] {
    ft::sum(p * 3.0 + p).backward();
    return p.grad().to_vector();
  };
  CHECK(step() == Floats{8, 8});
  CHECK(step() == Floats{16, 16});
  p.zero_grad();
  p.set_data(ft::ones({2}));  // it stays with the parameter
  const ft::HookHandle on_version = p.value().register_hook(plus_one);
  CHECK(step() == Floats{9, 9});
  on_parameter.remove();
  p.zero_grad();
  p.set_data(ft::zeros({2}));
  CHECK(step() == Floats{5, 5});

  const Tensor leaf = ft::variable(ft::ones({2}));
  leaf.register_hook(doubled);
  CHECK(ft::grad({ft::sum(leaf * 3.0)}, {leaf})[0].to_vector() == Floats{6, 6});
}

TEST_CASE("hooks with grad(): of what is asked for and what lies on the way") {
  const OnBackend backend("cpu");
  const Parameter p(ft::from_vector({2}, {1}));
  const Tensor middle = p * 3.0, y = ft::sum(middle * middle);
  middle.register_hook(doubled);
  CHECK(ft::grad({y}, {middle}, {}, {.retain_graph = true})[0].to_vector() == Floats{24});
  CHECK(ft::grad({y}, {p.value()}, {}, {.retain_graph = true})[0].to_vector() == Floats{72});
  const std::vector<Tensor> both = ft::grad({y}, {p.value(), middle, middle});
  CHECK(both[0].to_vector() == Floats{72});
  CHECK(both[1].to_vector() == Floats{24});
  CHECK(both[2].to_vector() == Floats{24});
}

TEST_CASE("hooks with create_graph: what they do is differentiated, too") {
  const OnBackend backend("cpu");
  const Tensor x = ft::variable(ft::from_vector({3}, {1}));
  const Tensor y = x * x;
  y.register_hook([&x](const Tensor& gradient) { return gradient * x; });  // dx = 2x·x
  const Tensor first = ft::grad({ft::sum(y)}, {x}, {}, {.create_graph = true})[0];
  CHECK(first.to_vector() == Floats{18});
  CHECK(ft::grad({ft::sum(first)}, {x})[0].to_vector() == Floats{12});
}

TEST_CASE("hooks: inside a checkpoint, removed, removing themselves, asking for values") {
  const OnBackend backend("cpu");
  const Parameter p(ft::from_vector({2}, {1}));
  int calls = 0;
  ft::HookHandle once;
  const auto step = [&] {
    const Tensor loss = ft::sum(ft::checkpoint(
        [&](const Tensor& x) {
          const Tensor inside = ft::exp(x) * x;
          once = inside.register_hook([&](const Tensor& gradient) {
            once.remove();
            ++calls;
            return gradient.item() > 0 ? gradient * 0.0 : Tensor();  // runs what is pending
          });
          return inside * 3.0;
        },
        p.value()));
    loss.backward({.retain_graph = true});
    loss.backward();
    return p.grad().to_vector();
  };
  const float expected = static_cast<float>(3 * (std::exp(2.0) * 2 + std::exp(2.0)));
  CHECK(step()[0] == doctest::Approx(expected));
  CHECK(calls == 1);
}

TEST_CASE("hooks: mistakes") {
  const OnBackend backend("cpu");
  const Parameter p(ft::ones({2}));
  struct Mistake {
    ft::GradientHook hook;
    const char* got;
  };
  const Mistake mistakes[] = {
      {[](const Tensor& g) { return ft::sum(g); }, "got f32 {}"},
      {[](const Tensor& g) { return ft::cast(g, ft::DType::f64); }, "got f64 {2}"},
  };
  for (const Mistake& mistake : mistakes) {
    const Tensor middle = p * 2.0;
    const unsigned line = __LINE__ + 1;
    middle.register_hook(mistake.hook);
    const std::string message = message_of([&] { ft::sum(middle).backward(); });
    CHECK(contains(message, mistake.got));
    CHECK(contains(message, "hooks_test.cpp:" + std::to_string(line)));
  }
  CHECK(contains(message_of([] { ft::ones({2}).register_hook(doubled); }), "does not require"));
  CHECK(contains(message_of([] { Tensor().register_hook(doubled); }), "undefined"));
  CHECK(contains(message_of([&] { p.value().register_hook(nullptr); }), "empty"));
  CHECK(contains(message_of([] { Parameter().register_hook(doubled); }), "empty"));
  const Tensor used = p * 2.0;
  ft::sum(used).backward();
  CHECK(contains(message_of([&] { used.register_hook(doubled); }), "released"));
}

TEST_CASE("hooks: one that starts a backward() over the same graph is told so") {
  const OnBackend backend("cpu");
  const Parameter p(ft::ones({2}));
  const Tensor middle = p * 2.0, loss = ft::sum(middle * middle);
  ft::HookHandle handle = middle.register_hook([&](const Tensor&) {
    loss.backward({.retain_graph = true});
    return Tensor();
  });
  CHECK(contains(message_of([&] { loss.backward({.retain_graph = true}); }), "at work"));
  handle.remove();
  loss.backward();
  CHECK(p.grad().to_vector() == Floats{8, 8});
}
