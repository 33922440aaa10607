// Programs whose graph is another in each step: plans are found again, memory stays bounded, gradients are
// those of the same program run op by op.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "core/plan/cache.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Parameter;
using ft::Tensor;
using fusetape::tests::contains;
using fusetape::tests::Eager;
using fusetape::tests::message_of;
using fusetape::tests::OnBackend;
using Floats = std::vector<float>;

namespace {

Tensor some_values(const ft::Shape& shape, int stride = 7919) {
  Floats data(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < data.size(); ++i)
    data[i] = static_cast<float>(i * static_cast<std::size_t>(stride) % 97) / 48.5f - 1;
  return ft::from_vector(data, shape);
}

Tensor some_labels(std::int64_t count) {
  std::vector<std::int64_t> labels(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::int64_t>(i % 3);
  return ft::from_vector(labels, {count});
}

struct Net : ft::nn::Module {
  ft::nn::Conv2d conv{{.in = 3, .out = 6, .kernel = 3, .padding = 1, .bias = false}};
  ft::nn::BatchNorm2d bn{6};
  ft::nn::Conv2d extra{{.in = 6, .out = 6, .kernel = 1}};
  ft::nn::Linear fc{6, 3};
  Net() {
    register_child("conv", conv), register_child("bn", bn);
    register_child("extra", extra), register_child("fc", fc);
  }
  Tensor features(const Tensor& x) { return ft::relu(bn(conv(x))); }
  Tensor forward(const Tensor& x) override { return fc(ft::global_avg_pool(features(x))); }
};

struct Training {
  Net net;
  ft::optim::SGD sgd{net.parameters(), {.lr = 0.05, .momentum = 0.9}};

  double step(const Tensor& loss) {
    sgd.zero_grad();
    loss.backward();
    sgd.step();
    return loss.item();
  }
};

Tensor loss_of(Net& net, std::int64_t batch, std::int64_t size = 6) {
  return ft::cross_entropy(net(some_values({batch, size, size, 3})), some_labels(batch));
}

/// One step of a program; `i` is its number.
struct Program {
  const char* name;
  std::function<double(Training&, int)> step;
  std::int64_t plans;  ///< that twelve steps make, at most
};

double branching_step(Training& t, int i) {
  const Tensor features = t.net.features(some_values({4, 6, 6, 3}, 7919 + i));
  const Tensor pooled = ft::global_avg_pool(features);
  const bool high = ft::mean(pooled).item() > 0.35 + 0.02 * (i % 3);
  const Tensor used = high ? ft::global_avg_pool(ft::relu(t.net.extra(features))) : pooled;
  return t.step(ft::cross_entropy(t.net.fc(used), some_labels(4)));
}

double penalty_step(Training& t, int) {
  const Tensor x = ft::variable(some_values({4, 6, 6, 3}));
  const Tensor loss = ft::cross_entropy(t.net(x), some_labels(4));
  const Tensor by_x = ft::grad({loss}, {x}, {}, {.create_graph = true})[0];
  return t.step(loss + 0.1 * ft::sum(by_x * by_x));
}

double retained_step(Training& t, int) {
  const Tensor loss = loss_of(t.net, 4);
  t.sgd.zero_grad();
  loss.backward({.retain_graph = true});
  t.sgd.step();  // the versions that the graph read live on
  t.sgd.zero_grad();
  loss.backward();
  t.sgd.step();
  return loss.item();
}

const std::vector<Program>& programs() {
  static const std::vector<Program> all = {
      {"a last, smaller batch", [](Training& t, int i) { return t.step(loss_of(t.net, i % 4 == 3 ? 3 : 8)); },
       2},
      {"a branch that depends on data", branching_step, 5},
      {"a layer that is skipped every other step",
       [](Training& t, int i) {
         Tensor x = t.net.features(some_values({4, 6, 6, 3}));
         if (i % 2 == 0) x = ft::relu(t.net.extra(x));
         return t.step(ft::cross_entropy(t.net.fc(ft::global_avg_pool(x)), some_labels(4)));
       },
       2},
      {"weights used twice",
       [](Training& t, int) {
         const Tensor x = t.net.features(some_values({4, 6, 6, 3}));
         const Tensor y = t.net.extra(ft::relu(t.net.extra(x)));
         return t.step(ft::cross_entropy(t.net.fc(ft::global_avg_pool(y)), some_labels(4)));
       },
       1},
      {"a loop of another length each step",
       [](Training& t, int i) {
         Tensor x = t.net.features(some_values({4, 6, 6, 3}));
         for (int k = 0; k < 1 + i % 3; ++k) x = ft::tanh(t.net.extra(x));
         return t.step(ft::cross_entropy(t.net.fc(ft::global_avg_pool(x)), some_labels(4)));
       },
       3},
      {"gradients of gradients", penalty_step, 1},
      {"the loss read before backward",
       [](Training& t, int) {
         const Tensor loss = loss_of(t.net, 4);
         const double before = loss.item();
         CHECK(t.step(loss) == before);
         return before;
       },
       2},
      {"hooks",
       [](Training& t, int i) {
         const Tensor x = t.net.features(some_values({4, 6, 6, 3}));
         if (i % 2 == 0) x.register_hook([](const Tensor& g) { return ft::clamp(g, -0.01, 0.01); });
         return t.step(ft::cross_entropy(t.net.fc(ft::global_avg_pool(x)), some_labels(4)));
       },
       2},
      {"evaluated in between",
       [](Training& t, int i) {
         const double loss = t.step(loss_of(t.net, 4));
         if (i % 3 != 0) return loss;
         t.net.eval();
         const double evaluated = ft::no_grad([&] { return loss_of(t.net, 5).item(); });
         t.net.train();
         return loss + evaluated;
       },
       2},
      {"a graph retained over a step", retained_step, 3},
      {"checkpointed every other step",
       [](Training& t, int i) {
         const Tensor x = some_values({4, 6, 6, 3});
         const auto part = [&](const Tensor& from) { return t.net.features(from); };
         const Tensor y = i % 2 == 0 ? ft::checkpoint(part, x) : part(x);
         return t.step(ft::cross_entropy(t.net.fc(ft::global_avg_pool(y)), some_labels(4)));
       },
       2},
      {"a part that is frozen every other step",
       [](Training& t, int i) {
         Parameter(t.net.conv.weight()).set_requires_grad(i % 2 == 0);
         return t.step(loss_of(t.net, 4));
       },
       2},
  };
  return all;
}

constexpr int steps = 12;

/// Losses, then every parameter and buffer.
std::vector<Floats> train(const Program& program) {
  ft::manual_seed(21);
  Training training;
  std::vector<Floats> out(1);
  for (int i = 0; i < steps; ++i) out[0].push_back(static_cast<float>(program.step(training, i)));
  for (const Parameter& parameter : training.net.parameters()) out.push_back(parameter.value().to_vector());
  for (const auto& [name, buffer] : training.net.named_buffers()) out.push_back(buffer.value().to_vector());
  return out;
}

void check_alike(const std::vector<Floats>& got, const std::vector<Floats>& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t k = 0; k < got.size(); ++k) {
    REQUIRE(got[k].size() == expected[k].size());
    for (std::size_t i = 0; i < got[k].size(); ++i) {
      CHECK(got[k][i] == doctest::Approx(expected[k][i]).epsilon(1e-3).scale(0.1));
    }
  }
}

}  // namespace

