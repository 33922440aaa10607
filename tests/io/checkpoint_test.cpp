// Checkpoints: the same gradients, to the bit, from less memory.
#include <doctest/doctest.h>

#include <functional>
#include <memory>
#include <stdexcept>

#include "core/tape/tape.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Parameter;
using ft::Tensor;
using fusetape::tests::contains;
using fusetape::tests::Eager;
using fusetape::tests::OnBackend;
using Floats = std::vector<float>;
using Tensors = std::vector<Tensor>;

namespace {

Tensor some_values(const ft::Shape& shape, int stride = 7919) {
  Floats data(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < data.size(); ++i)
    data[i] = static_cast<float>(i * static_cast<std::size_t>(stride) % 97) / 48.5f - 1;
  return ft::from_vector(data, shape);
}

Tensor image() { return some_values({2, 5, 5, 4}); }
constexpr ft::Conv2dOptions same{.padding = {1, 1}};

/// What every program below may use: leaves, and running statistics.
struct Leaves {
  Parameter x{image()}, w{some_values({4, 3, 3, 4}, 31)};
  Parameter gamma{some_values({4}, 13)}, beta{some_values({4}, 17)}, square{some_values({4, 4}, 41)};
  ft::Cell running_mean{ft::zeros({4})}, running_var{ft::ones({4})};

  std::vector<Parameter> all() const { return {x, w, gamma, beta, square}; }
  Tensor block(const Tensor& input) {
    const ft::BatchNormResult normal =
        ft::batch_norm(ft::conv2d(input, w, same), gamma, beta, running_mean.value(), running_var.value());
    running_mean.set_data(normal.running_mean);
    running_var.set_data(normal.running_var);
    return ft::relu(normal.y);
  }
};

using Segment = std::function<Tensors(Leaves&, const Tensors&)>;

/// checkpoint(), or a plain call.
Tensors call(bool checkpointed, const std::function<Tensors(const Tensors&)>& fn, const Tensors& inputs) {
  return checkpointed ? ft::checkpoint(fn, inputs) : fn(inputs);
}

struct Program {
  const char* name;
  Segment segment;
  bool constant_input = false;
};

const std::vector<Program>& programs() {
  static const std::vector<Program> all = {
      {"conv, batch norm, relu, twice over, and the running statistics",
       [](Leaves& l, const Tensors& in) { return Tensors{l.block(l.block(in[0]))}; }},
      {"nothing before the segment needs a gradient",
       [](Leaves& l, const Tensors& in) { return Tensors{l.block(l.block(in[0]))}; }, true},
      {"a residual", [](Leaves& l, const Tensors& in) { return Tensors{ft::relu(l.block(in[0]) + in[0])}; }},
      {"pointwise",
       [](Leaves&, const Tensors& in) {
         return Tensors{ft::tanh(in[0] * ft::exp(in[0])) * ft::sigmoid(in[0] + 1.0)};
       }},
      {"dropout drops the same elements again",
       [](Leaves&, const Tensors& in) { return Tensors{ft::dropout(ft::exp(in[0]), 0.4) * in[0]}; }},
      {"matrix products",
       [](Leaves& l, const Tensors& in) {
         return Tensors{ft::gelu(ft::linear(ft::gelu(ft::linear(in[0], l.square, l.beta)), l.square))};
       }},
      {"two results, one of them an input",
       [](Leaves& l, const Tensors& in) {
         return Tensors{l.block(in[0]) * in[0], in[0]};
       }},
      {"two results that share a part",
       [](Leaves& l, const Tensors& in) {
         const Tensor shared = ft::exp(in[0] * 0.5);
         return Tensors{shared * l.gamma, ft::tanh(shared) * l.beta};
       }},
      {"a part that carries no gradient",
       [](Leaves&, const Tensors& in) {
         const Tensor chosen = ft::cast(ft::greater(in[0] * 2.0, 0.25), ft::DType::f32).detach();
         return Tensors{ft::exp(in[0]) * chosen};
       }},
      {"nested",
       [](Leaves& l, const Tensors& in) {
         const Tensor inner = ft::checkpoint(
             [&](const Tensor& x) { return ft::tanh(ft::exp(l.block(x)) * 0.1); }, ft::exp(in[0]));
         return Tensors{ft::tanh(inner * in[0]) * inner};
       }},
      {"autocast inside, over before backward",
       [](Leaves& l, const Tensors& in) {
         const ft::Autocast scope(ft::DType::bf16);
         return Tensors{ft::cast(l.block(l.block(in[0])), ft::DType::f32)};
       }},
      {"a value asked for inside",
       [](Leaves& l, const Tensors& in) {
         const Tensor first = ft::exp(in[0]) * l.gamma;
         const double scale = ft::sum(first).item() > 0 ? 0.5 : 2.0;
         return Tensors{ft::tanh(first * scale) * first};
       }},
      {"gradients taken inside",
       [](Leaves&, const Tensors& in) {
         const Tensor y = ft::sum(ft::exp(in[0]) * ft::tanh(in[0]));
         return Tensors{ft::grad({y}, {in[0]}, {}, {.create_graph = true})[0] * in[0]};
       }},
      {"gradients taken inside, of a nested segment",
       [](Leaves& l, const Tensors& in) {
         const Tensor y = ft::sum(ft::checkpoint(
             [&](const Tensor& x) { return ft::tanh(ft::exp(x) * l.gamma) * x; }, ft::tanh(in[0])));
         return Tensors{ft::grad({y}, {in[0]}, {}, {.create_graph = true})[0] * in[0]};
       }},
  };
  return all;
}

enum class Mode { one_run, item_first, eager, twice, unfused };
constexpr Mode modes[] = {Mode::one_run, Mode::item_first, Mode::eager, Mode::twice, Mode::unfused};

/// Every gradient and what the segment changed, in order.
std::vector<Floats> train(const Program& program, bool checkpointed, Mode mode) {
  const Eager eager(mode == Mode::eager);
  const fusetape::tests::Fusion fusion(mode != Mode::unfused);
  ft::manual_seed(5);
  Leaves leaves;
  const Tensor x = program.constant_input ? image() : leaves.x.value();
  const Tensors results =
      call(checkpointed, [&](const Tensors& in) { return program.segment(leaves, in); }, {x});
  Tensor loss = ft::scalar(0);
  for (const Tensor& y : results) loss = loss + ft::mean(y * y) + ft::mean(ft::tanh(y));  // used twice
  if (mode == Mode::item_first) loss.item();
  if (mode == Mode::twice) {
    loss.backward({.retain_graph = true});
    ft::materialize();
  }
  loss.backward();
  std::vector<Floats> out{loss.to_vector(), leaves.running_mean.value().to_vector(),
                          leaves.running_var.value().to_vector()};
  for (const Parameter& leaf : leaves.all()) {
    out.push_back(leaf.grad().defined() ? leaf.grad().to_vector() : Floats{});
  }
  return out;
}

/// Twelve times conv, batch norm and ReLU.
struct Deep {
  struct Layer : ft::nn::Module {
    ft::nn::Conv2d conv{{.in = 8, .out = 8, .kernel = 3, .padding = 1, .bias = false}};
    ft::nn::BatchNorm2d bn{8};
    Layer() { register_child("conv", conv), register_child("bn", bn); }
    Tensor forward(const Tensor& x) override { return ft::relu(bn(conv(x))); }
  };
  Layer layers[12];
  ft::nn::Linear head{8, 3};

