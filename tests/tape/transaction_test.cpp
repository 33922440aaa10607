#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "core/backends.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Cell;
using ft::Parameter;
using ft::Tensor;
using fusetape::tests::contains;
using fusetape::tests::Fusion;
using fusetape::tests::message_of;
using fusetape::tests::OnBackend;

// A run that fails changes nothing: a backend of its own throws in any kernel that may, and every cell is
// compared to the bit with what it was before.
namespace {

namespace backends = ft::backends;
namespace plan = ft::plan;

/// Which of the kernels that may throw throws next; -1: none.
struct Trap {
  int in = -1;
  int met = 0;  ///< kernels that may throw, since it was set

  void set(int kernel) { in = kernel, met = 0; }
};
Trap trap;

class TrappedKernel final : public backends::Kernel {
 public:
  explicit TrappedKernel(std::unique_ptr<backends::Kernel> kernel) : kernel_(std::move(kernel)) {
    name = kernel_->name;
    why = kernel_->why;
    tensor_passes = kernel_->tensor_passes;
    arithmetic = kernel_->arithmetic;
  }
  void run(const backends::KernelArgs& args) override {
    const bool half_done = kernel_->can_fail() && trap.met++ == trap.in;
    kernel_->run(args);
    if (half_done) throw ft::Error("trap", "a kernel fails");
  }
  std::size_t scratch_bytes() const override { return kernel_->scratch_bytes(); }
  std::size_t room_bytes() const override { return kernel_->room_bytes(); }
  std::vector<std::pair<int, int>> in_place() const override { return kernel_->in_place(); }
  bool can_fail() const override { return kernel_->can_fail(); }

 private:
  std::unique_ptr<backends::Kernel> kernel_;
};

/// The CPU's kernels, each of which may be made to throw.
class TrappedBackend final : public backends::Backend {
 public:
  std::string_view name() const override { return "trapped"; }
  void* allocate(std::size_t bytes) override { return cpu_->allocate(bytes); }
  void free(void* data, std::size_t bytes) override { cpu_->free(data, bytes); }
  void upload(void* to, const void* from, std::size_t bytes) override { cpu_->upload(to, from, bytes); }
  void download(void* to, const void* from, std::size_t bytes) override { cpu_->download(to, from, bytes); }
  void synchronize() override { cpu_->synchronize(); }
  backends::Speed speed() const override { return cpu_->speed(); }
  void set_threads(int threads) override { cpu_->set_threads(threads); }
  backends::Support supports(const plan::Graph& graph, const plan::Group& group) const override {
    return cpu_->supports(graph, group);
  }
  bool carries(const plan::Graph& graph, const plan::GraphNode& convolution, backends::NormPart part,
               const fusetape::core::OpDef* activation) const override {
    return cpu_->carries(graph, convolution, part, activation);
  }
  std::unique_ptr<backends::Kernel> compile(const plan::Graph& graph, const plan::Group& group) override {
    if (compiles_left == 0) throw ft::Error("trap", "a kernel cannot be made");
    if (compiles_left > 0) --compiles_left;
    return std::make_unique<TrappedKernel>(cpu_->compile(graph, group));
  }

  static inline int compiles_left = -1;  ///< until one throws; -1: none does

 private:
  std::unique_ptr<backends::Backend> cpu_ = backends::make_cpu_backend();
};

const char* trapped_backend() {
  static const bool added = (ft::core::add_backend(std::make_unique<TrappedBackend>()), true);
  static_cast<void>(added);
  return "trapped";
}

/// Convolutions, two norms, a residual sum, a product.
class Net : public ft::nn::Module {
 public:
  Net() {
    register_child("conv1", conv1_), register_child("norm1", norm1_);
    register_child("conv2", conv2_), register_child("norm2", norm2_);
    register_child("fc", fc_);
  }
  Tensor forward(const Tensor& x) override {
    const Tensor h = ft::relu(norm1_(conv1_(x)));
    return fc_(ft::global_avg_pool(ft::relu(norm2_(conv2_(h)) + h)));
  }

 private:
  ft::nn::Conv2d conv1_{{.in = 3, .out = 16, .kernel = {3, 3}, .padding = {1, 1}}};
  ft::nn::BatchNorm2d norm1_{16};
  ft::nn::Conv2d conv2_{{.in = 16, .out = 16, .kernel = {3, 3}, .padding = {1, 1}}};
  ft::nn::BatchNorm2d norm2_{16};
  ft::nn::Linear fc_{{.in = 16, .out = 4}};
};

using Bits = std::vector<std::vector<float>>;

struct Training {
  ft::DType precision = ft::DType::f32;
  int micro_batches = 1;
  Net net;
  std::unique_ptr<ft::optim::Optimizer> optimizer;

