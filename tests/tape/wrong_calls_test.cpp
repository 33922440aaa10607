// Wrong calls that were once taken in silence, crashed, or threw what is no Error with the caller's line.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/tape/tape.hpp"
#include "fusetape/fusetape.hpp"

namespace ft = fusetape;
using ft::DType;
using ft::Parameter;
using ft::Tensor;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct WrongCall {
  std::string op;  ///< that the error names
  std::function<void()> make;
  std::vector<std::string> says;  ///< what the message holds, beside the op and this file's name
};

void check_all(const std::vector<WrongCall>& calls) {
  for (const WrongCall& call : calls) {
    CAPTURE(call.op);
    const std::size_t pending = ft::core::Tape::current().pending_nodes();
    try {
      call.make();
      FAIL_CHECK("no error; wanted one of " << call.op);
    } catch (const ft::Error& error) {
      const std::string text = error.what();
      CAPTURE(text);
      CHECK(error.op() == call.op);
      CHECK(text.find("(wrong_calls_test.cpp:") != std::string::npos);
      for (const std::string& part : call.says) CHECK_MESSAGE(text.find(part) != std::string::npos, part);
    }
    CHECK(ft::core::Tape::current().pending_nodes() == pending);
  }
}

/// A number that no enumerator has.
template <class Enum>
Enum cast_from(int number) {
  return static_cast<Enum>(number);
}

}  // namespace

TEST_CASE("enums: a number that no enumerator has") {
  const auto bad = cast_from<DType>(7);  // the first that is none
  const std::vector<float> floats{1, 2};
  const std::vector<double> doubles{1, 2};
  const Tensor x = ft::ones({2}), logits = ft::ones({2, 3}), labels = ft::zeros({2}, DType::i64);
  const ft::CustomOp op({.name = "of_no_dtype",
                         .shapes =
                             [bad](const std::vector<ft::TensorSpec>&) {
                               return std::vector<ft::TensorSpec>{{ft::Shape{1}, bad}};
                             },
                         .forward = [](ft::CustomForward&) {}});
  const auto reduction = cast_from<ft::Reduction>(3);
  check_all({
      {"cast", [&] { ft::cast(x, bad); }, {"expected a DType", "got 7"}},
      {"of_no_dtype", [&] { op({x}); }, {"expected a DType", "got 7"}},
      {"full", [&] { ft::full({2}, 1, bad); }, {"expected a DType", "got 7"}},
      {"zeros", [&] { ft::zeros({2}, bad); }, {"expected a DType", "got 7"}},
      {"ones", [&] { ft::ones({2}, bad); }, {"expected a DType", "got 7"}},
      {"scalar", [&] { ft::scalar(1, bad); }, {"expected a DType", "got 7"}},
      {"arange", [&] { ft::arange(2, cast_from<DType>(99)); }, {"expected a DType", "got 99"}},
      {"from_floats", [&] { ft::from_floats(floats, {2}, bad); }, {"expected a DType", "got 7"}},
      {"from_doubles", [&] { ft::from_doubles(doubles, {2}, bad); }, {"expected a DType", "got 7"}},
      {"rand", [&] { ft::rand({2}, bad); }, {"expected a floating dtype"}},
      {"cross_entropy",
       [&] { ft::cross_entropy(logits, labels, {.reduction = reduction}); },
       {"expected a Reduction", "got 3"}},
      {"mse_loss", [&] { ft::mse_loss(x, x, reduction); }, {"expected a Reduction", "got 3"}},
      {"bce_with_logits", [&] { ft::bce_with_logits(x, x, reduction); }, {"expected a Reduction", "got 3"}},
      {"set_retention", [] { ft::set_retention(cast_from<ft::Retention>(3)); }, {"got 3"}},
      {"set_conv_algorithm", [] { ft::set_conv_algorithm(cast_from<ft::ConvAlgorithm>(3)); }, {"got 3"}},
      {"Autocast", [bad] { const ft::Autocast autocast(bad); }, {"expected bf16 or f16"}},
      {"cifar10", [] { ft::data::cifar10("", cast_from<ft::data::Split>(2)); }, {"expected Split", "got 2"}},
      {"cifar100",
       [] { ft::data::cifar100("", cast_from<ft::data::Split>(2)); },
       {"expected Split", "got 2"}},
      {"load",
       [] { ft::io::load_tensors("none", {.foreign = cast_from<ft::io::ForeignDType>(3)}); },
       {"expected a ForeignDType", "got 3"}},
      {"load",
       [] { ft::io::load_checkpoint("none", {}, {.settings = cast_from<ft::io::OnMismatch>(3)}); },
       {"expected an OnMismatch", "got 3"}},
  });
  CHECK(ft::retention() == ft::Retention::fastest);
}

