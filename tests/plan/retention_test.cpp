// What backward is given of forward's values: kept, as a mask, or computed again. No choice changes a number.
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Retention;
using ft::Tensor;
using fusetape::tests::OnBackend;

namespace {

class Retain {
 public:
  explicit Retain(Retention retention) : before_(ft::retention()) { ft::set_retention(retention); }
  ~Retain() { ft::set_retention(before_); }
  Retain(const Retain&) = delete;
  Retain& operator=(const Retain&) = delete;

 private:
  Retention before_;
};

constexpr Retention all[] = {Retention::fastest, Retention::balanced, Retention::smallest};

/// One training step's report.
ft::Report train_step(ft::nn::Module& model, std::int64_t batch, std::int64_t size) {
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9});
  const Tensor images = ft::rand({batch, size, size, 3});
  const Tensor loss = ft::cross_entropy(model(images), ft::zeros({batch}, ft::DType::i64));
  loss.backward();
  sgd.step();
  return ft::explain();
}

std::int64_t groups_that_begin(const ft::Report& report, const std::string& name) {
  return std::count_if(report.groups.begin(), report.groups.end(),
                       [&](const ft::GroupReport& group) { return group.name.starts_with(name); });
}

/// Parameters after two steps, and running statistics.
std::vector<std::vector<float>> trained(Retention retention) {
  const Retain retain(retention);
  ft::manual_seed(3);
  ft::nn::ResNet model({.blocks = {1, 1, 1}, .width = 16, .classes = 10});
  for (int step = 0; step < 2; ++step) train_step(model, 3, 8);
  std::vector<std::vector<float>> values;
  for (const auto& [name, parameter] : model.named_parameters())
    values.push_back(parameter.value().to_vector());
  for (const auto& [name, buffer] : model.named_buffers()) values.push_back(buffer.value().to_vector());
  return values;
}

}  // namespace

TEST_CASE("what ResNet-20 keeps for backward at batch 128") {
  const OnBackend backend("null");
  std::int64_t before = 0;
  for (const Retention retention : all) {
    CAPTURE(static_cast<int>(retention));
    const Retain retain(retention);
    ft::nn::ResNet model = ft::nn::resnet20({.classes = 10});
    const ft::Report report = train_step(model, 128, 32);
    if (retention == Retention::fastest) {
      CHECK(report.kept_bytes < 205'000'000);
      CHECK(groups_that_begin(report, "batch_norm_apply+relu") == 0);
    } else {
      CHECK(report.kept_bytes < before);
    }
    if (retention == Retention::balanced) {
      CHECK(report.kept_bytes <= 160'000'000);
      CHECK(report.peak_bytes <= 190'000'000);
      CHECK(groups_that_begin(report, "batch_norm_apply+relu") >= 9);  // the inner ReLU of each block
    }
    before = report.kept_bytes;
  }
}

TEST_CASE("no choice of retention changes a bit") {
  for (const ft::ConvAlgorithm algorithm : {ft::ConvAlgorithm::direct, ft::ConvAlgorithm::winograd}) {
    CAPTURE(static_cast<int>(algorithm));
    const fusetape::tests::ConvBy conv(algorithm);
    const std::vector<std::vector<float>> fastest = trained(Retention::fastest);
    CHECK(fastest.size() > 20);
    CHECK(trained(Retention::balanced) == fastest);
    CHECK(trained(Retention::smallest) == fastest);
  }
}