  std::vector<Parameter> parameters() {
    std::vector<Parameter> all = head.parameters();
    for (Layer& layer : layers) {
      for (const Parameter& parameter : layer.parameters()) all.push_back(parameter);
    }
    return all;
  }
  Tensor loss(int segments) {
    Tensor x = some_values({4, 8, 8, 8});
    const int length = segments == 0 ? 12 : 12 / segments;
    for (int first = 0; first < 12; first += length) {
      const auto part = [&](const Tensor& from) {
        Tensor y = from;
        for (int i = first; i < first + length; ++i) y = layers[i](y);
        return y;
      };
      x = segments == 0 ? part(x) : ft::checkpoint(part, x);
    }
    const Tensor labels = ft::from_vector(std::vector<std::int64_t>{0, 1, 2, 1}, {4});
    return ft::cross_entropy(head(ft::global_avg_pool(x)), labels);
  }
};

struct DeepResult {
  std::vector<Floats> gradients;
  std::int64_t kept = 0, peak = 0;
};

DeepResult train_deep(int segments, bool item_first) {
  ft::manual_seed(9);
  Deep net;
  const Tensor loss = net.loss(segments);
  DeepResult out;
  if (item_first) {
    loss.item();
    out.kept = ft::explain().kept_bytes;
  }
  loss.backward();
  ft::materialize();
  if (!item_first) out.kept = ft::explain().kept_bytes;
  out.peak = ft::explain().peak_bytes;
  for (const Parameter& parameter : net.parameters()) out.gradients.push_back(parameter.grad().to_vector());
  for (Deep::Layer& layer : net.layers) out.gradients.push_back(layer.bn.running_var().value().to_vector());
  return out;
}

}  // namespace