TEST_CASE("changing graphs train as they do op by op, with as many plans as there are shapes of step") {
  for (const Program& program : programs()) {
    CAPTURE(program.name);
    std::vector<Floats> op_by_op;
    {
      const OnBackend backend("reference");
      const Eager eager(true);
      op_by_op = train(program);
    }
    const OnBackend backend("cpu");
    const ft::CacheStats before = ft::plan_cache_stats();
    check_alike(train(program), op_by_op);
    // Plans of a second training are those of the first.
    const ft::CacheStats between = ft::plan_cache_stats();
    CHECK(between.misses - before.misses <= program.plans + 1);  // and the optimizer's first materialize
    train(program);
    CHECK(ft::plan_cache_stats().misses == between.misses);
    CHECK(ft::plan_cache_stats().hits - between.hits >= steps);
  }
}

TEST_CASE("what a step does not use gets no gradient and keeps its state") {
  const OnBackend backend("cpu");
  ft::manual_seed(3);
  Training t;
  const auto state = [&] {
    std::vector<Floats> out{t.net.extra.weight().value().to_vector()};
    for (const auto& [name, cell] : t.sgd.named_state()) {
      if (contains(name, "extra")) out.push_back(cell.value().to_vector());
    }
    REQUIRE(out.size() == 3);
    return out;
  };
  const auto with_extra = [&] {
    const Tensor y = t.net.extra(t.net.features(some_values({4, 6, 6, 3})));
    return ft::cross_entropy(t.net.fc(ft::global_avg_pool(y)), some_labels(4));
  };
  t.step(with_extra());
  const std::vector<Floats> used = state();
  t.step(loss_of(t.net, 4));
  CHECK_FALSE(t.net.extra.weight().grad().defined());
  CHECK(state() == used);
  t.step(with_extra());
  CHECK(state() != used);
}

