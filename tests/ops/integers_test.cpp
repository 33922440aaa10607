// Integers are exact: no i64 passes through a double, on any backend.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <sstream>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Shape;
using ft::Tensor;

namespace {

using Wholes = std::vector<std::int64_t>;

constexpr std::int64_t big = (std::int64_t{1} << 53) + 1;  // the first integer that no double is
constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();

Tensor whole(const Wholes& data) { return ft::from_vector(data, {static_cast<std::int64_t>(data.size())}); }
Tensor whole(const Wholes& data, const Shape& shape) { return ft::from_vector(data, shape); }
Tensor bytes(const std::vector<std::uint8_t>& data) {
  return ft::from_vector(data, {static_cast<std::int64_t>(data.size())});
}

struct Exact {
  const char* what;
  std::function<Tensor()> call;
  Wholes expected;
};

void check_all(const std::vector<Exact>& all) {
  for (const char* backend : {"reference", "cpu"}) {
    const OnBackend on(backend);
    for (const bool fused : {true, false}) {
      const Fusion fusion(fused);
      for (const Exact& exact : all) {
        CAPTURE(backend);
        CAPTURE(exact.what);
        CHECK(exact.call().to_vector<std::int64_t>() == exact.expected);
      }
    }
  }
}

}  // namespace

TEST_CASE("i64 is exact beyond 2^53 and wraps around beyond 2^63") {
  const Wholes a = {big, -big, most, least}, b = {1, -1, 1, -1};
  check_all({
      {"add", [&] { return whole(a) + whole(b); }, {big + 1, -big - 1, least, most}},
      {"sub", [&] { return whole(a) - whole(b); }, {big - 1, 1 - big, most - 1, least + 1}},
      {"mul", [&] { return whole(a) * whole(b); }, {big, big, most, least}},
      {"mul, wrapped",
       [&] {
         return whole({most, big}) * 2;
       },
       {-2, 2 * big}},
      {"neg", [&] { return -whole(a); }, {-big, big, -most, least}},
      {"abs", [&] { return ft::abs(whole(a)); }, {big, big, most, least}},
      {"maximum",
       [&] {
         return ft::maximum(whole({big, least}), whole({big - 1, most}));
       },
       {big, most}},
      {"minimum",
       [&] {
         return ft::minimum(whole({big, least}), whole({big - 1, most}));
       },
       {big - 1, least}},
      {"where",
       [&] {
         return ft::where(ft::less(whole({1, 2}), 2), whole({big, big}), whole({0, most}));
       },
       {big, most}},
      {"broadcast",
       [&] {
         return whole({big, most}, {2, 1}) + whole({1, 2}, {2});
       },
       {big + 1, big + 2, least, least + 1}},
      {"broadcast_to", [&] { return ft::broadcast_to(whole({big}), {3}); }, {big, big, big}},
      {"chain", [&] { return (whole({big}) + 1) * 3 - 2; }, {(big + 1) * 3 - 2}},
  });
}

TEST_CASE("comparisons of i64 see the last digit") {
  const Wholes a = {big, big - 1, most, least}, b = {big - 1, big, most - 1, least + 1};
  check_all({
      {"equal", [&] { return ft::equal(whole(a), whole(b)); }, {0, 0, 0, 0}},
      {"not_equal", [&] { return ft::not_equal(whole(a), whole(b)); }, {1, 1, 1, 1}},
      {"less", [&] { return ft::less(whole(a), whole(b)); }, {0, 1, 0, 1}},
      {"less_equal", [&] { return ft::less_equal(whole(a), whole(b)); }, {0, 1, 0, 1}},
      {"greater", [&] { return ft::greater(whole(a), whole(b)); }, {1, 0, 1, 0}},
      {"greater_equal", [&] { return ft::greater_equal(whole(a), whole(b)); }, {1, 0, 1, 0}},
      {"beside a number", [&] { return ft::equal(whole(a), big); }, {1, 0, 0, 0}},
  });
}

TEST_CASE("integer operands stay integers") {
  check_all({
      {"add", [] { return whole({0}) + big; }, {big}},
      {"on the left", [] { return most - whole({1}); }, {most - 1}},
      {"full", [] { return ft::full({2}, big, DType::i64); }, {big, big}},
      {"scalar", [] { return ft::scalar(most, DType::i64); }, {most}},
      {"where",
       [] {
         return ft::where(ft::less(whole({0, 1}), 1), big, whole({1, 1}));
       },
       {big, 1}},
      {"pad", [] { return ft::pad(whole({7}), {1}, big); }, {big, 7, big}},
      {"of other types", [] { return whole({0}) + static_cast<unsigned short>(7) + true; }, {8}},
  });
}

