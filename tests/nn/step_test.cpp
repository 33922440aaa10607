// What an optimizer's step does beside its rule: limits on gradients, what is not finite, lookahead; and the
// rules that are made of several ops or have no test elsewhere: NAdam, Muon, one's own.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "scratch_folder.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
namespace optim = fusetape::optim;
using namespace fusetape::tests;
using ft::Parameter;
using ft::Tensor;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// f(0), f(1), … as f64.
template <class F>
Tensor table(std::int64_t n, F f) {
  Numbers numbers;
  for (std::int64_t i = 0; i < n; ++i) numbers.push_back(f(static_cast<double>(i)));
  return ft::from_doubles(numbers, {n}, ft::DType::f64);
}

Numbers numbers_of(const std::vector<Parameter>& parameters) {
  Numbers all;
  for (const Parameter& p : parameters) {
    for (const double x : p.value().to_vector<double>()) all.push_back(x);
  }
  return all;
}

/// A convolution and a norm, of which a batch with a NaN spoils gradients and statistics.
struct Net {
  nn::Sequential model{nn::Conv2d({.in = 2, .out = 3, .kernel = 3, .padding = 1}), nn::BatchNorm2d(3),
                       nn::GlobalAvgPool()};

  void backward(float spoilt) {
    ft::manual_seed(7);
    Tensor x = ft::randn({2, 4, 4, 2});
    x += spoilt;
    model.zero_grad();
    model(x).sum().backward();
  }
  std::vector<Tensor> cells() {
    std::vector<Tensor> all;
    for (const Parameter& p : model.parameters()) all.push_back(p.value());
    for (const auto& [name, buffer] : model.named_buffers()) all.push_back(buffer.value());
    return all;
  }
  Numbers numbers() {
    Numbers all;
    for (const Tensor& cell : cells()) {
      for (const double x : cell.to_vector<double>()) all.push_back(x);
    }
    return all;
  }
};

/// Newton and Schulz's iteration in doubles, of a matrix with at most as many rows as columns.
using Matrix = std::vector<Numbers>;
Matrix times(const Matrix& a, const Matrix& b, bool transpose_b) {
  const std::size_t inner = a[0].size(), columns = transpose_b ? b.size() : b[0].size();
  Matrix c(a.size(), Numbers(columns, 0.0));
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      for (std::size_t k = 0; k < inner; ++k) c[i][j] += a[i][k] * (transpose_b ? b[j][k] : b[k][j]);
    }
  }
  return c;
}
Matrix orthogonalised(Matrix x) {
  double norm = 0;
  for (const Numbers& row : x) {
    for (const double e : row) norm += e * e;
  }
  for (Numbers& row : x) {
    for (double& e : row) e /= std::sqrt(norm) + 1e-7;
  }
  for (int round = 0; round < 5; ++round) {
    const Matrix a = times(x, x, true), aa = times(a, a, false), ax = times(a, x, false),
                 aax = times(aa, x, false);
    for (std::size_t i = 0; i < x.size(); ++i) {
      for (std::size_t j = 0; j < x[i].size(); ++j)
        x[i][j] = 3.4445 * x[i][j] - 4.7750 * ax[i][j] + 2.0315 * aax[i][j];
    }
  }
  return x;
}

/// Lion (Chen et al. 2023), as docs/training.md shows an optimizer of one's own.
class Lion : public optim::Optimizer {
 public:
  explicit Lion(std::vector<Parameter> parameters, double lr, ft::Location at = ft::Location::current())
      : Optimizer("Lion", std::move(parameters), lr, 0, at), momenta_(make_state("momentum", at)) {
    set_guards(0.5, optim::NonFinite::skip, at);
  }

 protected:
  void begin_step(ft::Location) override {}
  void update(std::size_t index, const Tensor& gradient, Bindings& bindings, ft::Location) override {
    const Tensor m = momenta_[index].value(), p = parameters()[index].value();
    const Tensor mixed = m * 0.9 + gradient * 0.1;
    const Tensor sign = ft::where(ft::greater(mixed, 0.0), ft::ones(p.shape()), ft::full(p.shape(), -1));
    bindings.emplace_back(momenta_[index], m * 0.99 + gradient * 0.01);
    bindings.emplace_back(parameters()[index], p - sign * learning_rate());
  }
  void end_step() override {}

