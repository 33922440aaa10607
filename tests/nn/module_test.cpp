// Modules as C++ objects: moved, replaced, looked up, called with several tensors, hooked; and modules that
// own others.
#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
using namespace fusetape::tests;
using ft::Tensor;

namespace {

struct Net : nn::Module {
  nn::Conv2d conv{{.in = 2, .out = 3, .kernel = 3}};
  nn::BatchNorm2d bn{3};
  std::vector<nn::Linear> heads;
  Net() {
    register_child("conv", conv);
    register_child("bn", bn);
    register_conv_norm(conv, bn);
    for (int i = 0; i < 3; ++i) heads.emplace_back(3, 3);
    for (std::size_t i = 0; i < heads.size(); ++i) register_child("head" + std::to_string(i), heads[i]);
  }
  Tensor forward(const Tensor& x) override {
    Tensor y = ft::global_avg_pool(bn(conv(x)));
    for (nn::Linear& head : heads) y = head(y);
    return y;
  }
};

Net made_elsewhere() {
  Net net;
  net.eval();
  return net;
}

std::vector<std::string> names_of(const nn::Module& module) {
  std::vector<std::string> names;
  for (const auto& [name, parameter] : module.named_parameters()) {
    CHECK(parameter.name() == name);
    names.push_back(name);
  }
  return names;
}

const std::vector<std::string> names_of_net{"conv.weight",  "conv.bias",  "bn.weight",    "bn.bias",
                                            "head0.weight", "head0.bias", "head1.weight", "head1.bias",
                                            "head2.weight", "head2.bias"};

struct Scorer : nn::ModuleOf<Scorer> {
  nn::Linear first{4, 2}, second{3, 2};
  Scorer() {
    register_child("first", first);
    register_child("second", second);
  }
  std::pair<Tensor, Tensor> forward(const Tensor& a, const Tensor& b, double factor = 1) {
    return {first(a), second(b) * factor};
  }
};

/// One tensor in and out, as a ModuleOf.
struct Doubler : nn::ModuleOf<Doubler> {
  Tensor forward(const Tensor& x) override { return x * 2.0; }
};

}  // namespace

TEST_CASE("modules move: a local returned, into a vector, assigned, swapped; what was registered stays so") {
  ft::manual_seed(1);
  Net net = made_elsewhere();
  CHECK_FALSE(net.is_training());
  CHECK_FALSE(net.heads[1].is_training());
  CHECK(names_of(net) == names_of_net);
  const Tensor x = ft::randn({2, 4, 4, 2});
  const std::vector<float> y = net(x).to_vector();

  std::vector<Net> nets;
  nets.push_back(std::move(net));
  for (int i = 0; i < 4; ++i) nets.emplace_back();  // grows, and so moves
  CHECK(names_of(nets[0]) == names_of_net);
  CHECK(nets[0](x).to_vector() == y);
  CHECK(contains(message_of([&] { net(x); }), "got one that was moved from"));

  Net other;
  const ft::Parameter weight = other.conv.weight();
  other = std::move(nets[0]);
  CHECK(names_of(other) == names_of_net);
  CHECK(other(x).to_vector() == y);
  CHECK(other.conv.weight().state() != weight.state());
  CHECK(other.parameters()[0].state() == other.conv.weight().state());

  std::swap(other, nets[1]);
  CHECK(nets[1](x).to_vector() == y);
  nets[1].train();
  CHECK(nets[1].heads[2].is_training());
  CHECK(nn::fold_batch_norm(*std::make_unique<Net>(made_elsewhere())) == 1);  // the pair has moved, too
}