TEST_CASE("checkpoint: gradients and running statistics are those without it, to the bit") {
  for (const char* name : {"cpu", "reference"}) {
    const OnBackend backend(name);
    for (const Program& program : programs()) {
      for (const Mode mode : modes) {
        CAPTURE(name);
        CAPTURE(program.name);
        CAPTURE(static_cast<int>(mode));
        CHECK(train(program, true, mode) == train(program, false, mode));
      }
    }
  }
}

TEST_CASE("checkpoint: twelve layers in four segments keep less than half, and peak lower") {
  const OnBackend backend("cpu");
  for (const bool item_first : {false, true}) {
    CAPTURE(item_first);
    const DeepResult plain = train_deep(0, item_first), four = train_deep(4, item_first);
    CHECK(four.gradients == plain.gradients);
    CHECK(four.kept * 2 < plain.kept);
    if (!item_first) CHECK(four.peak < plain.peak);
  }
}

TEST_CASE("checkpoint: after item() only what enters the segment is held, and backward() lets go of it") {
  const OnBackend backend("cpu");
  const std::int64_t rows = 64, columns = 256, tensor = rows * columns * 4;
  const Parameter p(some_values({rows, columns}));
  const auto held = [&](bool checkpointed, bool inside_too) {
    const std::int64_t before = ft::memory_stats().pool_bytes;
    std::int64_t between = 0;
    {
      const Tensor entering = ft::exp(p.value() + 0.0);
      const Tensor y = call(checkpointed,
                            [&](const Tensors& in) {
                              Tensor x = in[0];
                              for (int i = 0; i < 6; ++i) x = ft::tanh(x * x);
                              if (inside_too) CHECK(ft::sum(x).item() != 0);
                              return Tensors{ft::sum(x)};
                            },
                            {entering})[0];
      y.item();
      between = ft::memory_stats().pool_bytes - before;
      y.backward();
      ft::materialize();
    }
    Parameter(p).zero_grad();
    CHECK(ft::memory_stats().pool_bytes == before);
    return static_cast<double>(between) / static_cast<double>(tensor);
  };
  CHECK(held(false, false) > 6);
  // `entering` is a live handle and exp's save at once.
  CHECK(held(true, false) < 1.1);
  CHECK(held(true, true) < 1.1);
}

TEST_CASE("checkpoint: each backward() computes a segment again, once") {
  const OnBackend backend("null");
  const auto count = [](const char* name) {
    int found = 0;
    for (const ft::GroupReport& group : ft::explain().groups) found += group.name == name ? 1 : 0;
    return found;
  };
  const fusetape::tests::Fusion off(false);
  int calls = 0;
  const Parameter x(ft::ones({3}));
  const Tensor loss = ft::sum(ft::checkpoint(
      [&](const Tensor& in) {
        ++calls;
        const Tensor e = ft::exp(in);
        return e * e + e * in;
      },
      x.value()));
  loss.backward({.retain_graph = true});
  loss.backward();
  ft::materialize();
  CHECK(calls == 1);
  CHECK(count("exp") == 3);
}

TEST_CASE("checkpoint: gradients of gradients are those without it, to the bit") {
  struct Case {
    const char* name;
    double hook;      ///< a hook on the value inside multiplies its gradient by this; 1: no hook
    bool inside_too;  ///< the value inside is handed out, and gradients are wanted of it, too
    bool nested;
    int segments = 1;  ///< one after the other
  };
  const Case cases[] = {{"plain", 1, false, false},
                        {"a hook inside", 0.5, false, false},
                        {"a value inside", 1, true, false},
                        {"nested", 1, false, true},
                        {"nested, a hook inside", 3, true, true},
                        {"three in a row", 0.5, true, true, 3}};
  const auto second = [](const Case& c, bool checkpointed, bool item_between) {
    const Tensor w = ft::variable(some_values({4, 4}, 31));
    const Tensor x = ft::variable(some_values({3, 4}));
    Tensors wanted = {x, w};
    const auto layer = [&](const Tensors& in) {
      const Tensor h = ft::tanh(ft::matmul(in[0], w));
      if (c.hook != 1) h.register_hook([&](const Tensor& gradient) { return gradient * c.hook; });
      if (c.inside_too) wanted.push_back(h);
      return Tensors{h * ft::exp(h) * in[0]};
    };
    const auto segment = [&](const Tensors& in) {
      return c.nested ? Tensors{call(checkpointed, layer, {ft::sigmoid(in[0])})[0] * in[0]} : layer(in);
    };
    Tensor y = x;
    for (int i = 0; i < c.segments; ++i) y = call(checkpointed, segment, {y})[0];
    const Tensors first = ft::grad({ft::sum(y * y)}, wanted, {}, {.create_graph = true});
    Tensor penalty = ft::scalar(0);
    for (const Tensor& gradient : first) penalty = penalty + ft::sum(gradient * gradient);
    if (item_between) penalty.item();
    std::vector<Floats> out;
    for (const Tensor& gradient : ft::grad({penalty}, wanted)) out.push_back(gradient.to_vector());
    return out;
  };
  for (const char* name : {"reference", "cpu"}) {
    const OnBackend backend(name);
    for (const Case& c : cases) {
      for (const bool eager : {false, true}) {
        for (const bool item_between : {false, true}) {
          const Eager mode(eager);
          CAPTURE(name);
          CAPTURE(c.name);
          CAPTURE(eager);
          CAPTURE(item_between);
          CHECK(second(c, true, item_between) == second(c, false, item_between));
        }
      }
    }
  }
}