 private:
  std::vector<ft::Cell> momenta_;
};

}  // namespace

TEST_CASE("NAdam is PyTorch's, to 1e-12 over twelve steps") {
  const std::pair<const char*, optim::NAdamOptions> cases[] = {
      {"nadam", {.lr = 0.01}},
      {"nadam_coupled",
       {.lr = 0.02, .beta1 = 0.8, .beta2 = 0.95, .weight_decay = 0.1, .momentum_decay = 0.1}},
      {"nadam_decoupled", {.lr = 0.02, .weight_decay = 0.1, .decoupled = true}},
  };
  const OnBackend reference("reference");
  for (const auto& [name, options] : cases) {
    CAPTURE(name);
    std::ifstream file(std::string(FUSETAPE_TESTS_DIR) + "/data/optimizers_pytorch.txt");
    Numbers expected;
    for (std::string line; std::getline(file, line);) {
      std::istringstream words(line);
      std::string first;
      words >> first;
      if (first != name) continue;
      for (double x = 0; words >> x;) expected.push_back(x);
    }
    REQUIRE(expected.size() == 8);
    std::vector<Parameter> parameters;
    for (const std::int64_t n : {5, 3})
      parameters.emplace_back(table(n, [](double i) { return std::sin(i); }));
    optim::NAdam nadam(parameters, options);
    for (int step = 0; step < 12; ++step) {
      for (const Parameter& p : parameters)
        p.set_grad(table(p.shape()[0], [step](double i) { return std::cos(i * (step + 1)); }));
      nadam.step();
    }
    CHECK(difference(numbers_of(parameters), expected) <= 1e-12);
  }
  CHECK(contains(message_of([] { optim::NAdam({Parameter(ft::ones({2}))}, {.momentum_decay = -1}); }),
                 "expected a finite momentum_decay ≥ 0, got -1"));
}

TEST_CASE("Muon's update is the orthogonalised momentum, of filters as matrices, tall and wide") {
  const OnBackend reference("reference");
  for (const ft::Shape& shape : {ft::Shape{3, 5}, {6, 4}, {4, 2, 2, 3}}) {
    for (const int variant : {0, 1, 2, 3}) {
      const bool match_adam = variant % 2 == 1, normalize = variant > 1;
      CAPTURE(shape);
      CAPTURE(variant);
      const std::int64_t count = shape.elements(), rows = shape[0], columns = count / rows;
      const Parameter p(table(count, [](double i) { return std::sin(i); }).reshape(shape));
      optim::Muon muon({p}, {.lr = 0.1,
                             .momentum = 0.9,
                             .weight_decay = 0.5,
                             .match_adam = match_adam,
                             .normalize = normalize});
      Numbers expected = p.value().to_vector<double>(), v(expected.size(), 0.0);
      for (int step = 0; step < 3; ++step) {
        const Tensor g = table(count, [step](double i) { return std::cos(i * i + step); }).reshape(shape);
        p.set_grad(g);
        muon.step();
        const Numbers gradient = g.to_vector<double>();
        const bool turn = rows > columns;
        Matrix u(static_cast<std::size_t>(std::min(rows, columns)),
                 Numbers(static_cast<std::size_t>(std::max(rows, columns))));
        const auto at = [&](std::size_t i) -> double& {
          const std::size_t r = i / static_cast<std::size_t>(columns),
                            c = i % static_cast<std::size_t>(columns);
          return turn ? u[c][r] : u[r][c];
        };
        for (std::size_t i = 0; i < v.size(); ++i) {
          v[i] = 0.9 * v[i] + gradient[i];
          at(i) = 0.9 * v[i] + gradient[i];
        }
        u = orthogonalised(u);
        const auto tall = static_cast<double>(rows), wide = static_cast<double>(columns);
        const double scale =
            match_adam ? 0.2 * std::sqrt(std::max(tall, wide)) : std::sqrt(std::max(1.0, tall / wide));
        double squares = 0;
        for (const double x : expected) squares += x * x;
        const double factor = normalize ? std::sqrt(tall) / (std::sqrt(squares) + 1e-7) : 1;
        for (std::size_t i = 0; i < v.size(); ++i)
          expected[i] = (1 - 0.1 * 0.5) * factor * expected[i] - 0.1 * scale * at(i);
      }
      CHECK(difference(numbers_of({p}), expected) <= 1e-12);
    }
  }
  const std::string message = message_of([] {
    optim::Muon({Parameter(ft::ones({2, 2}), "w"), Parameter(ft::ones({2}), "b")});
  });
  CHECK(contains(message, "expected parameters of two axes and more, got {2} in \"b\""));
}