TEST_CASE("a module that is assigned takes the place of the one before: its name, its mode stays its own") {
  Net net;
  net.heads[1] = nn::Linear({.in = 3, .out = 3, .bias = false});
  CHECK(net.heads[1].path() == "head1");
  CHECK(names_of(net).size() == names_of_net.size() - 1);
  CHECK(net.parameter("head1.weight").state() == net.heads[1].weight().state());
  net.conv = nn::Conv2d({.in = 2, .out = 3, .kernel = 1});
  net.eval();
  CHECK(nn::fold_batch_norm(net) == 0);  // nobody said that this convolution feeds the norm
  CHECK(net(ft::ones({1, 2, 2, 2})).shape() == ft::Shape{1, 3});

  // An element of a registered vector goes, and the others move up: into its name.
  const void* const last = net.heads[2].weight().state();
  net.heads.erase(net.heads.begin() + 1);
  CHECK(names_of(net) == std::vector<std::string>{"conv.weight", "conv.bias", "bn.weight", "bn.bias",
                                                  "head0.weight", "head0.bias", "head1.weight",
                                                  "head1.bias"});
  CHECK(net.parameter("head1.weight").state() == last);

  struct Whole : nn::Module {
    nn::Sequential part;
    Whole() { register_child("part", part); }
  };
  Whole* const whole = new Whole;
  auto* const inner = &whole->part.add(nn::Sequential());
  CHECK(contains(message_of([&] { *inner = std::move(whole->part); }), "one that contains it"));
  CHECK(whole->part.size() == 1);
  delete whole;
}

TEST_CASE("a child that was destroyed before its parent is missed, not followed") {
  struct Loose : nn::Module {
    void own(const std::string& name, nn::Module& child) { register_child(name, child); }
  };
  Loose parent;
  {
    nn::Linear linear(2, 2);
    parent.own("fc", linear);
    CHECK(parent.parameter_count() == 6);
  }
  for (const auto& use :
       std::vector<void (*)(Loose&)>{[](Loose& m) { m.parameters(); }, [](Loose& m) { m.eval(); },
                                     [](Loose& m) { m.named_children(); }, [](Loose& m) { m.child("fc"); }}) {
    CHECK(contains(message_of([&] { use(parent); }), "the child \"fc\" was destroyed"));
  }
  nn::Linear orphan(2, 2);
  {
    Loose short_lived;
    short_lived.own("fc", orphan);
  }
  parent.own("other", orphan);  // free again
  CHECK(orphan.path() == "other");
}

TEST_CASE("children and parameters by path") {
  nn::Sequential net(nn::Conv2d({.in = 1, .out = 2, .kernel = 1}),
                     nn::Sequential(nn::ReLU(), nn::Linear(2, 3)));
  CHECK(&net.child("") == &net);
  CHECK(net.child<nn::Linear>("1.1").weight().shape() == ft::Shape{3, 2});
  CHECK(net.parameter("1.1.bias").shape() == ft::Shape{3});
  CHECK(net.child("1").type_name() == "Sequential");
  CHECK(net.child("1.0").type_name() == "Activation<relu>");
  CHECK(Doubler().type_name() == "Doubler");
  const std::pair<const char*, const char*> wrong[] = {
      {"2", "expected one of \"0\", \"1\", got \"2\" in \"2\""},
      {"1.x", "expected one of \"0\", \"1\", got \"x\" in \"1.x\""},
      {"0.weight", "expected one of none, got \"weight\" in \"0.weight\""},
      {"1.", "got \"\" in \"1.\""},
  };
  for (const auto& [path, message] : wrong)
    CHECK(contains(message_of([&, path = path] { net.child(path); }), message));
  CHECK(contains(message_of([&] { net.child<nn::Linear>("0"); }),
                 "expected another type, got Conv2d at \"0\""));
  CHECK(contains(message_of([&] { net.parameter("1.1.wieght"); }), "got \"1.1.wieght\""));
  const nn::Sequential& fixed = net;
  CHECK(fixed.parameter("0.bias").shape() == ft::Shape{2});
}