TEST_CASE("moved and reduced, an i64 keeps every digit") {
  const Wholes x = {big, big + 2, most, least, -big, 0};
  check_all({
      {"transpose",
       [&] {
         return ft::transpose(whole(x, {2, 3}));
       },
       {big, least, big + 2, -big, most, 0}},
      {"concat",
       [&] {
         return ft::concat({whole({big}), whole({most, least})}, 0);
       },
       {big, most, least}},
      {"slice", [&] { return ft::slice(whole(x), 0, 1, 6, 2); }, {big + 2, least, 0}},
      {"slice, a step past the end", [&] { return ft::slice(whole(x), 0, 1, 6, most); }, {big + 2}},
      {"pad",
       [&] {
         return ft::pad(whole({big}), {{0, 1}});
       },
       {big, 0}},
      {"reshape",
       [&] {
         return whole(x).reshape({3, 2});
       },
       x},
      {"sum",
       [&] {
         return ft::sum(whole({big, 1, 1}));
       },
       {big + 2}},
      {"sum of an axis",
       [&] {
         return ft::sum(whole(x, {2, 3}), {0});
       },
       {big + least, 2, most}},
      {"sum, wrapped",
       [&] {
         return ft::sum(whole({most, 1}));
       },
       {least}},
      {"max",
       [&] {
         return ft::max(whole({big - 1, big, least}));
       },
       {big}},
      {"argmax",
       [&] {
         return ft::argmax(whole({big - 1, big, least}));
       },
       {1}},
      {"argmax, the first of equals",
       [&] {
         return ft::argmax(whole({1, big, big}));
       },
       {1}},
  });
}

TEST_CASE("u8 wraps around, too") {
  check_all({
      {"add",
       [] {
         return bytes({250, 1}) + bytes({10, 2});
       },
       {4, 3}},
      {"sub",
       [] {
         return bytes({1, 9}) - 2;
       },
       {255, 7}},
      {"mul",
       [] {
         return bytes({16, 3}) * bytes({16, 3});
       },
       {0, 9}},
      {"neg",
       [] {
         return -bytes({1, 0});
       },
       {255, 0}},
      {"sum",
       [] {
         return ft::sum(bytes({250, 250}));
       },
       {500}},
  });
}

TEST_CASE("cast of tensors saturates, and rounds once") {
  const float inf = HUGE_VALF;
  const Tensor wide = whole({300, -1, 255, most, least});
  check_all({
      {"i64 to u8", [&] { return ft::cast(wide, DType::u8); }, {255, 0, 255, 255, 0}},
      {"i64 to bool",
       [&] {
         return ft::cast(whole({2, 0, least}), DType::boolean);
       },
       {1, 0, 1}},
      {"f32 to u8",
       [&] {
         return ft::cast(ft::from_vector({-3.5f, 3.5f, 300, NAN, inf}, {5}), DType::u8);
       },
       {0, 3, 255, 0, 255}},
      {"f32 to i64",
       [&] {
         return ft::cast(ft::from_vector({-3.5f, 1e30f, -inf, NAN}, {4}), DType::i64);
       },
       {-3, most, least, 0}},
      {"u8 to i64", [&] { return ft::cast(bytes({255}), DType::i64); }, {255}},
      // Halfway between two floats, and a little more: through a double it would be rounded down.
      {"i64 to f32",
       [&] {
         return ft::cast(ft::cast(whole({(std::int64_t{1} << 62) + (std::int64_t{1} << 38) + 1}), DType::f32),
                         DType::i64);
       },
       {(std::int64_t{1} << 62) + (std::int64_t{1} << 39)}},
  });
  CHECK(whole({300, -1}).to_vector<std::uint8_t>() == std::vector<std::uint8_t>{255, 0});
}

TEST_CASE("item<std::int64_t>() and printing are exact") {
  for (const std::int64_t value : {big, -big, most, least, std::int64_t{0}}) {
    CHECK(whole({value}).item<std::int64_t>() == value);
    std::ostringstream text;
    text << whole({value});
    CHECK(text.str() == "i64 {1} [" + std::to_string(value) + "]");
  }
  CHECK(whole({7}).item() == 7.0);
  CHECK(whole({7}).item<int>() == 7);
  CHECK(ft::full({}, 3).item<float>() == 3.0f);
  CHECK(ft::full({}, 3).item<std::int64_t>() == 3);
  CHECK(ft::full({}, true, DType::boolean).item<bool>());
}

TEST_CASE("from_vector of any integers and bools") {
  const Tensor ints = ft::from_vector(std::vector<int>{1, -2}, {2});
  CHECK(ints.dtype() == DType::i64);
  CHECK(ints.to_vector<std::int64_t>() == Wholes{1, -2});
  CHECK(ft::from_vector(std::vector<long long>{big}, {1}).item<std::int64_t>() == big);
  CHECK(ft::from_vector(std::vector<unsigned>{7}, {1}).dtype() == DType::i64);
  CHECK(ft::from_vector(std::vector<std::uint8_t>{7}, {1}).dtype() == DType::u8);
  const Tensor bools = ft::from_vector(std::vector<bool>{true, false, true}, {3});
  CHECK(bools.dtype() == DType::boolean);
  CHECK(bools.to_vector<bool>() == std::vector<bool>{true, false, true});
  CHECK(ft::Element<float>);
  CHECK_FALSE(ft::Element<int>);
}