TEST_CASE(
    "Muon takes large and small gradients in 16 bits, an empty matrix and groups, and goes on from a "
    "checkpoint") {
  const auto moved = [](ft::DType dtype, double size) {
    // Whose squares sum to more than f16 has.
    const Parameter p(ft::from_doubles(Numbers{300, 0, 0, 0, 0, -400}, {2, 3}, dtype));
    const Parameter empty(ft::zeros({0, 3}, dtype)), zero(ft::zeros({2, 3}, dtype));
    zero.set_grad(ft::zeros({2, 3}, dtype));
    p.set_grad(ft::from_doubles(Numbers{3 * size, 0, 0, 0, 4 * size, 0}, {2, 3}, dtype));
    empty.set_grad(ft::zeros({0, 3}, dtype));
    optim::Muon({p, empty, zero}, {.lr = 1, .normalize = true}).step();
    CHECK(zero.value().to_vector<double>() == Numbers(6, 0.0));
    return p.value().to_vector<double>();
  };
  for (const double size : {1e-6, 100.0})  // 1/size leaves the range of f16 as much as size² does
    CHECK(difference(moved(ft::DType::f16, size), moved(ft::DType::f32, size)) <= 2e-2);

  const ScratchFolder scratch;
  std::filesystem::create_directories(scratch.path());
  const std::string file = (scratch.path() / "muon.safetensors").string();
  const auto run = [&](bool resumed) {
    ft::manual_seed(1);
    nn::Linear layer({.in = 4, .out = 3, .bias = false});
    optim::ParameterGroup slower{
        .where = [](const Parameter&) { return true; }, .lr_factor = 0.5, .momentum = 0.8};
    optim::Muon muon(layer.parameters(),
                     {.lr = 0.1, .weight_decay = 0.1, .normalize = true, .groups = {slower}});
    if (resumed) ft::io::load_checkpoint(file, {.model = &layer, .optimizer = &muon});
    for (int step = resumed ? 2 : 0; step < 4; ++step) {
      if (step == 2 && !resumed) ft::io::save_checkpoint(file, {.model = &layer, .optimizer = &muon});
      layer.weight().set_grad(ft::arange(12).reshape({3, 4}) * (step + 1.0));
      muon.step();
    }
    return layer.weight().value().to_vector();
  };
  const std::vector<float> whole = run(false);
  CHECK(run(true) == whole);
}

TEST_CASE("Muon trains on the planned backend, one plan for all steps") {
  ft::manual_seed(3);
  nn::Linear layer({.in = 6, .out = 4, .bias = false});
  optim::Muon muon(layer.parameters(), {.lr = 0.1});
  const Tensor x = ft::randn({16, 6}), target = ft::matmul(x, ft::randn({6, 4}));
  Numbers losses;
  std::int64_t misses = 0;
  for (int step = 0; step < 30; ++step) {
    muon.zero_grad();
    const Tensor loss = ft::mse_loss(layer(x), target);
    loss.backward();
    CHECK(muon.step());
    losses.push_back(loss.item());
    if (step == 1) misses = ft::plan_cache_stats().misses;
  }
  CHECK(losses.back() < 0.2 * losses.front());
  CHECK(ft::plan_cache_stats().misses == misses);
}