TEST_CASE(
    "apply visits children first; a whole model is frozen and thawed; a weight is set where it stands") {
  nn::Sequential net(nn::Linear(2, 2), nn::Sequential(nn::ReLU(), nn::Linear(2, 2)));
  std::vector<std::string> seen;
  net.apply([&](nn::Module& module) {
    seen.push_back(module.path());
    if (auto* const linear = dynamic_cast<nn::Linear*>(&module)) linear->bias().set_data(ft::full({2}, 0.5));
  });
  CHECK(seen == std::vector<std::string>{"0", "1.0", "1.1", "1", ""});
  CHECK(net.parameter("1.1.bias").value().to_vector() == std::vector<float>(2, 0.5F));
  net.set_requires_grad(false);
  CHECK_FALSE(net(ft::ones({1, 2})).requires_grad());
  net.set_requires_grad(true);
  CHECK(net(ft::ones({1, 2})).requires_grad());
}

TEST_CASE("a module of several tensors is called as its forward() is") {
  Scorer scorer;
  const auto [a, b] = scorer(ft::ones({2, 4}), ft::ones({5, 3}));
  CHECK(a.shape() == ft::Shape{2, 2});
  CHECK(b.shape() == ft::Shape{5, 2});
  const auto [c, twice] = scorer(ft::ones({2, 4}), ft::ones({5, 3}), 2.0);
  CHECK(twice.to_vector() == (b * 2.0).to_vector());
  CHECK(scorer.parameters().size() == 4);
  CHECK(contains(message_of([&] { scorer.first(ft::ones({2, 3})); }), "first"));
  Scorer moved = std::move(scorer);
  CHECK(std::get<0>(moved(ft::ones({2, 4}), ft::ones({5, 3}))).to_vector() == a.to_vector());
  const std::string unowned = message_of([&] {
    struct Caller : nn::Module {
      Scorer& inner;
      explicit Caller(Scorer& other) : inner(other) {}
      Tensor forward(const Tensor& x) override { return inner(x, x).first; }
    };
    Caller{moved}(ft::ones({2, 4}));
  });
  CHECK(contains(unowned, "expected a module that is registered"));
  nn::Sequential chain{Doubler(), Doubler()};
  CHECK(chain(ft::ones({2})).to_vector() == std::vector<float>(2, 4));
}

TEST_CASE("forward hooks see each call, may replace its result, and are removed") {
  nn::Sequential net{Doubler(), nn::Identity()};
  std::vector<std::string> seen;
  auto watch = net[0].register_forward_hook([&](nn::Module& module, const Tensor& x, const Tensor& y) {
    seen.push_back(module.path() + ": " + ft::to_string(x.shape()) + " → " + std::to_string(y.sum().item()));
    return Tensor();
  });
  CHECK(net(ft::ones({2})).to_vector() == std::vector<float>(2, 2));
  CHECK(seen == std::vector<std::string>{"0: {2} → 4.000000"});
  nn::ForwardHookHandle add = net[1].register_forward_hook([&](nn::Module&, const Tensor&, const Tensor& y) {
    add.remove();  // while it runs
    return y + 1.0;
  });
  CHECK(net(ft::ones({2})).to_vector() == std::vector<float>(2, 3));
  watch.remove();
  watch.remove();
  CHECK(net(ft::ones({2})).to_vector() == std::vector<float>(2, 2));
  CHECK(seen.size() == 2);
  Doubler direct;
  direct.register_forward_hook([](nn::Module&, const Tensor& x, const Tensor&) { return x; });
  CHECK(direct(ft::ones({1})).item() == 1);
  Scorer scorer;
  scorer.register_forward_hook([](nn::Module&, const Tensor& x, const Tensor&) { return x; });
  CHECK(contains(message_of([&] {
                   scorer(ft::ones({2, 4}), ft::ones({5, 3}));
                 }),
                 "expected no forward hook"));
  CHECK(
      contains(message_of([&] { net.register_forward_hook({}); }), "expected a function, got an empty one"));
}