TEST_CASE("shapes that change in each of 200 steps: a bounded cache, bounded memory") {
  const OnBackend backend("cpu");
  ft::clear_plan_cache();
  Training t;
  const ft::CacheStats before = ft::plan_cache_stats();
  std::int64_t settled = 0, most = 0;
  for (int i = 0; i < 200; ++i) {
    t.step(loss_of(t.net, 1 + i % 100, 5));
    const ft::MemoryStats memory = ft::memory_stats();
    const std::int64_t bytes = memory.pool_bytes + memory.cached_bytes + memory.arena_bytes;
    (i < 100 ? settled : most) = std::max(i < 100 ? settled : most, bytes);
    CHECK(ft::plan_cache_stats().plans <= static_cast<std::int64_t>(ft::plan::PlanCache::capacity));
  }
  const ft::CacheStats after = ft::plan_cache_stats();
  CHECK(after.hits + after.misses - before.hits - before.misses == 200);
  CHECK(after.plans == static_cast<std::int64_t>(ft::plan::PlanCache::capacity));
  CHECK(after.misses - before.misses == 200);  // each comes back after 99 others: least recently used goes
  CHECK(most <= settled);
  t.step(loss_of(t.net, 100, 5));
  CHECK(ft::plan_cache_stats().hits == after.hits + 1);
}

TEST_CASE("rules, retention and fusion that change between steps: no plan is taken for another's") {
  const OnBackend backend("cpu");
  struct Setting {
    std::vector<std::string> rules;
    ft::Retention retention;
    bool fusion;
  };
  const Setting settings[] = {
      {{"all"}, ft::Retention::fastest, true},  {{"pointwise"}, ft::Retention::fastest, true},
      {{"all"}, ft::Retention::smallest, true}, {{"batch_norm", "memory"}, ft::Retention::balanced, true},
      {{"all"}, ft::Retention::fastest, false},
  };
  const auto train_with = [&](bool changing) {
    ft::manual_seed(4);
    Training t;
    Floats losses;
    std::vector<int> kernels;
    for (int i = 0; i < 15; ++i) {
      const Setting& setting = settings[changing ? i % 5 : 0];
      ft::set_fusion_rules(setting.rules);
      ft::set_retention(setting.retention);
      const fusetape::tests::Fusion fusion(setting.fusion);
      losses.push_back(static_cast<float>(t.step(loss_of(t.net, 4))));
      kernels.push_back(ft::explain().kernels);
    }
    ft::set_fusion_rules({"all"});
    ft::set_retention(ft::Retention::fastest);
    for (std::size_t i = 5; i < kernels.size(); ++i) CHECK(kernels[i] == kernels[i - 5]);
    if (changing) CHECK(kernels[4] > kernels[0]);
    return losses;
  };
  const ft::CacheStats before = ft::plan_cache_stats();
  const Floats same = train_with(false), changing = train_with(true);
  for (std::size_t i = 0; i < same.size(); ++i) CHECK(changing[i] == doctest::Approx(same[i]).epsilon(1e-3));
  CHECK(ft::plan_cache_stats().misses - before.misses == 5);
}

TEST_CASE("threads: two train at once, each on its own tape") {
  const auto& all = programs();
  std::vector<std::vector<Floats>> alone(2), together(2);
  const auto run = [&](std::size_t which, std::vector<std::vector<Floats>>& into) {
    const OnBackend backend("cpu");
    ft::set_threads(1);
    into[which] = train(all[which == 0 ? 0 : 6]);
  };
  for (std::size_t which : {0u, 1u}) std::thread([&] { run(which, alone); }).join();
  std::thread first([&] { run(0, together); }), second([&] { run(1, together); });
  first.join(), second.join();
  CHECK(together == alone);
}

TEST_CASE("threads: backward() over one shared graph from several is done or refused, never a mixture") {
  const OnBackend backend("cpu");
  constexpr int rounds = 30, length = 300;
  std::atomic<int> refused{0}, done{0}, wrong{0};
  for (int round = 0; round < rounds; ++round) {
    const Tensor x = ft::variable(ft::ones({2}));
    Tensor y = x;
    for (int i = 0; i < length; ++i) y = y * 1.0 + 0.0;
    const Tensor loss = ft::sum(y);
    loss.item();
    std::atomic<int> waiting{3};
    const auto differentiate = [&] {
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      try {
        const Tensor gradient = ft::grad({loss}, {x}, {}, {.retain_graph = true})[0];
        ++(gradient.to_vector() == Floats{1, 1} ? done : wrong);
      } catch (const ft::Error& error) {
        ++(contains(error.what(), "at work") ? refused : wrong);
      }
    };
    std::thread threads[] = {std::thread(differentiate), std::thread(differentiate),
                             std::thread(differentiate)};
    for (std::thread& thread : threads) thread.join();
    CHECK(ft::grad({loss}, {x})[0].to_vector() == Floats{1, 1});  // whatever happened, the graph is free
  }
  CHECK(wrong == 0);
  CHECK(done + refused == 3 * rounds);
}

