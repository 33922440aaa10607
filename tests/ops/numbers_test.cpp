// Numbers that change from step to step are inputs of one plan, and travel as doubles.
#include <doctest/doctest.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "backends.hpp"
#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace optim = fusetape::optim;
using namespace fusetape::tests;
using ft::DType;
using ft::Parameter;
using ft::Tensor;

namespace {

std::vector<std::string> backends() {
  if (has_cuda_double()) return {"cpu", "cuda double"};
  return {"cpu"};
}

std::int64_t misses() { return ft::plan_cache_stats().misses; }

/// A call with the number t of a step in some option.
struct Changing {
  std::string name;
  std::function<Tensor(const Tensor& x, double t)> call;
  const char* group = nullptr;  ///< that is to be among the CPU's
};

/// Where a slice of a step begins.
std::int64_t place(double t) { return static_cast<std::int64_t>(t * 10); }

/// A batch norm whose momentum is t, and what it tracks.
struct Tracked {
  Tensor y, statistics;
};
Tracked tracked(const Tensor& x, double t) {
  const std::int64_t c = x.size(-1);
  const ft::BatchNormResult norm = ft::batch_norm(x, ft::ones({c}), ft::zeros({c}), ft::full({c}, 3.0),
                                                  ft::full({c}, 2.0), {.momentum = t});
  return {norm.y, ft::cast(norm.running_mean * 2.0 + norm.running_var, x.dtype())};
}

Tensor convolved(const Tensor& x) {
  const Tensor images = x.reshape({1, 8, 4, 1}) * ft::ones({3, 8, 4, 16}, x.dtype());
  return ft::conv2d(images, ft::full({16, 3, 3, 16}, 0.125, x.dtype()), {.padding = 1});
}

std::vector<Changing> all_changing() {
  const auto entropy = [](ft::Reduction reduction) {
    return [=](const Tensor& x, double t) {
      const Tensor labels = ft::from_vector<std::int64_t>({0, 3, 1, 2, 0, 1, 3, 2}, {8});
      return ft::cross_entropy(x, labels, {.label_smoothing = t, .reduction = reduction});
    };
  };
  return {
      {"a scalar operand", [](const Tensor& x, double t) { return x * t + t; }},
      {"clamp, its lower bound", [](const Tensor& x, double t) { return ft::clamp(x, -t, 0.9); }},
      {"clamp, its upper bound", [](const Tensor& x, double t) { return ft::clamp(x, -1.3, t); }},
      {"leaky_relu", [](const Tensor& x, double t) { return ft::leaky_relu(x, t); }},
      {"dropout", [](const Tensor& x, double t) { return ft::dropout(x, t); }},
      {"a chain",
       [](const Tensor& x, double t) { return ft::clamp(ft::leaky_relu(x * 3.0, t) + x, -t, 2 * t) * x; }},
      {"a chain with a sum",
       [](const Tensor& x, double t) { return ft::sum(ft::leaky_relu(x, t) * x, {0}); }},
      {"label smoothing, mean", entropy(ft::Reduction::mean)},
      {"label smoothing, each", entropy(ft::Reduction::none)},
      {"pad",
       [](const Tensor& x, double t) {
         return ft::pad(x, {{1, 0}, {0, 2}}, t);
       }},
      {"slice of rows", [](const Tensor& x, double t) { return ft::slice(x, 0, place(t), place(t) + 2); }},
      {"slice in steps",
       [](const Tensor& x, double t) { return ft::slice(x, 0, place(t), place(t) + 3, 2); }},
      {"slice of columns",
       [](const Tensor& x, double t) {
         return ft::slice(x.reshape({2, 16}), 1, 2 * place(t), 2 * place(t) + 4);
       }},
      {"batch norm's momentum",
       [](const Tensor& x, double t) {
         const Tracked norm = tracked(x, t);
         return norm.y + norm.statistics;
       },
       "batch_norm"},
      {"that of a norm with add and ReLU",
       [](const Tensor& x, double t) {
         Tracked norm = tracked(x, t);
         return ft::relu(std::move(norm.y) + x) + norm.statistics;
       },
       "batch_norm+add+relu"},
      {"those of two norms",
       [](const Tensor& x, double t) {
         Tracked first = tracked(x, t), second = tracked(x * 2.0, 1 - t);
         return ft::relu(std::move(first.y) + std::move(second.y)) + first.statistics + second.statistics;
       },
       "batch_norm+batch_norm+add+relu"},
      {"that of a norm of which nothing else is read",
       [](const Tensor& x, double t) { return x + tracked(x, t).statistics; }, "batch_norm"},
      {"that of a norm behind a convolution",
       [](const Tensor& x, double t) {
         const Tracked norm = tracked(convolved(x), t);
         return norm.y * 0.01 + norm.statistics;
       },
       "conv2d+batch_norm_statistics"},
  };
}

Tensor values() {
  std::vector<float> numbers(32);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>((i * 29) % 32) / 16 - 1;
  return ft::from_vector(std::move(numbers), {8, 4});
}

/// What a step gives, its gradient by x, and the gradient of that; a twin of the call is dropped unread.
std::vector<double> step(const Changing& changing, DType dtype, double t) {
  ft::manual_seed(5);
  const Tensor x = ft::variable(ft::cast(values(), dtype));
  const Tensor y = changing.call(x, t);
  { const Tensor unread = changing.call(x, t / 2) * 3.0; }
  const Tensor g = ft::grad({ft::sum(y * y)}, {x}, {}, {.create_graph = true})[0];
  ft::materialize({y, g});
  for (const ft::GroupReport& group : ft::explain().groups) {
    const bool on_host = group.kernel == "reference" || group.kernel.rfind("host:", 0) == 0;
    CHECK_MESSAGE((ft::backend_name() == "reference" || !on_host), group.name << " by " << group.kernel);
  }
  if (changing.group != nullptr && ft::backend_name() == "cpu")
    CHECK_MESSAGE(contains(group_names(), changing.group), group_names());
  const Tensor second = ft::grad({ft::sum(g * g)}, {x})[0];
  std::vector<double> all = y.to_vector<double>();
  for (const Tensor& more : {g, second}) {
    const std::vector<double> numbers = more.to_vector<double>();
    all.insert(all.end(), numbers.begin(), numbers.end());
  }
  return all;
}

/// Of steps of (v − expected)/expected.
long double mean_deviation(const std::vector<float>& got, const std::vector<long double>& expected) {
  long double sum = 0;
  for (std::size_t i = 0; i < got.size(); ++i) sum += std::abs(got[i] / expected[i] - 1);
  return sum / static_cast<long double>(got.size());
}

/// Adam by its formula, of one sign, so that no sum cancels.
struct Moments {
  std::vector<long double> m, v;
  long double power1 = 1, power2 = 1;