TEST_CASE("functions that are empty, or return what cannot be used") {
  using Tensors = std::vector<Tensor>;
  const Tensor x = ft::ones({2}), exact = ft::ones({2}, DType::f64);
  const auto nothing = [](const Tensor&) { return Tensor(); };
  const auto one_missing = [](const Tensors& in) { return Tensors{in[0], Tensor()}; };
  struct Unset : ft::optim::Schedule {
    Unset(ft::optim::Optimizer& of, ft::Location at) : Schedule(of, nullptr, "custom", {}, at) {}
  };
  ft::optim::SGD sgd({Parameter(x)});
  check_all({
      {"gradcheck", [&] { ft::gradcheck({}, {exact}); }, {"fn is empty"}},
      {"gradcheck",
       [&] { ft::gradcheck([](const Tensors&) { return Tensor(); }, {exact}); },
       {"fn returned an undefined tensor"}},
      {"gradcheck",
       [&] { ft::gradcheck([&](const Tensors&) { return x; }, {exact}); },
       {"expected fn to return f64, got f32"}},
      {"gradcheck",
       [&] { ft::gradcheck([](const Tensors& in) { return in[0]; }, {exact}, {.step = 0}); },
       {"expected a finite step > 0, got 0"}},
      {"checkpoint", [&] { ft::checkpoint(nothing, x); }, {"fn returned an undefined tensor"}},
      {"checkpoint", [&] { ft::checkpoint(one_missing, Tensors{x}); }, {"fn returned an undefined tensor"}},
      {"checkpoint",
       [&] {
         const ft::NoGrad no_grad;
         ft::checkpoint(nothing, x);
       },
       {"fn returned an undefined tensor"}},
      {"Schedule", [&] { const Unset schedule(sgd, ft::Location::current()); }, {"rate is empty"}},
  });
  CHECK(ft::backend_name() == "cpu");
}

TEST_CASE("numbers that are no finite f32 where one is wanted") {
  const Tensor x = ft::ones({4, 2}), c = ft::ones({2});
  ft::nn::LeakyReLU leaky(infinity);
  check_all({
      {"leaky_relu", [&] { ft::leaky_relu(x, NAN); }, {"expected a finite slope, got nan"}},
      {"leaky_relu", [&] { leaky(x); }, {"expected a finite slope, got inf"}},
      {"batch_norm",
       [&] { ft::batch_norm(x, c, c, {.eps = infinity}); },
       {"expected eps of at least 0 and finite, got inf"}},
      {"batch_norm_inference",
       [&] { ft::batch_norm_inference(x, c, c, c, c, {.eps = infinity}); },
       {"expected eps of at least 0 and finite, got inf"}},
      {"BatchNorm2d",
       [] { ft::nn::BatchNorm2d(2, {.eps = infinity}); },
       {"expected eps > 0 and finite, got inf"}},
      {"uniform", [] { ft::nn::uniform({2}, 0, infinity); }, {"which f32 holds, got 0 and inf"}},
      {"uniform", [] { ft::nn::uniform({2}, -1e300, 0); }, {"which f32 holds, got -1e+300 and 0"}},
  });
}

TEST_CASE("what carries no gradient is no parameter and no loss") {
  ft::optim::LossScaler scaler;
  struct Net : ft::nn::Module {
    explicit Net(ft::Location at) { register_parameter("steps", ft::zeros({2}, DType::i64), at); }
  };
  check_all({
      {"Parameter",
       [] { Parameter(ft::ones({2}, DType::i64)); },
       {"expected a value of a floating dtype, got i64"}},
      {"Parameter",
       [] { Parameter(ft::ones({2}, DType::u8)); },
       {"expected a value of a floating dtype, got u8"}},
      {"Parameter",
       [] { Parameter(ft::ones({2}, DType::boolean)); },
       {"expected a value of a floating dtype, got bool"}},
      {"Parameter", [] { const Net net(ft::Location::current()); }, {"got i64"}},
      {"LossScaler",
       [&] { scaler.scale(ft::ones({}, DType::i64)); },
       {"expected a loss of a floating dtype, got i64"}},
      {"LossScaler", [&] { scaler.scale(Tensor()); }, {"the loss is undefined"}},
  });
}

TEST_CASE("undefined tensors and parameters: the line is the caller's, not the library's") {
  const Parameter p(ft::ones({2}));
  const Tensor none, y = p * 2.0;
  check_all({
      {"shape", [&] { none.size(0); }, {"the tensor is undefined"}},
      {"grad", [&] { ft::grad({y}, {p.value()}, {none}); }, {"the gradient of output 0 is undefined"}},
      {"clip_grad_norm", [] { ft::optim::clip_grad_norm({Parameter()}, 1); }, {"parameter 0 is undefined"}},
  });
}

TEST_CASE("a parameter that is given twice would be clipped twice") {
  Parameter p(ft::ones({2}), "w");
  p.set_grad(ft::full({2}, 10));
  check_all({{"clip_grad_norm",
              [&] {
                ft::optim::clip_grad_norm({p, p}, 1);
              },
              {"parameter 1 (\"w\") is given twice"}}});
  CHECK(p.grad().to_vector() == std::vector<float>{10, 10});
}