TEST_CASE("each element of the gradients is limited, behind the joint norm, by rules and by other updates") {
  const auto after = [](optim::SGDOptions options) {
    const Parameter p(ft::zeros({4}));
    p.set_grad(ft::from_vector({3, -4, 0.25, not_a_number}, {4}));
    options.lr = 1;
    optim::SGD(std::vector{p}, options).step();
    return p.value().to_vector();
  };
  const std::vector<float> limited = after({.max_grad_value = 0.5});
  CHECK(std::vector(limited.begin(), limited.end() - 1) == std::vector<float>{-0.5, 0.5, -0.25});
  CHECK(std::isnan(limited[3]));

  const Parameter p(ft::zeros({3}));
  p.set_grad(ft::from_vector({3, -4, 0}, {3}));
  optim::SGD both({p}, {.lr = 1, .max_grad_norm = 2.5, .max_grad_value = 1.75});
  both.step();
  CHECK(difference(p.value().to_vector<double>(), {-1.5, 1.75, 0}) <= 1e-6);
  CHECK(both.last_grad_norm().item() == 5);
  CHECK(p.grad().to_vector() == std::vector<float>{3, -4, 0});

  const Parameter own(ft::zeros({2}));
  own.set_grad(ft::from_vector({3, -0.25}, {2}));
  Lion lion({own}, 0.5);
  lion.step();
  CHECK(own.value().to_vector() == std::vector<float>{-0.5, 0.5});
  CHECK(difference(lion.named_state()[0].second.value().to_vector<double>(), {0.005, -0.0025}) <= 1e-6);

  const Parameter q(ft::zeros({2}));
  q.set_grad(ft::from_vector({3, not_a_number}, {2}));
  optim::clip_grad_value({q, Parameter(ft::zeros({1}))}, 2);
  CHECK(q.grad().to_vector()[0] == 2);
  CHECK(std::isnan(q.grad().to_vector()[1]));
  CHECK(contains(message_of([&] { optim::clip_grad_value({q}, 0); }), "expected limit > 0, got 0"));
  CHECK(
      contains(message_of([&] { optim::SGD({q}, {.max_grad_value = -1}); }), "expected max_grad_value ≥ 0"));
}

TEST_CASE("a step whose gradients are not finite is left out by choice, running statistics included") {
  for (const auto choice : {optim::NonFinite::skip, optim::NonFinite::report}) {
    Net net;
    optim::AdamW adam(net.model.parameters(), {.max_grad_norm = 1, .non_finite = choice});
    net.backward(0);
    CHECK(adam.step());
    const Numbers before = net.numbers();
    net.backward(not_a_number);
    if (choice == optim::NonFinite::skip) {
      CHECK_FALSE(adam.step());
      CHECK(adam.skipped_steps() == 1);
      CHECK(std::isnan(adam.last_grad_norm().item()));
    } else {
      const std::string message = message_of([&] { adam.step(); });
      CHECK(contains(message,
                     "expected finite gradients, got others: there is a NaN or an infinity in that of "
                     "\"0.weight\" and of 2 more"));
      CHECK(adam.skipped_steps() == 0);
    }
    CHECK(net.numbers() == before);
    CHECK(adam.updates() == std::vector<std::int64_t>{1, 1, 1, 1});
    net.backward(0);
    CHECK(adam.step());
    CHECK(net.numbers() != before);
    CHECK(adam.updates() == std::vector<std::int64_t>{2, 2, 2, 2});
  }
}

TEST_CASE(
    "where gradients are finite, looking makes no difference to the bit, and no plan from step to step") {
  const auto run = [](optim::NonFinite choice) {
    ft::manual_seed(1);
    Net net;
    optim::SGD sgd(net.model.parameters(), {.lr = 0.1, .momentum = 0.9, .non_finite = choice});
    std::int64_t misses = 0;
    for (int step = 0; step < 4; ++step) {
      net.backward(static_cast<float>(step));
      CHECK(sgd.step());
      if (step == 1) misses = ft::plan_cache_stats().misses;
    }
    CHECK(ft::plan_cache_stats().misses == misses);
    return net.numbers();
  };
  CHECK(run(optim::NonFinite::skip) == run(optim::NonFinite::update));
  // By default what is not finite shows.
  Net net;
  optim::SGD sgd(net.model.parameters(), {.lr = 0.1});
  net.backward(not_a_number);
  CHECK(sgd.step());
  CHECK(std::isnan(net.numbers()[0]));
}