TEST_CASE("checkpoint: values handed out by other ways, and both results' gradients one by one") {
  const OnBackend backend("cpu");
  const auto run = [](bool checkpointed, bool item_first) {
    const Parameter p(some_values({5})), q(some_values({5}, 31));
    Tensor inside;
    const Tensors both = call(checkpointed,
                              [&](const Tensors& in) {
                                inside = ft::exp(in[0]);
                                return Tensors{ft::tanh(inside * inside), ft::exp(ft::tanh(q.value()))};
                              },
                              {p.value()});
    const Tensor third = ft::sum(ft::tanh(inside) * inside);
    if (item_first) third.item();
    ft::sum(both[1]).backward();  // shares no history with the others
    ft::sum(both[0]).backward({.retain_graph = true});
    third.backward();
    return std::vector<Floats>{p.grad().to_vector(), q.grad().to_vector()};
  };
  for (const bool item_first : {false, true}) CHECK(run(true, item_first) == run(false, item_first));
}

TEST_CASE("checkpoint: without history it is a plain call; an exception leaves the tape in order") {
  const OnBackend backend("cpu");
  const Parameter p(some_values({4}));
  const auto square = [](const Tensor& x) { return x * x; };
  CHECK_FALSE(ft::no_grad([&] { return ft::checkpoint(square, p.value()); }).requires_grad());
  Tensor inside;
  const auto throwing = [&](const Tensor& x) -> Tensor {
    inside = ft::exp(x) * x;
    throw std::runtime_error("from fn");
  };
  CHECK_THROWS_WITH_AS(ft::checkpoint(throwing, p.value()), "from fn", std::runtime_error);
  CHECK(ft::core::Tape::current().segment == nullptr);
  using fusetape::tests::message_of;
  const std::function<Tensor(const Tensor&)> none;
  CHECK(contains(message_of([&] { ft::checkpoint(none, p.value()); }), "fn is empty"));
  CHECK(contains(message_of([&] { ft::checkpoint(square, Tensor()); }), "checkpoint_test.cpp"));
  const Tensor before = ft::sum(inside);
  before.backward();
  const Floats checkpointed = p.grad().to_vector();
  Parameter(p).zero_grad();
  ft::sum(ft::exp(p) * p).backward();
  CHECK(p.grad().to_vector() == checkpointed);
}

TEST_CASE("checkpoint: the versions that were read, also after an update in between") {
  const OnBackend backend("cpu");
  Parameter p(some_values({4}));
  const Floats old = p.value().to_vector();
  const Tensor loss =
      ft::sum(ft::checkpoint([&](const Tensor& x) { return ft::exp(x * p) * p; }, ft::ones({4})));
  loss.item();
  p.set_data(ft::zeros({4}));
  loss.backward();
  const Parameter fresh(ft::from_vector(old, {4}));
  ft::sum(ft::exp(fresh * 1.0) * fresh).backward();
  CHECK(p.grad().to_vector() == fresh.grad().to_vector());
}

TEST_CASE("checkpoint: thousands in a row are freed without recursion, and each step is one plan") {
  const OnBackend backend("cpu");
  const Parameter p(ft::ones({1}));
  {
    Tensor x = p.value();
    for (int i = 0; i < 15'000; ++i) x = ft::checkpoint([](const Tensor& from) { return ft::tanh(from); }, x);
    CHECK(x.item() > 0);
  }
  ft::CacheStats settled{};
  ft::optim::SGD sgd({p}, {.lr = 0.1});
  for (int step = 0; step < 5; ++step) {
    if (step == 2) settled = ft::plan_cache_stats();
    sgd.zero_grad();
    ft::sum(ft::checkpoint([](const Tensor& x) { return ft::tanh(ft::exp(x)); }, p.value())).backward();
    sgd.step();
  }
  CHECK(ft::plan_cache_stats().misses == settled.misses);
}
