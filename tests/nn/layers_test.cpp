// Layers beside convolutions and batch norms: shapes, modes, what they refuse; and that ops made of others
// name the caller's line.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
using namespace fusetape::tests;
using ft::Tensor;

TEST_CASE("norms of samples and rows have mean β and deviation γ there, in any mode") {
  ft::manual_seed(2);
  const Tensor x = ft::randn({3, 4, 5, 6}) * 3.0 + 7.0;
  nn::GroupNorm group(2, 6);
  group.weight().set_data(ft::full({6}, 2));
  group.bias().set_data(ft::full({6}, 0.5));
  group.eval();
  const Tensor y = group(x).reshape({3, 20, 2, 3});
  CHECK(difference(y.mean({1, 3}).to_vector<double>(), Numbers(6, 0.5)) <= 1e-5);
  CHECK(difference(ft::var(y, {1, 3}, {.correction = 0}).to_vector<double>(), Numbers(6, 4)) <= 1e-4);
  nn::LayerNorm layer(6);
  CHECK(difference(ft::var(layer(x), -1, {.correction = 0}).to_vector<double>(), Numbers(60, 1)) <= 1e-4);
  CHECK(nn::GroupNorm(6, 6)(ft::ones({2, 1, 1, 6})).to_vector() == std::vector<float>(12, 0));
  group(x).sum().backward();
  CHECK(group.weight().grad().shape() == ft::Shape{6});
}

TEST_CASE("an embedding's rows are trained where they were looked up") {
  nn::Embedding table(5, 3);
  const Tensor y = table(ft::from_vector<std::int64_t>({4, 1, 4, 0}, {2, 2}));
  CHECK(y.shape() == ft::Shape{2, 2, 3});
  y.sum().backward();
  CHECK(table.weight().grad().sum(1).to_vector() == std::vector<float>{3, 3, 0, 0, 6});
  CHECK(contains(message_of([&] { table(ft::from_vector<std::int64_t>({5}, {1})).to_vector(); }),
                 "index[0] = 5 is not in [0, 5)"));
  CHECK(contains(message_of([&] { table(ft::ones({1})); }), "an index of dtype i64, got f32"));
}

TEST_CASE("dropout of channels and of samples drops them whole, in training only") {
  ft::manual_seed(3);
  const Tensor x = ft::ones({40, 3, 3, 10});
  for (const bool channels : {true, false}) {
    std::unique_ptr<nn::Module> layer;
    if (channels) {
      layer = std::make_unique<nn::Dropout2d>(0.25);
    } else {
      layer = std::make_unique<nn::DropPath>(0.25);
    }
    const Tensor y = (*layer)(x);
    const Tensor sums = channels ? y.sum({1, 2}) : y.sum({1, 2, 3});
    const float kept = (channels ? 9.0F : 90.0F) / 0.75F;
    std::int64_t dropped = 0;
    for (const float sum : sums.to_vector()) {
      CHECK((sum == 0 || std::abs(sum - kept) < 1e-3));
      dropped += sum == 0 ? 1 : 0;
    }
    const double share = static_cast<double>(dropped) / static_cast<double>(sums.elements());
    CHECK(std::abs(share - 0.25) < (channels ? 0.08 : 0.2));
    layer->eval();
    CHECK((*layer)(x).to_vector() == x.to_vector());
  }
}

TEST_CASE("layers that change the size of images") {
  const Tensor x = ft::arange(2 * 3 * 8).reshape({1, 2, 3, 8});
  CHECK(nn::Upsample(2)(x).shape() == ft::Shape{1, 4, 6, 8});
  CHECK(nn::Upsample(3, ft::Upsampling::bilinear)(x).shape() == ft::Shape{1, 6, 9, 8});
  CHECK(nn::PixelShuffle(2)(x).shape() == ft::Shape{1, 4, 6, 2});
  CHECK(nn::AdaptiveAvgPool2d({2, 2})(x).shape() == ft::Shape{1, 2, 2, 8});
  CHECK(nn::AdaptiveAvgPool2d(1)(x).to_vector() == ft::global_avg_pool(x).to_vector());
  // PyTorch 2.15: interpolate(arange(4.).view(1, 1, 1, 4), size=(1, 7), mode="bilinear"), and nearest.
  const Tensor row = ft::arange(4).reshape({1, 1, 4, 1});
  CHECK(difference(ft::upsample(row, {1, 7}, ft::Upsampling::bilinear).to_vector<double>(),
                   {0, 0.3571428656578064, 0.9285714030265808, 1.5, 2.0714285373687744, 2.642857074737549,
                    3}) <= 1e-6);
  CHECK(ft::upsample(row, {1, 7}).to_vector() == std::vector<float>{0, 0, 1, 1, 2, 2, 3});
}