  std::vector<long double> step(const std::vector<float>& gradient, const optim::AdamOptions& o) {
    power1 *= o.beta1;
    power2 *= o.beta2;
    std::vector<long double> steps(gradient.size());
    m.resize(gradient.size());
    v.resize(gradient.size());
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      const long double g = gradient[i];
      m[i] = o.beta1 * m[i] + (1 - static_cast<long double>(o.beta1)) * g;
      v[i] = o.beta2 * v[i] + (1 - static_cast<long double>(o.beta2)) * g * g;
      steps[i] = -o.lr * (m[i] / (1 - power1)) / (std::sqrt(v[i] / (1 - power2)) + o.eps);
    }
    return steps;
  }
};

/// The mean relative deviation of the last of so many steps, each taken from zero.
template <class Optimizer, class Options>
long double deviation_of(const Options& options, std::int64_t elements, int steps) {
  std::mt19937 engine(3);
  std::uniform_real_distribution<float> uniform(0.1f, 2.0f);
  std::vector<float> gradient(static_cast<std::size_t>(elements));
  Parameter p(ft::zeros({elements}));
  Optimizer optimizer({p}, options);
  Moments moments;
  std::vector<long double> expected;
  for (int i = 0; i < steps; ++i) {
    for (float& g : gradient) g = uniform(engine);
    p.set_data(ft::zeros({elements}));
    p.set_grad(ft::from_vector(gradient, {elements}));
    optimizer.step();
    expected = moments.step(gradient, {options.lr, options.beta1, options.beta2, options.eps});
  }
  return mean_deviation(p.value().to_vector(), expected);
}