TEST_CASE("a bias gradient has the same bits whether its ReLU's mask is read from y or from bits") {
  const OnBackend backend("cpu");
  for (const ft::DType dtype : {ft::DType::f32, ft::DType::bf16}) {
    for (const std::int64_t channels : {1, 3, 8, 17, 24, 129, 257}) {
      CAPTURE(channels);
      const auto gradients = [&](Retention retention) {
        const Retain retain(retention);
        ft::manual_seed(7);
        const Tensor x = ft::variable(ft::cast(ft::randn({2, 17, 19, channels}), dtype));
        const Tensor b = ft::variable(ft::cast(ft::randn({channels}), dtype));
        const Tensor scale = ft::cast(ft::randn({2, 17, 19, channels}), dtype);
        ft::materialize();
        // Not behind a product with y: the mask is all that backward reads of it.
        const Tensor loss = ft::sum(ft::avg_pool2d(ft::relu(ft::bias_add(x, b)), {.window = {1, 1}}) * scale);
        const std::vector<Tensor> both = ft::grad({loss}, {b, x});
        ft::materialize();
        CHECK(groups_that_begin(ft::explain(), "relu_grad+bias_grad") == 1);
        CHECK(groups_that_begin(ft::explain(), "relu_mask") == (retention == Retention::fastest ? 0 : 1));
        return std::vector<std::vector<float>>{both[0].to_vector(), both[1].to_vector()};
      };
      CHECK(gradients(Retention::smallest) == gradients(Retention::fastest));
    }
  }
}

TEST_CASE("a ReLU whose sign is all that backward needs keeps a bit of each element") {
  const OnBackend backend("cpu");
  const auto kept = [&](Retention retention) {
    const Retain retain(retention);
    const Tensor x = ft::variable(ft::ones({4, 8, 8, 16})), w = ft::variable(ft::ones({16, 3, 3, 16}));
    ft::materialize();
    const Tensor loss = ft::mean(ft::avg_pool2d(ft::relu(ft::conv2d(x, w, {.padding = {1, 1}}))));
    const std::vector<Tensor> gradients = ft::grad({loss}, {x, w});
    ft::materialize();
    return ft::explain().kept_bytes;
  };
  const std::int64_t elements = 4 * 8 * 8 * 16;
  CHECK(kept(Retention::fastest) - kept(Retention::smallest) == 4 * elements - elements / 8);
}

TEST_CASE("what a live handle names is neither masked away nor computed again") {
  const OnBackend backend("cpu");
  const Retain retain(Retention::smallest);
  const Tensor x = ft::variable(ft::randn({2, 4, 4, 8}));
  const Tensor y = ft::relu(x * 2.0), z = ft::gelu(y);
  const std::vector<Tensor> gradients = ft::grad({ft::sum(z * z)}, {x});
  const std::vector<float> inputs = x.to_vector(), outputs = y.to_vector();
  for (std::size_t i = 0; i < inputs.size(); ++i) CHECK(outputs[i] == std::max(0.0F, 2 * inputs[i]));
}

TEST_CASE("what only backward reads is not computed in forward, too, when it is computed again") {
  const OnBackend backend("cpu");
  const Retain retain(Retention::smallest);
  const Tensor x = ft::rand({6, 8});
  ft::Parameter scale(ft::ones({6, 8})), w(ft::ones({8, 8}));
  // Nobody can read the loss: the product is dead, and with it the forward reader of the sigmoid.
  ft::sum(ft::matmul(ft::sigmoid(x * scale.value()), w.value())).backward();
  ft::materialize();
  CHECK(groups_that_begin(ft::explain(), "mul+sigmoid") == 1);
}

TEST_CASE("the mask of a scalar's ReLU is read from its value") {
  const OnBackend backend("cpu");
  for (const Retention retention : all) {
    const Retain retain(retention);
    ft::Parameter a(ft::scalar(2)), b(ft::scalar(3));
    const Tensor y = ft::relu(a.value() + b.value());
    (y * y).backward();
    CHECK(a.grad().item() == 10);
  }
}

