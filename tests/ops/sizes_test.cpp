// Options in pixels: one number is both axes, in functions and layers alike.
#include <doctest/doctest.h>

#include "fusetape/fusetape.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
using ft::Shape;
using ft::Tensor;

namespace {

Tensor of(const Shape& shape) { return ft::ones(shape); }

struct Sized {
  const char* what;
  Tensor result;
  Shape expected;
};

void check(const std::vector<Sized>& all) {
  for (const Sized& sized : all) {
    CAPTURE(sized.what);
    CHECK(to_string(sized.result.shape()) == to_string(sized.expected));
  }
}

template <class From, class To>
concept Gives = std::is_constructible_v<To, From>;

}  // namespace

TEST_CASE("convolutions: a single number is both axes") {
  const Tensor x = of({1, 8, 6, 2}), w = of({3, 3, 3, 2}), back = of({2, 3, 3, 3});
  const int one = 1;
  const std::size_t two = 2;
  check({
      {"padding = 1", ft::conv2d(x, w, {.padding = 1}), {1, 8, 6, 3}},
      {"padding = {1}", ft::conv2d(x, w, {.padding = {1}}), {1, 8, 6, 3}},
      {"padding = {1, 1}", ft::conv2d(x, w, {.padding = {1, 1}}), {1, 8, 6, 3}},
      {"padding = {1, 0}", ft::conv2d(x, w, {.padding = {1, 0}}), {1, 8, 4, 3}},
      {"of an int", ft::conv2d(x, w, {.padding = one}), {1, 8, 6, 3}},
      {"of a size_t", ft::conv2d(x, w, {.stride = two, .padding = {one, two}}), {1, 4, 4, 3}},
      {"stride = 2", ft::conv2d(x, w, {.stride = 2}), {1, 3, 2, 3}},
      {"stride = {2}", ft::conv2d(x, w, {.stride = {2}}), {1, 3, 2, 3}},
      {"dilation = 2", ft::conv2d(x, w, {.dilation = 2}), {1, 4, 2, 3}},
      {"transposed, stride = 2", ft::conv_transpose2d(x, back, {.stride = 2}), {1, 17, 13, 3}},
      {"transposed, padding = 1", ft::conv_transpose2d(x, back, {.padding = 1}), {1, 8, 6, 3}},
      {"transposed, all",
       ft::conv_transpose2d(x, back, {.stride = 2, .padding = 1, .output_padding = 1, .dilation = 2}),
       {1, 18, 14, 3}},
  });
}

TEST_CASE("pools: the window alone, and a single number for both axes") {
  const Tensor x = of({1, 8, 6, 2});
  check({
      {"max_pool2d(x, 2)", ft::max_pool2d(x, 2), {1, 4, 3, 2}},
      {"avg_pool2d(x, 2)", ft::avg_pool2d(x, 2), {1, 4, 3, 2}},
      {"avg_pool2d(x, Size2d)", ft::avg_pool2d(x, ft::Size2d{4, 3}), {1, 2, 2, 2}},
      {"no options", ft::max_pool2d(x), {1, 4, 3, 2}},
      {"window = 3", ft::max_pool2d(x, {.window = 3}), {1, 2, 2, 2}},
      {"window = {3}", ft::avg_pool2d(x, {.window = {3}}), {1, 2, 2, 2}},
      {"window = {4, 3}", ft::max_pool2d(x, {.window = {4, 3}}), {1, 2, 2, 2}},
      {"stride = 1", ft::max_pool2d(x, {.stride = 1}), {1, 7, 5, 2}},
      {"padding = 1", ft::avg_pool2d(x, {.window = 3, .stride = 1, .padding = 1}), {1, 8, 6, 2}},
      {"MaxPool2d(2)", nn::MaxPool2d(2)(x), {1, 4, 3, 2}},
      {"AvgPool2d(2)", nn::AvgPool2d(2)(x), {1, 4, 3, 2}},
      {"MaxPool2d()", nn::MaxPool2d()(x), {1, 4, 3, 2}},
      {"MaxPool2d({…})", nn::MaxPool2d({.window = 3, .stride = 1, .padding = 1})(x), {1, 8, 6, 2}},
  });
  nn::Sequential net;
  net.emplace<nn::Conv2d>({.in = 2, .out = 4, .kernel = 3, .padding = {1}});
  net.emplace<nn::MaxPool2d>(2);
  net.emplace<nn::AvgPool2d>({.window = 2});
  CHECK(net(x).shape() == Shape{1, 2, 1, 4});
}

TEST_CASE("pad: a single number is both ends of an axis") {
  check({
      {"{{1, 2}, {0, 3}}", ft::pad(of({2, 3}), {{1, 2}, {0, 3}}), {5, 6}},
      {"{{1}, {2}}", ft::pad(of({2, 3}), {{1}, {2}}), {4, 7}},
      {"{1, 2}", ft::pad(of({2, 3}), {1, 2}), {4, 7}},
      {"{1}", ft::pad(of({2}), {1}), {4}},
  });
}

TEST_CASE("what is no whole number of pixels does not compile") {
  CHECK(Gives<int, ft::Size2d>);
  CHECK(Gives<int, ft::Padding2d>);
  CHECK(Gives<std::size_t, ft::PadWidth>);
  CHECK_FALSE(Gives<double, ft::Size2d>);
  CHECK_FALSE(Gives<bool, ft::Size2d>);
  CHECK_FALSE(Gives<float, ft::Padding2d>);
  CHECK_FALSE(Gives<double, ft::PadWidth>);
}