/// What `body` prints on stderr.
std::string printed_by(const std::function<void()>& body) {
  std::FILE* const file = std::tmpfile();
  std::fflush(stderr);
  const int before = ::dup(STDERR_FILENO);
  ::dup2(::fileno(file), STDERR_FILENO);
  body();
  std::fflush(stderr);
  ::dup2(before, STDERR_FILENO);
  ::close(before);
  std::rewind(file);
  std::array<char, 4096> text{};
  const std::size_t count = std::fread(text.data(), 1, text.size(), file);
  std::fclose(file);
  return {text.data(), count};
}

}  // namespace

TEST_CASE("a number that changes each step makes no new plan, read or not, and the values are right") {
  for (const std::string& backend : backends()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const ConvBy winograd(ft::ConvAlgorithm::winograd);  // which carries norms
      for (const Changing& changing : all_changing()) {
        CAPTURE(backend);
        CAPTURE(name_of(dtype));
        CAPTURE(changing.name);
        std::int64_t before = -1;
        for (const double t : {0.1, 0.2, 0.3, 0.4, 0.5}) {
          const OnBackend on(backend);
          const std::vector<double> got = step(changing, dtype, t);
          if (before < 0) before = misses();
          CHECK(misses() == before);
          const OnBackend reference("reference");
          const std::vector<double> expected = step(changing, dtype, t);
          before = misses();
          CHECK(difference(got, expected) <= (dtype == DType::f32 ? 2e-5 : 0.1));
        }
      }
    }
  }
}

TEST_CASE("a number beside a 16-bit tensor is not rounded to 16 bits: what comes of it is") {
  struct Row {
    const char* name;
    Tensor (*call)(const Tensor& x);
    float (*right)(float x);
  };
  const Row rows[] = {
      {"x · 0.1", [](const Tensor& x) { return x * 0.1; }, [](float x) { return x * 0.1f; }},
      {"0.1 · x", [](const Tensor& x) { return 0.1 * x; }, [](float x) { return 0.1f * x; }},
      {"x + 0.001", [](const Tensor& x) { return x + 0.001; }, [](float x) { return x + 0.001f; }},
      {"0.999 − x", [](const Tensor& x) { return 0.999 - x; }, [](float x) { return 0.999f - x; }},
      {"x / 3.3", [](const Tensor& x) { return x / 3.3; }, [](float x) { return x / 3.3f; }},
      {"1.001 / x", [](const Tensor& x) { return 1.001 / x; }, [](float x) { return 1.001f / x; }},
      {"the gradient of x · 0.1",
       [](const Tensor& x) {
         const Tensor leaf = ft::variable(x);
         return ft::grad({ft::sum(leaf * 0.1)}, {leaf})[0];
       },
       [](float) { return 0.1f; }},
  };
  std::vector<float> from;
  for (int i = 1; i <= 64; ++i) from.push_back(static_cast<float>(i) / 16);
  std::vector<std::string> all = backends();
  all.push_back("reference");
  for (const std::string& name : all) {
    const OnBackend backend(name);
    for (const DType dtype : {DType::bf16, DType::f16}) {
      for (const Row& row : rows) {
        for (const bool autocast : {false, true}) {
          std::vector<float> right;
          for (const float x : from) right.push_back(row.right(x));
          const ft::Autocast cast(autocast ? dtype : DType::f32);
          const Tensor got = row.call(ft::cast(ft::from_vector(from, {64}), dtype));
          CHECK(got.dtype() == dtype);
          CHECK_MESSAGE(got.to_vector() == ft::cast(ft::from_vector(right, {64}), dtype).to_vector(),
                        row.name << " in " << name_of(dtype) << " on " << name);
        }
      }
    }
  }
}

TEST_CASE("equal numbers are one input: ops that differ in nothing else are computed once") {
  const OnBackend backend("cpu");
  const Fusion off(false);
  const Tensor x = values();
  const auto kernels = [&](double a, double b) {
    ft::materialize({ft::exp(ft::clamp(x, 0, a)) + ft::log(ft::clamp(x, 0, b) + 2.0)});
    return ft::explain().kernels;
  };
  const int together = kernels(6, 6);
  CHECK(kernels(5, 5) == together);
  const std::int64_t before = misses();
  CHECK(kernels(5, 6) == together + 1);
  CHECK(misses() == before + 1);
  // They went apart once: that they meet again and part again makes no plan.
  for (const double b : {5.0, 7.0, 5.0}) CHECK(kernels(5, b) == together + 1);
  CHECK(misses() == before + 1);
}