  Training(bool adam, ft::DType dtype, int batches) : precision(dtype), micro_batches(batches) {
    if (adam) {
      optimizer = std::make_unique<ft::optim::AdamW>(net.parameters(),
                                                     ft::optim::AdamWOptions{.lr = 0.01, .max_grad_norm = 1});
    } else {
      optimizer = std::make_unique<ft::optim::SGD>(net.parameters(),
                                                   ft::optim::SGDOptions{.lr = 0.05, .momentum = 0.9});
    }
  }

  Tensor loss(int batch) {
    const ft::Autocast cast(precision);
    ft::GeneratorState state{77, static_cast<std::uint64_t>(batch) * 100'000};
    ft::set_generator_state(state);
    const Tensor x = ft::randn({4, 6, 6, 3});
    return ft::cross_entropy(net(x), ft::from_vector(std::vector<std::int64_t>{0, 1, 2, batch % 4}, {4}));
  }

  /// Micro-batches are runs of their own: their losses are read.
  void run(int batch, int part) {
    const Tensor loss_of_part = loss(batch * 8 + part);
    loss_of_part.backward();
    if (part + 1 < micro_batches) {
      loss_of_part.item();
    } else {
      optimizer->step();
    }
  }
  void step(int batch) {
    optimizer->zero_grad();
    for (int part = 0; part < micro_batches; ++part) run(batch, part);
  }

  /// As step(), but for a run that fails: it must change nothing, and is then made again. How many failed.
  int step_with_failures(int batch) {
    int failures = 0;
    optimizer->zero_grad();
    for (int part = 0; part < micro_batches; ++part) {
      const Bits cells_before = cells(), gradients_before = gradients();
      const std::vector<std::int64_t> updates_before = optimizer->updates();
      try {
        run(batch, part);
        continue;
      } catch (const ft::Error& error) {
        CHECK(contains(error.what(), "a kernel fails"));
      }
      ++failures;
      CHECK(cells() == cells_before);
      CHECK(gradients() == gradients_before);
      CHECK(optimizer->updates() == updates_before);
      run(batch, part);
    }
    return failures;
  }

  /// Parameters, running statistics, optimizer state.
  Bits cells() const {
    Bits all;
    for (const auto& [name, parameter] : net.named_parameters()) all.push_back(parameter.value().to_vector());
    for (const auto& [name, buffer] : net.named_buffers()) all.push_back(buffer.value().to_vector());
    for (const auto& [name, cell] : optimizer->named_state()) all.push_back(cell.value().to_vector());
    return all;
  }
  /// An undefined one is empty.
  Bits gradients() const {
    Bits all;
    for (const Parameter& parameter : optimizer->parameters()) {
      all.push_back(parameter.grad().defined() ? parameter.grad().to_vector() : std::vector<float>());
    }
    return all;
  }
};

struct Case {
  const char* name;
  bool fused = true, adam = false;
  ft::DType precision = ft::DType::f32;
  int micro_batches = 1;
};

const Case cases[] = {
    {"fused, SGD", true, false},
    {"unfused, SGD", false, false},
    {"fused, AdamW with clipping", true, true},
    {"unfused, AdamW with clipping", false, true},
    {"bf16", true, false, ft::DType::bf16},
    {"accumulation over three runs", true, false, ft::DType::f32, 3},
    {"accumulation, AdamW, bf16", true, true, ft::DType::bf16, 2},
};

}  // namespace

TEST_CASE("a step that fails in any of its kernels changes nothing, and the next one goes on") {
  const OnBackend backend(trapped_backend());
  for (const Case& each : cases) {
    CAPTURE(std::string(each.name));
    const Fusion fusion(each.fused);
    ft::manual_seed(5);
    Training subject(each.adam, each.precision, each.micro_batches);
    ft::manual_seed(5);
    Training good(each.adam, each.precision, each.micro_batches);
    trap.set(-1);
    subject.step(0), good.step(0);
    trap.set(-1);
    subject.step(1), good.step(1);
    const int kernels = trap.met;  // of both
    REQUIRE(kernels > 10);
    std::uint64_t dice = 12345;
    int failures = 0;
    for (int step = 2; step < 31; ++step) {
      CAPTURE(step);
      dice = dice * 6364136223846793005u + 1442695040888963407u;
      trap.set(static_cast<int>((dice >> 33) % static_cast<std::uint64_t>(kernels / 2)));
      failures += subject.step_with_failures(step);
      trap.set(-1);
      good.step(step);
      CHECK(subject.cells() == good.cells());
    }
    CHECK(failures == 29);  // 203 in all
  }
}

TEST_CASE("a plan or memory that fails is a failed run: what was pending is dropped, cells are as before") {
  const OnBackend backend(trapped_backend());
  Training subject(true, ft::DType::f32, 1), good(true, ft::DType::f32, 1);
  for (std::size_t i = 0; i < subject.optimizer->parameters().size(); ++i) {
    Parameter p = subject.optimizer->parameters()[i];
    p.set_data(good.optimizer->parameters()[i].value());
  }
  subject.step(0), good.step(0);
  const Bits before = subject.cells();
  const Tensor other = ft::ones({2}) * 2.0;

  ft::clear_plan_cache();
  TrappedBackend::compiles_left = 7;
  CHECK(contains(message_of([&] { subject.step(1); }), "a kernel cannot be made"));
  TrappedBackend::compiles_left = -1;
  CHECK(subject.cells() == before);
  CHECK_THROWS_WITH_AS(other.to_vector(), doctest::Contains("lost"), ft::Error);

  // 4 TiB
  const Tensor scale = subject.optimizer->parameters()[0].value();
  subject.loss(1).backward();
  CHECK(contains(message_of([&] {
                   ft::broadcast_to(ft::ones({1}) * 2.0, {1 << 20, 1 << 20});
                 }),
                 "transaction_test.cpp"));
  CHECK(subject.cells() == before);
  CHECK_FALSE(subject.optimizer->parameters()[0].grad().defined());

  subject.step(1), good.step(1);
  CHECK(subject.cells() == good.cells());
}

TEST_CASE("gradients: one of an earlier run is as before the run that fails, one of that run is undefined") {
  for (const char* name : {"cpu", "reference"}) {
    const OnBackend backend(name);
    Parameter p(ft::from_vector({1.f, 2.f}, {2})), q(ft::ones({2}));
    ft::sum(p * p).backward();
    REQUIRE(p.grad().to_vector() == std::vector<float>{2, 4});
    const ft::CustomOp ill(
        {.name = "ill", .forward = [](ft::CustomForward&) { throw std::runtime_error("no idea"); }});
    ft::sum(p * q).backward();
    CHECK_THROWS_AS(ill.one({ft::ones({1})}).item(), ft::Error);
    CHECK(p.grad().to_vector() == std::vector<float>{2, 4});
    CHECK_FALSE(q.grad().defined());

    p.zero_grad();  // the user's word holds
    ft::sum(p * q).backward();
    CHECK_THROWS_AS(ill.one({ft::ones({1})}).item(), ft::Error);
    CHECK_FALSE(p.grad().defined());
  }
}

TEST_CASE("cells: of several bindings in a run that fails the last good one counts, read or not") {
  for (const char* name : {"cpu", "reference"}) {
    const OnBackend backend(name);
    const auto fail = [] {
      const Tensor bad = ft::cast(ft::from_vector({9.f}, {1}), ft::DType::i64);
      CHECK_THROWS_AS(ft::cross_entropy(ft::zeros({1, 4}), bad).item(), ft::Error);
    };
    const auto of = [](const Cell& cell) { return cell.value().to_vector(); };
    Cell read(ft::ones({2})), unread(ft::ones({2})), twice(ft::ones({2})), users(ft::ones({2}));
    read.set_data(read.value() * 2.0);
    unread.set_data(ft::zeros({2}) + 3.0);
    twice.set_data(twice.value() * 2.0);
    twice.set_data(twice.value() * 2.0);
    users.set_data(users.value() * 2.0);
    users.set_data(ft::full({2}, 7));  // ready: no run's result
    users.set_data(users.value() * 2.0);
    fail();
    CHECK(of(read) == std::vector<float>(2, 1));
    CHECK(of(unread) == std::vector<float>(2, 1));
    CHECK(of(twice) == std::vector<float>(2, 1));
    CHECK(of(users) == std::vector<float>(2, 7));
    read.set_data(read.value() * 2.0);
    ft::materialize();
    read.set_data(read.value() * 5.0);
    fail();
    CHECK(of(read) == std::vector<float>(2, 2));
  }
}

TEST_CASE("a module call that throws has no effect: running statistics are as before it") {
  struct Ill : ft::nn::Module {
    ft::nn::BatchNorm2d norm{3};
    ft::nn::Linear fc{{.in = 5, .out = 2}};
    Ill() { register_child("norm", norm), register_child("fc", fc); }
    Tensor forward(const Tensor& x) override { return fc(ft::global_avg_pool(norm(x))); }
  };
  const OnBackend backend("cpu");
  ft::manual_seed(3);
  Ill model;
  const auto mean = [&] { return model.named_buffers()[0].second.value().to_vector(); };
  CHECK(contains(message_of([&] { model(ft::full({2, 2, 2, 3}, 5)); }), "linear"));
  CHECK(mean() == std::vector<float>(3, 0));

  // What was pending before the call stays so.
  model.norm(ft::full({2, 2, 2, 3}, 10));
  CHECK_THROWS_AS(model(ft::full({2, 2, 2, 3}, 5)), ft::Error);
  CHECK(mean() == std::vector<float>(3, 1));
  // What ran within the call has happened.
  struct Reads : Ill {
    Tensor forward(const Tensor& x) override {
      norm(x).to_vector();
      norm(x * 2.0);
      throw ft::Error("mine", "no more");
    }
  } reads;
  CHECK_THROWS_AS(reads(ft::full({2, 2, 2, 3}, 10)), ft::Error);
  CHECK(reads.named_buffers()[0].second.value().to_vector() == std::vector<float>(3, 1));
}

TEST_CASE("a failed run costs no checkpoint: what is saved then is what was there before") {
  const OnBackend backend("cpu");
  Training subject(false, ft::DType::f32, 1);
  subject.step(0);
  const Bits before = subject.cells();
  const Tensor labels = ft::cast(ft::from_vector({0.f, 1.f, 2.f, 9.f}, {4}), ft::DType::i64);
  subject.optimizer->zero_grad();
  ft::cross_entropy(subject.net(ft::randn({4, 6, 6, 3})), labels).backward();
  CHECK(contains(message_of([&] { subject.optimizer->step(); }), "got labels[3] = 9"));
  CHECK(subject.cells() == before);
  CHECK(subject.optimizer->updates().front() == 1);
}

TEST_CASE("loops that read nothing hold no more inputs than the limit; a training step is not cut") {
  const OnBackend backend("cpu");
  const std::int64_t limit_before = ft::pending_limit();
  constexpr std::int64_t batch_bytes = 1 << 20;
  const auto runs = [] { return ft::plan_cache_stats().hits + ft::plan_cache_stats().misses; };
  const auto batch = [] { return ft::full({batch_bytes / 4}, 1); };
  ft::set_pending_limit(8 * batch_bytes);
  ft::materialize();
  const std::int64_t pool_before = ft::memory_stats().pool_bytes;
  std::int64_t most = 0;
  Tensor count = ft::zeros({1});
  for (int i = 0; i < 100; ++i) {
    count = count + ft::sum(batch());
    most = std::max(most, ft::memory_stats().pool_bytes - pool_before);
  }
  CHECK(most <= 11 * batch_bytes);
  CHECK(count.item() == 100.0 * batch_bytes / 4);

  // Inputs that the user holds, too, are no reason.
  std::vector<Tensor> held;
  std::int64_t before = runs();
  for (int i = 0; i < 20; ++i) count = count + ft::sum(held.emplace_back(batch()));
  CHECK(runs() == before);
  count.item();

  // Forward, backward and update are one run, and so are two micro-batches with theirs, up to a backward.
  Parameter p(ft::ones({batch_bytes / 4}));
  ft::optim::SGD sgd({p}, {.lr = 0.1});
  ft::set_pending_limit(batch_bytes);
  const Tensor images = batch();
  before = runs();
  for (int i = 0; i < 3; ++i) {
    sgd.zero_grad();
    Tensor loss = ft::sum(p * images);
    for (int layer = 0; layer < 4; ++layer) loss = loss + ft::sum(p * batch());
    CHECK(runs() == before + i * 2);  // nothing runs before the backward, whatever forward holds
    loss.backward();
    CHECK(runs() == before + i * 2 + 1);
    sgd.step();
  }
  CHECK_THROWS_WITH_AS(ft::set_pending_limit(-1), doctest::Contains("expected at least 0"), ft::Error);
  ft::set_pending_limit(limit_before);
}