TEST_CASE("padding that is not symmetric, and windows over the edge, as in TensorFlow and PyTorch") {
  const auto ones_seen = [](std::int64_t extent, std::int64_t kernel, std::int64_t stride) {
    const Tensor x = ft::ones({1, extent, 1, 1}), w = ft::ones({1, kernel, 1, 1});
    return ft::conv2d(x, w, {.stride = {stride, 1}, .padding = ft::Padding2d::same()}).to_vector();
  };
  // SAME: an odd pixel is below. Of 4 pixels with stride 2 there is one missing, of 5 there are two.
  CHECK(ones_seen(4, 3, 2) == std::vector<float>{3, 2});
  CHECK(ones_seen(5, 3, 2) == std::vector<float>{2, 3, 2});
  CHECK(ones_seen(4, 2, 1) == std::vector<float>{2, 2, 2, 1});
  CHECK(ones_seen(3, 1, 2) == std::vector<float>{1, 1});
  // PyTorch 2.15: max_pool2d and avg_pool2d of arange(25.).view(1, 1, 5, 5), 2, ceil_mode=True.
  const Tensor x = ft::arange(25).reshape({1, 5, 5, 1});
  const ft::Pool2dOptions over{.window = 2, .ceil_mode = true};
  CHECK(ft::max_pool2d(x, over).to_vector() == std::vector<float>{6, 8, 9, 16, 18, 19, 21, 23, 24});
  CHECK(ft::avg_pool2d(x, over).to_vector() == std::vector<float>{3, 5, 6.5, 13, 15, 16.5, 20.5, 22.5, 24});
  // The same of arange(48.).view(1, 1, 6, 8) with 3, 2, 1, with and without count_include_pad.
  const Tensor wide = ft::arange(48).reshape({1, 6, 8, 1});
  ft::Pool2dOptions third{.window = 3, .stride = 2, .padding = 1, .ceil_mode = true};
  CHECK(difference(ft::avg_pool2d(wide, third).to_vector<double>(),
                   {2,        4,  16.0 / 3, 20.0 / 3, 11.0 / 3, 11,   18, 20, 22, 11.5,
                    65.0 / 3, 34, 36,       38,       19.5,     13.5, 21, 22, 23, 11.75}) <= 1e-6);
  third.count_padding = false;
  CHECK(difference(ft::avg_pool2d(wide, third).to_vector<double>(),
                   {4.5, 6, 8, 10, 11, 16.5, 18, 20, 22, 23, 32.5, 34, 36, 38, 39, 40.5, 42, 44, 46, 47}) <=
        1e-6);
  // A window that would start beyond the image is left out: 3 windows of 2 with stride 3 and padding 1
  // over 5.
  CHECK(ft::max_pool2d(x, {.window = 2, .stride = 3, .padding = 1, .ceil_mode = true}).shape() ==
        ft::Shape{1, 2, 2, 1});
  CHECK(ft::max_pool2d(ft::ones({1, 2, 2, 1}), {.window = 3, .stride = 2, .ceil_mode = true}).shape() ==
        ft::Shape{1, 1, 1, 1});
  CHECK_FALSE(ft::Padding2d(0) == ft::Padding2d::same());
  CHECK_FALSE(ft::Padding2d(1, 0, 1, 0) == ft::Padding2d(1));
  nn::Conv2d conv({.in = 2, .out = 3, .kernel = 3, .stride = 2, .padding = ft::Padding2d::same()});
  CHECK(conv(ft::ones({1, 5, 8, 2})).shape() == ft::Shape{1, 3, 4, 3});
}