TEST_CASE("a layer norm and an activation of which backward reads views are computed again") {
  const OnBackend backend("cpu");
  for (const ft::DType dtype : {ft::DType::f32, ft::DType::bf16}) {
    CAPTURE(dtype);
    const std::int64_t n = 3, length = 5, narrow = 16, wide = 64;
    const auto run = [&](Retention retention) {
      const Retain retain(retention);
      ft::manual_seed(5);
      const auto leaf = [&](const ft::Shape& shape) {
        return ft::variable(ft::cast(ft::randn(shape), dtype));
      };
      const Tensor x = leaf({n, length, narrow}), up = leaf({narrow, wide}), down = leaf({wide, narrow});
      const Tensor gamma = ft::variable(ft::rand({narrow})), beta = ft::variable(ft::randn({narrow}));
      ft::materialize();
      const auto forward = [&] {  // whose handles are gone when it runs
        const Tensor rows = ft::layer_norm(x * 2.0, gamma, beta).reshape({n * length, narrow});
        const Tensor hidden = ft::gelu(ft::matmul(rows, up).reshape({n, length, wide}));
        const Tensor y = ft::matmul(hidden.reshape({n * length, wide}), down);
        return ft::sum(y * y);
      };
      const std::vector<Tensor> gradients = ft::grad({forward()}, {x, up, down, gamma, beta});
      ft::materialize();
      std::vector<std::vector<double>> numbers;
      numbers.reserve(gradients.size());
      for (const Tensor& gradient : gradients) numbers.push_back(gradient.to_vector<double>());
      return std::pair(numbers, ft::explain().kept_bytes);
    };
    const auto [numbers, bytes] = run(Retention::fastest);
    const auto [again, fewer] = run(Retention::smallest);
    CHECK(again == numbers);
    // The norm's y, made of x·2, which stays, and gelu's.
    const auto size = static_cast<std::int64_t>(ft::size_of(dtype));
    CHECK(bytes - fewer == n * length * (narrow + wide) * size);
  }
}

TEST_CASE("memory that backward reads under several names is given up as a whole, or not at all") {
  const OnBackend backend("cpu");
  struct Row {
    const char* name;
    /// Of x {4, 6, 8}; what is to be kept alive goes to `outside`.
    Tensor (*forward)(const Tensor& x, Tensor& outside);
    std::int64_t values_fewer;  ///< that `smallest` keeps, of 192 elements each
  };
  const Row rows[] = {
      {"a value and its view",
       [](const Tensor& x, Tensor&) {
         const Tensor y = ft::gelu(ft::matmul(x.reshape({24, 8}), ft::ones({8, 8})));
         const Tensor z = y.reshape({8, 24});
         return ft::sum(ft::matmul(y, ft::transpose(y))) + ft::sum(ft::matmul(z, ft::transpose(z)));
       },
       1},
      {"a view of a view",
       [](const Tensor& x, Tensor&) {
         const Tensor y = ft::gelu(ft::matmul(x.reshape({24, 8}), ft::ones({8, 8})));
         const Tensor z = y.reshape({4, 48}).reshape({48, 4});
         return ft::sum(ft::matmul(z, ft::transpose(z)));
       },
       1},
      {"a view that somebody can name",
       [](const Tensor& x, Tensor& outside) {
         const Tensor y = ft::gelu(ft::matmul(x.reshape({24, 8}), ft::ones({8, 8})));
         outside = y.reshape({48, 4});
         return ft::sum(ft::matmul(outside, ft::transpose(outside)));
       },
       0},
      {"a view on the way",
       [](const Tensor& x, Tensor&) {
         const Tensor y = ft::gelu(ft::matmul(x.reshape({24, 8}), ft::ones({8, 8}))).reshape({48, 4}) + 1.0;
         return ft::sum(ft::matmul(y, ft::transpose(y)));
       },
       1},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const auto run = [&](Retention retention) {
      const Retain retain(retention);
      ft::manual_seed(2);
      const Tensor x = ft::variable(ft::randn({4, 6, 8}));
      ft::materialize();
      Tensor outside;
      const std::vector<Tensor> gradients = ft::grad({row.forward(x, outside)}, {x});
      ft::materialize();
      const std::int64_t kept = ft::explain().kept_bytes;
      return std::pair(gradients[0].to_vector(), kept);
    };
    const auto [numbers, bytes] = run(Retention::fastest);
    const auto [again, fewer] = run(Retention::smallest);
    CHECK(again == numbers);
    CHECK(bytes - fewer == row.values_fewer * 192 * 4);
  }
}