TEST_CASE("what a forward run keeps depends on which gradients are wanted") {
  const OnBackend backend("cpu");
  constexpr std::int64_t rows = 32, columns = 16;
  const std::int64_t tensor = 4 * rows * columns;
  const Tensor data = some_values({rows, columns}), image = some_values({2, 8, 8, 4});
  const std::int64_t image_bytes = 4 * 2 * 8 * 8 * 4;
  const auto ready = [](const Tensor& x, bool wanted) { return wanted ? ft::variable(x) : x; };
  struct Case {
    const char* name;
    /// Of a fresh operand on either side; which of them are variables.
    std::function<Tensor(const Tensor& a, const Tensor& b)> op;
    Tensor a, b;
    std::int64_t kept[3];  ///< with gradients for a only, b only, both
  };
  const ft::Conv2dOptions same{.padding = {1, 1}};
  const Tensor square = some_values({columns, columns}), filters = some_values({4, 3, 3, 4});
  const Tensor per_channel = some_values({4}), ones4 = ft::ones({4});
  const std::int64_t square_bytes = 4 * columns * columns, filter_bytes = 4 * 4 * 3 * 3 * 4;
  // The operands are made by exp, whose own gradient would keep them: a + 0 does not.
  const Case cases[] = {
      {"mul",
       [](const Tensor& a, const Tensor& b) { return a * b; },
       data,
       data,
       {tensor, tensor, 2 * tensor}},
      {"div",
       [](const Tensor& a, const Tensor& b) { return a / b; },
       data,
       data,
       {tensor, 2 * tensor, 2 * tensor}},
      {"matmul",
       [](const Tensor& a, const Tensor& b) { return ft::matmul(a, b); },
       data,
       square,
       {square_bytes, tensor, tensor + square_bytes}},
      {"conv2d",
       [&](const Tensor& a, const Tensor& b) { return ft::conv2d(a, b, same); },
       image,
       filters,
       {filter_bytes, image_bytes, image_bytes + filter_bytes}},
      {"batch_norm, x and beta",
       [&](const Tensor& a, const Tensor& b) { return ft::batch_norm(a, ones4, b); },
       image,
       per_channel,
       {image_bytes + 32, 0, image_bytes + 32}},
      {"batch_norm_inference, x and gamma",
       [&](const Tensor& a, const Tensor& b) { return ft::batch_norm_inference(a, b, ones4, ones4, ones4); },
       image,
       per_channel,
       {16, image_bytes + 16, image_bytes + 16}},
  };
  for (const Case& c : cases) {
    for (int which = 0; which < 3; ++which) {
      CAPTURE(c.name);
      CAPTURE(which);
      const Tensor a = ready(c.a, which != 1), b = ready(c.b, which != 0);
      const Tensor loss = ft::sum(c.op(a + 0.0, b + 0.0));
      loss.item();
      CHECK(ft::explain().kept_bytes - 4 == c.kept[which]);  // and the loss
      std::vector<Tensor> wanted;
      if (which != 1) wanted.push_back(a);
      if (which != 0) wanted.push_back(b);
      const std::vector<Tensor> late = ft::grad({loss}, wanted);
      const std::vector<Tensor> at_once = ft::grad({ft::sum(c.op(a + 0.0, b + 0.0))}, wanted);
      for (std::size_t i = 0; i < late.size(); ++i) CHECK(late[i].to_vector() == at_once[i].to_vector());
    }
  }
}

TEST_CASE("a parameter that is thawed between forward and backward gets its gradient from the next forward") {
  const OnBackend backend("cpu");
  Parameter p(ft::ones({2})), frozen(ft::full({2}, 3));
  frozen.set_requires_grad(false);
  const Tensor loss = ft::sum(p * frozen);
  loss.item();
  frozen.set_requires_grad(true);
  loss.backward();
  CHECK(p.grad().to_vector() == Floats{3, 3});
  CHECK_FALSE(frozen.grad().defined());
  ft::sum(p * frozen).backward();
  CHECK(frozen.grad().to_vector() == Floats{1, 1});
}