TEST_CASE("what layers and ops made of others are given wrongly is said at the caller's line") {
  const Tensor x = ft::ones({2, 3});
  const std::pair<const char*, std::function<void()>> cases[] = {
      {"[GroupNorm] expected channels to be a multiple of groups", [] { nn::GroupNorm(4, 6); }},
      {"[LayerNorm] expected eps > 0", [] { nn::LayerNorm(4, 0); }},
      {"[LayerNorm] expected width ≥ 1, got 0", [] { nn::LayerNorm(0); }},
      {"[DropPath] expected p in [0, 1), got 1", [] { nn::DropPath(1); }},
      {"[Dropout2d] expected 2 axes or more", [] { nn::Dropout2d(0.5)(ft::ones({3})); }},
      {"[Upsample] expected images", [&] { nn::Upsample(2)(x); }},
      {"[Upsample] expected factor ≥ 1", [] { nn::Upsample(0); }},
      {"[group_norm] expected a number of groups that divides 3",
       [&] { ft::group_norm(x, 2, ft::ones({3}), ft::ones({3})); }},
      {"[layer_norm] expected gamma and beta {3} of dtype f32 for x {2, 3}, got {2} f32",
       [&] { ft::layer_norm(x, ft::ones({2}), ft::ones({3})); }},
      {"[conv_transpose2d] expected symmetric padding",
       [] {
         ft::conv_transpose2d(ft::ones({1, 2, 2, 1}), ft::ones({1, 3, 3, 1}), {.padding = {0, 1, 0, 1}});
       }},
      {"[conv2d] expected padding of at least 0",
       [] {
         ft::conv2d(ft::ones({1, 2, 2, 1}), ft::ones({1, 3, 3, 1}), {.padding = {0, -1, 0, 1}});
       }},
      {"[max_pool2d] expected window and stride from 1",
       [] {
         ft::max_pool2d(ft::ones({1, 2, 2, 1}), {.window = 2, .padding = {0, 2, 0, 0}});
       }},
      {"[avg_pool2d] expected at least one pixel",
       [] {
         ft::avg_pool2d(ft::ones({1, 0, 4, 1}), {.window = 2, .padding = 1, .ceil_mode = true});
       }},
      {"[conv2d] expected at least one pixel",
       [] {
         ft::conv2d(ft::ones({1, 0, 2, 1}), ft::ones({1, 3, 3, 1}), {.padding = {1, 2, 1, 1}});
       }},
      {"[conv2d] expected",
       [] {
         ft::conv2d(ft::ones({1, 2, 2, 1}), ft::ones({1, 1, 1, 1}),
                    {.stride = std::numeric_limits<std::int64_t>::max(), .padding = ft::Padding2d::same()});
       }},
      {"[min] expected numbers, got bool", [] { ft::min(ft::ones({2}, ft::DType::boolean)); }},
      {"[min] expected", [&] { ft::min(x, 7); }},
      {"[argmin] expected", [&] { ft::argmin(x, 7); }},
      {"[logsumexp] expected a floating dtype, got i64",
       [] { ft::logsumexp(ft::ones({2}, ft::DType::i64)); }},
      {"[var] expected each axis once",
       [&] {
         ft::var(x, {0, 0});
       }},
      {"[one_hot] expected classes from 1 to 2^31",
       [] { ft::one_hot(ft::zeros({2}, ft::DType::i64), std::int64_t{1} << 60); }},
      {"[repeat] expected copies whose elements can be counted",
       [] {
         ft::repeat(ft::ones({0, 4}), {1, std::int64_t{1} << 62});
       }},
      {"[scatter_add] expected values of x's dtype, f32, got f64",
       [&] {
         ft::scatter_add(x, 0, ft::zeros({1, 3}, ft::DType::i64), ft::ones({1, 3}, ft::DType::f64));
       }},
      {"[upsample] expected at most 2^26 pairs",
       [] {
         ft::upsample(ft::ones({1, 5, 7, 3}), {2147483647, 1}, ft::Upsampling::bilinear);
       }},
      {"[Upsample] expected sizes that can be counted",
       [] {
         nn::Upsample((std::int64_t{1} << 62) + 1)(ft::ones({1, 4, 4, 1}));
       }},
      {"[layer_norm] expected at least one channel",
       [] {
         ft::layer_norm(ft::ones({2, 0}), ft::ones({0}), ft::ones({0}));
       }},
      {"[squeeze] expected an extent of 1", [&] { ft::squeeze(x, 0); }},
      {"[stack] expected tensors of one shape",
       [&] {
         ft::stack({x, ft::ones({3})});
       }},
      {"[split] expected sizes that make 3, got 1 + 1",
       [&] {
         ft::split(x, {1, 1}, 1);
       }},
      {"[repeat] expected a number for each axis", [&] { ft::repeat(x, {2}); }},
      {"[repeat] expected numbers ≥ 0",
       [&] {
         ft::repeat(x, {2, -1});
       }},
      {"[var] expected more than 1 elements, got 1", [] { ft::var(ft::ones({1})); }},
      {"[topk] expected a count from 0 to 3, got 4", [&] { ft::topk(x, 4); }},
      {"[pixel_shuffle] expected r ≥ 1",
       [] {
         ft::pixel_shuffle(ft::ones({1, 2, 2, 3}), 2);
       }},
      {"[upsample] expected sizes from 1",
       [] {
         ft::upsample(ft::ones({1, 2, 2, 3}), {0, 2});
       }},
      {"[adaptive_avg_pool2d] expected at least one pixel",
       [] {
         ft::adaptive_avg_pool2d(ft::ones({1, 0, 2, 3}), 1);
       }},
      {"[attention] expected q {…, L, E}",
       [&] {
         ft::scaled_dot_product_attention(x, x, ft::ones({3, 2}));
       }},
      {"[scatter_add] expected an index and values of one shape",
       [&] {
         ft::scatter_add(x, 0, ft::zeros({1, 3}, ft::DType::i64), ft::ones({2, 3}));
       }},
      {"[gather] expected an index like x {2, 3} but for axis 1",
       [&] {
         ft::gather(x, 1, ft::zeros({3, 1}, ft::DType::i64));
       }},
      {"[one_hot] expected classes from 1", [] { ft::one_hot(ft::zeros({2}, ft::DType::i64), 0); }},
      {"[embedding] expected a weight {entries, width}",
       [] { ft::embedding(ft::ones({3}), ft::zeros({1}, ft::DType::i64)); }},
      {"index[1] = -1 is not in [0, 2)",
       [&] {
         ft::index_select(x, 0, ft::from_vector<std::int64_t>({0, -1}, {2})).to_vector();
       }},
  };
  for (const auto& [expected, call] : cases) {
    const std::string message = message_of(call);
    CAPTURE(message);
    CHECK(contains(message, expected));
    CHECK(contains(message, "layers_test.cpp"));
  }
}