TEST_CASE("lists, dictionaries and residual connections own their parts") {
  nn::ModuleList list;
  list.add(nn::Linear(2, 3));
  list.emplace<nn::Linear>(3, 4);
  CHECK(list.size() == 2);
  Tensor y = ft::ones({1, 2});
  struct Caller : nn::Module {
    nn::ModuleList layers;
    explicit Caller(nn::ModuleList list) : layers(std::move(list)) { register_child("layers", layers); }
    Tensor forward(const Tensor& x) override {
      Tensor y = x;
      for (const auto& layer : layers) y = (*layer)(y);
      return y;
    }
  };
  Caller caller(std::move(list));
  CHECK(caller(y).shape() == ft::Shape{1, 4});
  CHECK(caller.parameters()[2].name() == "layers.1.weight");
  CHECK(contains(message_of([&] { caller.layers[2]; }),
                 "[ModuleList] expected the number of one of 2 modules"));
  CHECK(contains(message_of([&] { caller.layers(y); }), "does not define forward(x)"));

  nn::ModuleDict heads;
  heads.add("digits", nn::Linear(2, 10));
  heads.add("letters", nn::Linear(2, 26));
  CHECK(heads.at("letters")(y).shape() == ft::Shape{1, 26});
  CHECK(heads.contains("digits"));
  CHECK_FALSE(heads.contains("words"));
  CHECK(heads.size() == 2);
  CHECK(contains(message_of([&] { heads.at("words"); }), "expected one of \"digits\", \"letters\""));
  CHECK(contains(message_of([&] { heads.add("digits", nn::Identity()); }), "registered twice"));
  CHECK(
      contains(message_of([&] { heads.append("x", nullptr); }), "[ModuleDict] expected a module, got null"));
  CHECK(heads.size() == 2);

  nn::Residual plain{Doubler()};
  CHECK(plain(ft::ones({2})).to_vector() == std::vector<float>(2, 3));
  nn::Residual projected(Doubler(), nn::Linear(2, 2));
  CHECK(projected.parameter("shortcut.weight").shape() == ft::Shape{2, 2});
  CHECK(contains(message_of([] { nn::Residual(nullptr, nullptr); }), "[Residual] expected a body, got null"));
}

TEST_CASE(
    "what a container refuses leaves it as it was; a destroyed child's name is free; hooks keep a pair "
    "apart") {
  nn::Sequential net{nn::Conv2d({.in = 1, .out = 4, .kernel = 1})};
  CHECK(contains(message_of([&] { net.add(nn::BatchNorm2d(3)); }), "expected a batch norm of 4 channels"));
  CHECK(net.parameters().size() == 2);
  net.add(nn::BatchNorm2d(4));
  net.eval();
  net[0].register_forward_hook([](nn::Module&, const Tensor&, const Tensor& y) { return y + 1.0; });
  CHECK(nn::fold_batch_norm(net) == 0);

  struct Loose : nn::Module {
    void own(nn::Module& child) { register_child("fc", child); }
  } parent;
  {
    nn::Linear gone(2, 2);
    parent.own(gone);
  }
  nn::Linear next(2, 3);
  parent.own(next);
  CHECK(parent.parameter_count() == 9);
  Doubler doubler;
  const ft::Parameter p(ft::ones({2}));
  doubler.register_forward_hook([](nn::Module&, const Tensor&, const Tensor& y) { return y + 1.0; });
  CHECK(doubler(p).to_vector() == std::vector<float>(2, 3));
}

TEST_CASE("the last norms of residual blocks may start at zero: a network begins as its shortcuts") {
  auto net = nn::ResNet({.blocks = {1, 1}, .width = 4, .zero_gamma = true});
  CHECK(net.parameter("stages.1.0.bn2.weight").value().to_vector() == std::vector<float>(8, 0));
  CHECK(net.parameter("stages.1.0.bn1.weight").value().to_vector() == std::vector<float>(8, 1));
}