TEST_CASE("a step without gradients says so") {
  optim::SGD sgd({Parameter(ft::zeros({2}))}, {.non_finite = optim::NonFinite::skip});
  CHECK_FALSE(sgd.step());
  CHECK(sgd.skipped_steps() == 0);
}

TEST_CASE("a loss scaler's step that is left out moves no running statistic") {
  Net net;
  optim::SGD sgd(net.model.parameters(), {.lr = 0.1});
  optim::LossScaler scaler({.initial = 1024});
  net.backward(0);
  CHECK(scaler.step(sgd));
  const Numbers before = net.numbers();
  net.backward(not_a_number);
  CHECK_FALSE(scaler.step(sgd));
  CHECK(net.numbers() == before);
}

TEST_CASE("lookahead: slow weights follow every so many updates, and the fast ones go on from them") {
  const Parameter p(ft::from_vector({1, -2}, {2}));
  optim::SGD sgd({p}, {.lr = 1, .lookahead = {.every = 3, .share = 0.25}});
  Numbers fast{1, -2}, slow = fast;
  for (int step = 1; step <= 7; ++step) {
    p.set_grad(ft::from_vector({static_cast<float>(step), 0.5F}, {2}));
    if (step == 5) sgd.set_lookahead_share(0.5);
    sgd.step();
    fast[0] -= step;
    fast[1] -= 0.5;
    if (step % 3 == 0) {
      for (std::size_t i = 0; i < 2; ++i) fast[i] = slow[i] += (step < 5 ? 0.25 : 0.5) * (fast[i] - slow[i]);
    }
    CHECK(difference(p.value().to_vector<double>(), fast) <= 1e-6);
  }
  {
    const optim::AveragedWeights averaged(sgd);
    CHECK(difference(p.value().to_vector<double>(), slow) <= 1e-6);
  }
  CHECK(difference(p.value().to_vector<double>(), fast) <= 1e-6);

  const auto message = [&](optim::SGDOptions options) {
    return message_of([&] { optim::SGD({p}, options); });
  };
  CHECK(contains(message({.lookahead = {.every = -1}}), "lookahead.every ≥ 0"));
  CHECK(contains(message({.lookahead = {.every = 5, .share = 0}}), "lookahead.share in (0, 1], got 0"));
  CHECK(contains(message({.average = {.decay = 0.5}, .lookahead = {.every = 5}}), "got both"));
  optim::SGD without({p});
  CHECK(contains(message_of([&] { without.set_lookahead_share(0.5); }), "made without lookahead"));
}

TEST_CASE("lookahead, limits and NAdam go on from a checkpoint, to the bit") {
  const ScratchFolder scratch;
  std::filesystem::create_directories(scratch.path());
  const std::string file = (scratch.path() / "checkpoint.safetensors").string();
  const optim::NAdamOptions options{.lr = 0.05,
                                    .max_grad_value = 0.5,
                                    .non_finite = optim::NonFinite::skip,
                                    .lookahead = {.every = 2, .share = 0.5}};
  const auto run = [&](int steps, int stop) {
    ft::manual_seed(1);
    Net net;
    optim::NAdam nadam(net.model.parameters(), options);
    if (stop == 0) ft::io::load_checkpoint(file, {.model = &net.model, .optimizer = &nadam});
    for (int step = stop == 0 ? 3 : 0; step < steps; ++step) {
      if (step == stop && stop != 0)
        ft::io::save_checkpoint(file, {.model = &net.model, .optimizer = &nadam});
      net.backward(static_cast<float>(step));
      nadam.step();
    }
    return net.numbers();
  };
  const Numbers whole = run(6, 3);
  CHECK(run(6, 0) == whole);
  ft::manual_seed(1);
  Net net;
  optim::NAdam other(net.model.parameters(), {.lr = 0.05});
  CHECK(
      contains(message_of([&] { ft::io::load_checkpoint(file, {.model = &net.model, .optimizer = &other}); }),
               "slow"));
}