TEST_CASE("what ops made of others, or of the reference alone, compute: results that are known") {
  using Rows = std::vector<float>;
  const Tensor x = ft::from_vector({3, 1, 2, 6, 5, 4}, {2, 3});
  const auto index = [](std::vector<std::int64_t> places, ft::Shape shape) {
    return ft::from_vector(places, shape);
  };
  const std::pair<Tensor, Rows> cases[] = {
      {ft::roll(x, 1, 1), {2, 3, 1, 4, 6, 5}},
      {ft::roll(x, -1, 0), {6, 5, 4, 3, 1, 2}},
      {ft::flip(x, 1), {2, 1, 3, 4, 5, 6}},
      {ft::flip(x, {}), {4, 5, 6, 2, 1, 3}},
      {ft::cumsum(x, 1), {3, 4, 6, 6, 11, 15}},
      {ft::cumsum(x, 0), {3, 1, 2, 9, 6, 6}},
      {ft::repeat(x, {1, 2}), {3, 1, 2, 3, 1, 2, 6, 5, 4, 6, 5, 4}},
      {ft::stack({ft::slice(x, 0, 0, 1), ft::slice(x, 0, 1, 2)}, 2), {3, 6, 1, 5, 2, 4}},
      {ft::topk(x, 2).values, {3, 2, 6, 5}},
      {ft::topk(x, 1, 0).places.cast(ft::DType::f32), {1, 1, 1}},
      {ft::min(x, 0), {3, 1, 2}},
      {ft::argmin(x, 1).cast(ft::DType::f32), {1, 2}},
      {ft::prod(x, 1), {6, 120}},
      {ft::prod(ft::zeros({0, 2}), 0), {1, 1}},
      {ft::var(x, 1), {1, 1}},
      {ft::var(x, 0, {.correction = 0}), {2.25F, 4, 1}},
      {ft::logsumexp(x * 0.0, 1), {std::log(3.0F), std::log(3.0F)}},
      {ft::index_select(x, 1, index({2, 0}, {2})), {2, 3, 4, 6}},
      {ft::gather(x, 1, index({1, 2}, {2, 1})), {1, 4}},
      {ft::scatter_add(x, 1, index({0, 0, 2, 1}, {2, 2}), ft::ones({2, 2})), {5, 1, 2, 6, 6, 5}},
      {ft::one_hot(index({2, 7}, {2}), 3), {0, 0, 1, 0, 0, 0}},
      {ft::pixel_shuffle(ft::arange(8).reshape({1, 1, 1, 8}), 2), {0, 4, 1, 5, 2, 6, 3, 7}},
      {ft::gelu_tanh(ft::from_vector({-1, 0, 1}, {3})), {-0.1588080F, 0, 0.8411920F}},
      {ft::round(ft::from_vector({0.5F, 1.5F, -2.5F}, {3})), {0, 2, -2}},
      // Equal keys: each query takes the mean of what it may look at.
      {ft::scaled_dot_product_attention(x, ft::ones({2, 3}), ft::from_vector({2, 4}, {2, 1}),
                                        {.causal = true}),
       {2, 3}},
      {ft::scaled_dot_product_attention(x, ft::ones({2, 3}), ft::from_vector({2, 4}, {2, 1}),
                                        {.mask = ft::from_vector<bool>({false, true, true, true}, {2, 2})}),
       {4, 3}},
      {ft::logical_xor(ft::from_vector({0, 1, 2}, {3}), 1).cast(ft::DType::f32), {1, 0, 0}},
      // A temporary is as good as a name.
      {ft::layer_norm(x + 1.0, ft::ones({3}), ft::zeros({3}), 1e-12),
       {1.2247449F, -1.2247449F, 0, 1.2247449F, 0, -1.2247449F}},
      {ft::group_norm(x * 1.0, 3, ft::ones({3}), ft::full({3}, 7)), {7, 7, 7, 7, 7, 7}},
  };
  for (const auto& [result, expected] : cases) {
    CAPTURE(&result - &cases[0].first);
    const Rows got = result.to_vector();
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == doctest::Approx(expected[i]).epsilon(1e-5));
  }
}