TEST_CASE("plans that differ in one number only are noted, once") {
  // A thread has a tape of its own, which has noted nothing yet.
  const auto noted = [](const std::function<void(int)>& body) {
    return printed_by([&] {
      std::thread([&] {
        const OnBackend backend("cpu");
        for (int i = 1; i <= 5; ++i) body(i);
      }).join();
    });
  };
  const Tensor x = values();
  const std::string steps = noted([&](int i) { ft::slice(x, 0, 0, 7, i).to_vector(); });
  CHECK(steps.empty());  // another shape is another plan
  const std::string axes = noted([&](int i) { ft::sum(ft::ones({2, 2, 2, 2, 2}), {i - 1}).to_vector(); });
  CHECK(contains(axes, "3 plans differ in one number only, an attribute of sum ("));
  CHECK(contains(axes, "numbers_test.cpp:"));
  CHECK(axes.find("plans differ") == axes.rfind("plans differ"));
  CHECK(noted([&](int i) { ft::clamp(x, 0, i).to_vector(); }).empty());
}

TEST_CASE("Adam's steps are exact: 1 − β and the corrections are taken in doubles") {
  std::vector<std::string> all = backends();
  all.push_back("reference");
  for (const std::string& name : all) {
    const OnBackend backend(name);
    for (const auto& row : {std::pair(0.9, 0.999), {0.95, 0.9999}, {0.99, 0.99999}, {0.0, 0.5}, {0.5, 0.0}}) {
      const auto& beta1 = row.first;
      const auto& beta2 = row.second;
      for (const int steps : {1, 7}) {
        const long double deviation = deviation_of<optim::Adam>(
            optim::AdamOptions{.lr = 0.3, .beta1 = beta1, .beta2 = beta2}, 100'000, steps);
        CHECK_MESSAGE(deviation <= 1e-7L, name << ": " << beta1 << ", " << beta2 << ", " << steps
                                               << " steps: " << static_cast<double>(deviation));
      }
      CHECK(deviation_of<optim::AdamW>(optim::AdamWOptions{.lr = 1e-3, .beta1 = beta1, .beta2 = beta2},
                                       100'000, 1) <= 1e-7L);
    }
    // What is left is the state's own rounding; from a β of f32 it would be 9e-7.
    CHECK(deviation_of<optim::Adam>(optim::AdamOptions{.lr = 1}, 500, 300) <= 3e-7L);
  }
}

TEST_CASE("a small decay is not lost: AdamW shrinks by lr·weight_decay, not by a rounded 1 − that") {
  std::vector<std::string> all = backends();
  all.push_back("reference");
  constexpr std::int64_t n = 4096;
  std::vector<float> start(n);
  for (std::size_t i = 0; i < n; ++i) start[i] = 1 + static_cast<float>(i) / n;
  for (const std::string& name : all) {
    const OnBackend backend(name);
    Parameter p(ft::from_vector(start, {n}));
    p.set_grad(ft::zeros({n}));
    optim::AdamW adam({p}, {.lr = 1e-3, .weight_decay = 2e-4});  // 2e-7: a few units in the last place
    adam.step();
    const std::vector<float> after = p.value().to_vector();
    double lost = 0, expected = 0;
    for (std::size_t i = 0; i < n; ++i) {
      lost += static_cast<double>(start[i]) - after[i];
      expected += 2e-7 * start[i];
    }
    CHECK_MESSAGE(lost == doctest::Approx(expected).epsilon(0.05), name);
  }
}

TEST_CASE("SGD's momentum is no rounded one: velocities add up to 1/(1 − momentum)") {
  std::vector<std::string> all = backends();
  all.push_back("reference");
  for (const std::string& name : all) {
    const OnBackend backend(name);
    Parameter p(ft::zeros({256}));
    p.set_grad(ft::ones({256}));
    optim::SGD sgd({p}, {.lr = 0, .momentum = 0.999});
    long double velocity = 0;
    for (int i = 0; i < 400; ++i) {
      sgd.step();
      velocity = 0.999L * velocity + 1;
    }
    CHECK_MESSAGE(sgd.named_state()[0].second.value().to_vector()[0] ==
                      doctest::Approx(static_cast<double>(velocity)).epsilon(1e-6),
                  name);
  }
}