TEST_CASE("16 bits: sums inside are in f32, and images stay of their dtype under Autocast") {
  ft::manual_seed(1);
  const Tensor wide = ft::randn({100000}), half = wide.cast(ft::DType::f16);
  CHECK(std::abs(ft::var(half).item() / ft::var(wide).item() - 1) < 2e-3);
  CHECK(ft::logsumexp(ft::zeros({70000}, ft::DType::f16)).item() ==
        doctest::Approx(std::log(70000.0)).epsilon(1e-3));
  const Tensor q = ft::full({2, 64}, 40, ft::DType::f16);
  CHECK(ft::scaled_dot_product_attention(q, q, q).to_vector()[0] == 40);
  const ft::Autocast cast(ft::DType::bf16);
  const Tensor image = ft::randn({1, 5, 5, 2});
  CHECK(ft::upsample(image, {7, 7}, ft::Upsampling::bilinear).dtype() == ft::DType::f32);
  CHECK(ft::adaptive_avg_pool2d(image, {2, 3}).dtype() == ft::DType::f32);
}

TEST_CASE("the product of nothing has a history") {
  const Tensor x = ft::variable(ft::zeros({0, 2}));
  CHECK(ft::grad({ft::prod(x, 0).sum()}, {x})[0].shape() == ft::Shape{0, 2});
  CHECK(ft::prod(x, 0).requires_grad());
}

TEST_CASE("NaN in reductions by index, and in truths") {
  const float not_a_number = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const Tensor x = ft::from_vector({3, not_a_number, 5, 4}, {4});
  CHECK(std::isnan(ft::min(x).item()));
  CHECK(ft::argmin(x).item<int>() == 1);
  const ft::TopK top = ft::topk(x, 2);
  CHECK(std::isnan(top.values.to_vector()[0]));
  CHECK(top.places.to_vector<std::int64_t>() == std::vector<std::int64_t>{1, 2});
  CHECK(ft::logical_not(x).to_vector<bool>() == std::vector<bool>(4, false));
  CHECK(ft::logsumexp(ft::full({3}, -infinity)).item() == -infinity);
  CHECK(ft::logsumexp(ft::from_vector({infinity, 1}, {2})).item() == infinity);
  CHECK(std::isnan(ft::logsumexp(x).item()));
  CHECK(std::isnan(ft::sign(x).to_vector()[1]));
  CHECK(ft::min(ft::from_vector<std::int64_t>({std::numeric_limits<std::int64_t>::min(), 5}, {2}))
            .item<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
}
