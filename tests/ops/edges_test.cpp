// Op × dtype × edge: zeros of both signs, infinities, NaN, the largest and smallest numbers, denormals, 2^53
// ± 1, the ends of i64, ties, one value and empty axes. What is right is computed here, in plain C++; it
// holds on the reference and the CPU, for an op alone and inside a fused chain.
#include <doctest/doctest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>
#include <limits>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Shape;
using ft::Tensor;

namespace {

using Reals = std::vector<double>;
using Wholes = std::vector<std::int64_t>;

constexpr double inf = HUGE_VAL, not_a_number = NAN;
constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();

// ---- the edges ----

struct Format {
  DType dtype;
  double largest, normal, denormal;  ///< the largest number, the smallest normal one, the smallest at all
  double tolerance;                  ///< relative, of what is not rounded correctly
};
const Format formats[] = {
    {DType::f32, FLT_MAX, FLT_MIN, 0x1p-149, 2e-6},
    {DType::f64, DBL_MAX, DBL_MIN, 0x1p-1074, 1e-14},
    {DType::bf16, 0x1.fep127, 0x1p-126, 0x1p-133, 8e-3},
    {DType::f16, 65504, 0x1p-14, 0x1p-24, 1e-3},
};

Reals edges_of(const Format& f) {
  return {0,         -0.0,       1,        -1,        0.5,        3,           -2.5, inf, not_a_number,
          f.largest, -f.largest, f.normal, -f.normal, f.denormal, -f.denormal, -inf};
}
const Wholes long_edges = {0,     1,
                           -1,    2,
                           -7,    (std::int64_t{1} << 53) - 1,
                           least, (std::int64_t{1} << 53),
                           most,  (std::int64_t{1} << 53) + 1,
                           255,   -(std::int64_t{1} << 53) - 1,
                           256,   most - 1};
const Wholes byte_edges = {0, 1, 2, 127, 128, 254, 255};
const Wholes bool_edges = {0, 1};

Shape line(std::size_t n) { return {static_cast<std::int64_t>(n)}; }
Tensor tensor(const Reals& data, DType dtype) { return ft::from_doubles(data, line(data.size()), dtype); }
Tensor tensor(const Wholes& data, DType dtype) {
  if (dtype == DType::i64) return ft::from_vector(data, line(data.size()));
  return ft::from_doubles(Reals(data.begin(), data.end()), line(data.size()), dtype);
}
Reals rounded(const Reals& data, DType dtype) { return tensor(data, dtype).to_vector<double>(); }

/// Every edge beside every edge.
template <class Numbers>
std::pair<Numbers, Numbers> pairs_of(const Numbers& edges) {
  std::pair<Numbers, Numbers> pairs;
  for (const auto a : edges) {
    for (const auto b : edges) pairs.first.push_back(a), pairs.second.push_back(b);
  }
  return pairs;
}

// ---- running and comparing ----

/// On every backend, fused and unfused.
template <class Body>
void everywhere(Body&& body) {
  for (const char* name : {"reference", "cpu"}) {
    const OnBackend backend(name);
    for (const bool fused : {false, true}) {
      const Fusion fusion(fused);
      CAPTURE(name);
      CAPTURE(fused);
      body();
    }
  }
}

bool close(double got, double right, double tolerance, double denormal) {
  if (std::isnan(right)) return std::isnan(got);
  return got == right ||
         std::abs(got - right) <= tolerance * std::abs(right) + (tolerance > 0 ? denormal : 0);
}

void compare(const Reals& got, const Reals& right, const Format& format, double tolerance) {
  REQUIRE(got.size() == right.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (!close(got[i], right[i], tolerance, format.denormal))
      FAIL_CHECK("element " << i << ": " << got[i] << " for " << right[i]);
  }
}

void compare(const Tensor& got, const Wholes& right) { CHECK(got.to_vector<std::int64_t>() == right); }

/// The same number behind two more ops, which a chain makes one kernel of.
Tensor in_chain(const Tensor& y) { return -(-y); }

}  // namespace

TEST_CASE("pointwise ops of one real number at every edge") {
  struct Row {
    const char* name;
    Tensor (*op)(ft::Operand);
    double (*right)(double);
    bool exact = true;
  };
  const Row rows[] = {
      {"neg", ft::neg, [](double x) { return -x; }},
      {"abs", ft::abs, [](double x) { return std::abs(x); }},
      {"sqrt", ft::sqrt, [](double x) { return std::sqrt(x); }},
      {"relu", ft::relu, [](double x) { return x <= 0 ? 0 : x; }},
      {"leaky_relu", [](ft::Operand x) { return ft::leaky_relu(x, 0.25); },
       [](double x) { return x <= 0 ? 0.25 * x : x; }},
      {"clamp", [](ft::Operand x) { return ft::clamp(x, -1, 2); },
       [](double x) { return x < -1  ? -1
                             : x > 2 ? 2
                                     : x; }},
      {"clamp below", [](ft::Operand x) { return ft::clamp(x, 0, inf); },
       [](double x) { return x < 0 ? 0 : x; }},
      {"exp", ft::exp, [](double x) { return std::exp(x); }, false},
      {"log", ft::log, [](double x) { return std::log(x); }, false},
      {"sigmoid", ft::sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, false},
      {"tanh", ft::tanh, [](double x) { return std::tanh(x); }, false},
      {"gelu", ft::gelu, [](double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }, false},
      {"relu6", ft::relu6, [](double x) { return x <= 0   ? 0
                                                 : x >= 6 ? 6
                                                          : x; }},
      {"elu", [](ft::Operand x) { return ft::elu(x, 0.5); },
       [](double x) { return x <= 0 ? 0.5 * std::expm1(x) : x; }, false},
      {"silu", ft::silu, [](double x) { return x / (1 + std::exp(-x)); }, false},
      {"softplus", ft::softplus,
       [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }, false},
      {"mish", ft::mish, [](double x) { return x * std::tanh(std::log1p(std::exp(std::min(x, 50.0)))); },
       false},
      {"hardsigmoid", ft::hardsigmoid, [](double x) { return std::clamp(x + 3, 0.0, 6.0) / 6; }, false},
      {"hardswish", ft::hardswish, [](double x) { return x * (std::clamp(x + 3, 0.0, 6.0) / 6); }, false},
  };
  everywhere([&] {
    for (const Format& format : formats) {
      for (const Row& row : rows) {
        CAPTURE(row.name);
        CAPTURE(name_of(format.dtype));
        const Reals edges = edges_of(format);
        Reals right(edges.size());
        std::transform(edges.begin(), edges.end(), right.begin(), row.right);
        right = rounded(right, format.dtype);
        const Tensor y = row.op(tensor(edges, format.dtype)),
                     chained = in_chain(row.op(tensor(edges, format.dtype)));
        compare(y.to_vector<double>(), right, format, row.exact ? 0 : format.tolerance);
        compare(chained.to_vector<double>(), right, format, row.exact ? 0 : format.tolerance);
        compare(row.op(tensor(Reals{}, format.dtype)).to_vector<double>(), {}, format, 0);
      }
    }
  });
}

TEST_CASE("pointwise ops of two real numbers at every pair of edges") {
  struct Row {
    const char* name;
    Tensor (*op)(ft::Operand, ft::Operand);
    double (*right)(double, double);
    bool exact = true;
  };
  const Row rows[] = {
      {"add", ft::add, [](double a, double b) { return a + b; }},
      {"sub", ft::sub, [](double a, double b) { return a - b; }},
      {"mul", ft::mul, [](double a, double b) { return a * b; }},
      {"div", ft::div, [](double a, double b) { return a / b; }},
      {"minimum", ft::minimum,
       [](double a, double b) { return std::isnan(a) || std::isnan(b) ? not_a_number : std::min(a, b); }},
      {"maximum", ft::maximum,
       [](double a, double b) { return std::isnan(a) || std::isnan(b) ? not_a_number : std::max(a, b); }},
      {"where",
       [](ft::Operand a, ft::Operand b) { return ft::where(ft::less(a.tensor(), b.tensor()), a, b); },
       [](double a, double b) { return a < b ? a : b; }},
      {"pow", ft::pow, [](double a, double b) { return std::pow(a, b); }, false},
  };
  const Row comparisons[] = {
      {"equal", ft::equal, [](double a, double b) { return a == b ? 1.0 : 0.0; }},
      {"not_equal", ft::not_equal, [](double a, double b) { return a != b ? 1.0 : 0.0; }},
      {"less", ft::less, [](double a, double b) { return a < b ? 1.0 : 0.0; }},
      {"less_equal", ft::less_equal, [](double a, double b) { return a <= b ? 1.0 : 0.0; }},
      {"greater", ft::greater, [](double a, double b) { return a > b ? 1.0 : 0.0; }},
      {"greater_equal", ft::greater_equal, [](double a, double b) { return a >= b ? 1.0 : 0.0; }},
  };
  everywhere([&] {
    for (const Format& format : formats) {
      CAPTURE(name_of(format.dtype));
      const auto [a, b] = pairs_of(edges_of(format));
      const auto right_of = [&, &a = a, &b = b](const Row& row) {
        Reals right(a.size());
        std::transform(a.begin(), a.end(), b.begin(), right.begin(), row.right);
        return right;
      };
      for (const Row& row : rows) {
        CAPTURE(row.name);
        const Tensor x = tensor(a, format.dtype), y = tensor(b, format.dtype);
        const Reals right = rounded(right_of(row), format.dtype);
        const double tolerance = row.exact ? 0 : format.tolerance;
        compare(row.op(x, y).to_vector<double>(), right, format, tolerance);
        compare(in_chain(row.op(x, y)).to_vector<double>(), right, format, tolerance);
      }
      for (const Row& row : comparisons) {
        CAPTURE(row.name);
        const Tensor x = tensor(a, format.dtype), y = tensor(b, format.dtype);
        compare(row.op(x, y).to_vector<double>(), right_of(row), format, 0);
        compare(ft::cast(row.op(x, y), DType::f32).to_vector<double>(), right_of(row), format, 0);
      }
    }
  });
}

TEST_CASE("pointwise ops of integers at every pair of edges: exact, wrapping around") {
  using U = std::uint64_t;
  struct Row {
    const char* name;
    Tensor (*op)(ft::Operand, ft::Operand);
    std::int64_t (*right)(std::int64_t, std::int64_t);
    bool truth = false;
  };
  const Row rows[] = {
      {"add", ft::add, [](std::int64_t a, std::int64_t b) { return static_cast<std::int64_t>(U(a) + U(b)); }},
      {"sub", ft::sub, [](std::int64_t a, std::int64_t b) { return static_cast<std::int64_t>(U(a) - U(b)); }},
      {"mul", ft::mul, [](std::int64_t a, std::int64_t b) { return static_cast<std::int64_t>(U(a) * U(b)); }},
      {"minimum", ft::minimum, [](std::int64_t a, std::int64_t b) { return std::min(a, b); }},
      {"maximum", ft::maximum, [](std::int64_t a, std::int64_t b) { return std::max(a, b); }},
      {"neg", [](ft::Operand, ft::Operand b) { return ft::neg(b); },
       [](std::int64_t, std::int64_t b) { return static_cast<std::int64_t>(-U(b)); }},
      {"abs", [](ft::Operand, ft::Operand b) { return ft::abs(b); },
       [](std::int64_t, std::int64_t b) { return b < 0 ? static_cast<std::int64_t>(-U(b)) : b; }},
      {"equal", ft::equal, [](std::int64_t a, std::int64_t b) { return std::int64_t{a == b}; }, true},
      {"not_equal", ft::not_equal, [](std::int64_t a, std::int64_t b) { return std::int64_t{a != b}; }, true},
      {"less", ft::less, [](std::int64_t a, std::int64_t b) { return std::int64_t{a < b}; }, true},
      {"less_equal", ft::less_equal, [](std::int64_t a, std::int64_t b) { return std::int64_t{a <= b}; },
       true},
      {"greater", ft::greater, [](std::int64_t a, std::int64_t b) { return std::int64_t{a > b}; }, true},
      {"greater_equal", ft::greater_equal,
       [](std::int64_t a, std::int64_t b) { return std::int64_t{a >= b}; }, true},
      {"where",
       [](ft::Operand a, ft::Operand b) { return ft::where(ft::less(a.tensor(), b.tensor()), a, b); },
       [](std::int64_t a, std::int64_t b) { return std::min(a, b); }},
  };
  everywhere([&] {
    for (const DType dtype : {DType::i64, DType::u8}) {
      CAPTURE(name_of(dtype));
      const auto [a, b] = pairs_of(dtype == DType::i64 ? long_edges : byte_edges);
      for (const Row& row : rows) {
        CAPTURE(row.name);
        Wholes right(a.size());
        for (std::size_t i = 0; i < a.size(); ++i) {
          right[i] = row.right(a[i], b[i]);
          if (dtype == DType::u8 && !row.truth) right[i] &= 255;
        }
        const Tensor x = tensor(a, dtype), y = tensor(b, dtype);
        compare(row.op(x, y), right);
        if (!row.truth) compare(in_chain(row.op(x, y)), right);
      }
    }
  });
}

TEST_CASE("cast of every edge to every dtype") {
  const auto to_whole = [](double x) -> std::int64_t {
    if (std::isnan(x)) return 0;
    return x >= 0x1p63 ? most : x < -0x1p63 ? least : static_cast<std::int64_t>(x);
  };
  everywhere([&] {
    for (const Format& from : formats) {
      const Reals edges = edges_of(from);
      const auto cast_to = [&](DType dtype) { return ft::cast(tensor(edges, from.dtype), dtype); };
      for (const Format& to : formats) {
        CAPTURE(name_of(from.dtype));
        CAPTURE(name_of(to.dtype));
        compare(cast_to(to.dtype).to_vector<double>(), rounded(edges, to.dtype), to, 0);
      }
      Wholes longs, bytes, bools;
      for (const double x : edges) {
        longs.push_back(to_whole(x));
        bytes.push_back(std::clamp<std::int64_t>(to_whole(x), 0, 255));
        bools.push_back(x != 0 ? 1 : 0);
      }
      compare(cast_to(DType::i64), longs);
      compare(cast_to(DType::u8), bytes);
      compare(cast_to(DType::boolean), bools);
    }
    const std::pair<DType, Wholes> wholes[] = {
        {DType::i64, long_edges}, {DType::u8, byte_edges}, {DType::boolean, bool_edges}};
    for (const auto& row : wholes) {
      const auto& from = row.first;
      const auto& edges = row.second;
      CAPTURE(name_of(from));
      const auto cast_to = [&](DType dtype) { return ft::cast(tensor(edges, from), dtype); };
      Wholes bytes, bools;
      Reals floats, doubles;
      for (const std::int64_t x : edges) {
        bytes.push_back(std::clamp<std::int64_t>(x, 0, 255));
        bools.push_back(x != 0 ? 1 : 0);
        floats.push_back(static_cast<float>(x));
        doubles.push_back(static_cast<double>(x));
      }
      compare(cast_to(DType::i64), edges);
      compare(cast_to(DType::u8), bytes);
      compare(cast_to(DType::boolean), bools);
      compare(cast_to(DType::f64).to_vector<double>(), doubles, formats[1], 0);
      for (const Format& to : {formats[0], formats[2], formats[3]})
        compare(cast_to(to.dtype).to_vector<double>(), rounded(floats, to.dtype), to, 0);
    }
  });
}

TEST_CASE("what moves elements changes none, in any dtype; empty parts and axes are as good as others") {
  struct Row {
    const char* name;
    std::function<Tensor(const Tensor&)> call;  ///< gives the elements of x in their order
  };
  const Row rows[] = {
      {"transpose twice",
       [](const Tensor& x) {
         return ft::transpose(ft::transpose(x.reshape({2, -1})));
       }},
      {"slices joined",
       [](const Tensor& x) {
         return ft::concat({ft::slice(x, 0, 0, 1), ft::slice(x, 0, 1, 1), ft::slice(x, 0, 1, x.size(0))}, 0);
       }},
      {"padded and cut",
       [](const Tensor& x) {
         return ft::slice(ft::pad(x, {{2, 3}}, 1), 0, 2, -3);
       }},
      {"broadcast and cut",
       [](const Tensor& x) {
         return ft::slice(ft::broadcast_to(x, {3, x.size(0)}), 0, 1, 2);
       }},
      {"reshape",
       [](const Tensor& x) {
         return x.reshape({1, -1, 1});
       }},
      {"max of one value",
       [](const Tensor& x) {
         return x.dtype() == DType::boolean ? x : ft::max(x.reshape({-1, 1}), {1});
       }},
  };
  everywhere([&] {
    for (const Row& row : rows) {
      CAPTURE(row.name);
      for (const Format& format : formats) {
        CAPTURE(name_of(format.dtype));
        const Reals edges = edges_of(format);
        compare(row.call(tensor(edges, format.dtype)).to_vector<double>(), edges, format, 0);
      }
      compare(row.call(tensor(long_edges, DType::i64)), long_edges);
      compare(row.call(tensor(Wholes(byte_edges.begin() + 1, byte_edges.end()), DType::u8)),
              Wholes(byte_edges.begin() + 1, byte_edges.end()));
      compare(row.call(tensor(bool_edges, DType::boolean)), bool_edges);
    }
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::u8}) {
      const Tensor none = ft::zeros({0, 3}, dtype);
      CHECK(ft::transpose(none).shape() == Shape{3, 0});
      CHECK(ft::concat({none, ft::ones({1, 3}, dtype)}, 0).to_vector<double>() == Reals{1, 1, 1});
      CHECK(ft::pad(none, {1, 0}, 1).to_vector<double>() == Reals{1, 1, 1, 1, 1, 1});
      CHECK(ft::broadcast_to(none, {2, 0, 3}).to_vector<double>().empty());
      CHECK((none + none).to_vector<double>().empty());
    }
  });
}

TEST_CASE("reductions at their edges") {
  struct Row {
    const char* name;
    Reals x;
    std::function<Tensor(const Tensor&)> call;
    Reals right;
    double tolerance = 0;
  };
  const auto sum = [](const Tensor& x) { return ft::sum(x); };
  const auto mean = [](const Tensor& x) { return ft::mean(x); };
  const auto largest = [](const Tensor& x) { return ft::max(x); };
  const auto argmax = [](const Tensor& x) { return ft::argmax(x); };
  const auto softmax = [](const Tensor& x) { return ft::softmax(x); };
  const auto log_softmax = [](const Tensor& x) { return ft::log_softmax(x); };
  const double half = std::log(0.5);
  everywhere([&] {
    for (const Format& f : formats) {
      CAPTURE(name_of(f.dtype));
      const double d = f.denormal, tolerance = f.tolerance;
      const Row rows[] = {
          {"sum of nothing", {}, sum, {0}},
          {"sum of one", {-2.5}, sum, {-2.5}},
          {"sum of denormals", {d, d, d}, sum, {3 * d}},
          {"sum of ∞ and −∞", {inf, -inf, 1}, sum, {not_a_number}},
          {"sum of ∞", {inf, 1}, sum, {inf}},
          {"sum with a NaN", {1, not_a_number}, sum, {not_a_number}},
          {"mean of nothing", {}, mean, {not_a_number}},
          {"mean of one", {3}, mean, {3}},
          {"mean of denormals", {2 * d, 4 * d}, mean, {3 * d}},
          {"mean with an infinity", {-inf, 1}, mean, {-inf}},
          {"max of one", {-inf}, largest, {-inf}},
          {"max of ties", {2, 5, 5}, largest, {5}},
          {"max with a NaN", {inf, not_a_number, 1}, largest, {not_a_number}},
          {"max of denormals", {-d, d, 0}, largest, {d}},
          {"argmax of one", {not_a_number}, argmax, {0}},
          {"argmax of ties", {2, 5, 5}, argmax, {1}},
          {"argmax with NaNs", {inf, not_a_number, not_a_number}, argmax, {1}},
          {"argmax of −∞", {-inf, -inf}, argmax, {0}},
          {"argmax of denormals", {0, -d, d}, argmax, {2}},
          {"softmax of nothing", {}, softmax, {}},
          {"softmax of one", {-3}, softmax, {1}},
          {"softmax of ties", {7, 7}, softmax, {0.5, 0.5}},
          {"softmax with −∞", {-inf, 3}, softmax, {0, 1}},
          {"softmax of −∞ alone", {-inf, -inf}, softmax, {not_a_number, not_a_number}},
          {"softmax with ∞", {inf, 3}, softmax, {not_a_number, not_a_number}},
          {"softmax with a NaN", {not_a_number, 3}, softmax, {not_a_number, not_a_number}},
          {"softmax of the largest", {f.largest, -f.largest}, softmax, {1, 0}},
          {"softmax of denormals", {d, -d}, softmax, {0.5, 0.5}},
          {"log_softmax of one", {-3}, log_softmax, {0}},
          {"log_softmax of ties", {7, 7}, log_softmax, {half, half}, tolerance},
          {"log_softmax with −∞", {-inf, 3}, log_softmax, {-inf, 0}},
          {"log_softmax with a NaN", {not_a_number, 3}, log_softmax, {not_a_number, not_a_number}},
      };
      for (const Row& row : rows) {
        CAPTURE(row.name);
        compare(row.call(tensor(row.x, f.dtype)).to_vector<double>(), row.right, f, row.tolerance);
      }
      CHECK(ft::sum(ft::zeros({0, 2}, f.dtype), {0}).to_vector<double>() == Reals{0, 0});
      CHECK(ft::sum(ft::zeros({2, 0}, f.dtype), {0}).to_vector<double>().empty());
      CHECK_THROWS_AS(ft::max(ft::zeros({0}, f.dtype)), ft::Error);
      CHECK_THROWS_AS(ft::argmax(ft::zeros({0}, f.dtype)), ft::Error);
    }
    compare(ft::sum(tensor(Wholes{}, DType::i64)), {0});
    compare(ft::sum(tensor(Wholes{least, -1}, DType::i64)), {most});
    compare(ft::max(tensor(long_edges, DType::i64)), {most});
    compare(ft::argmax(tensor(long_edges, DType::i64)), {8});
    compare(ft::sum(tensor(byte_edges, DType::u8)), {0 + 1 + 2 + 127 + 128 + 254 + 255});
    compare(ft::sum(tensor(bool_edges, DType::boolean)), {1});
  });
}

TEST_CASE("matrix products, convolutions and pools at their edges") {
  everywhere([&] {
    for (const Format& f : formats) {
      CAPTURE(name_of(f.dtype));
      const auto zeros = [&](const Shape& shape) { return ft::zeros(shape, f.dtype); };
      CHECK(ft::matmul(zeros({2, 0}), zeros({0, 2})).to_vector<double>() == Reals(4, 0));
      CHECK(ft::matmul(zeros({0, 3}), zeros({3, 2})).to_vector<double>().empty());
      CHECK(ft::conv2d(zeros({0, 3, 3, 2}), zeros({4, 3, 3, 2})).to_vector<double>().empty());
      const auto times_one = [&](double x) {
        return ft::matmul(tensor(Reals{x, 0}, f.dtype).reshape({1, 2}),
                          tensor(Reals{1, 1}, f.dtype).reshape({2, 1}));
      };
      for (const double x : {not_a_number, inf, -inf, f.largest, f.normal}) {
        CAPTURE(x);
        CHECK(close(times_one(x).item(), x, 0, 0));
        const Tensor image = tensor(Reals{x, 0, 0, 0}, f.dtype).reshape({1, 2, 2, 1});
        CHECK(close(ft::conv2d(image, ft::ones({1, 1, 1, 1}, f.dtype)).to_vector<double>()[0], x, 0, 0));
      }
      const auto pooled = [&](const Reals& x) {
        return ft::max_pool2d(tensor(x, f.dtype).reshape({1, 2, 2, 1}), 2).item();
      };
      CHECK(pooled({-inf, -inf, -inf, -inf}) == -inf);
      CHECK(pooled({1, inf, 2, 3}) == inf);
      CHECK(pooled({-f.denormal, f.denormal, 0, 0}) == f.denormal);
      for (const Reals& x : {Reals{not_a_number, 1, 2, 3}, Reals{1, 2, inf, not_a_number}})
        CHECK(std::isnan(pooled(x)));
      const Tensor one_pixel = tensor(Reals{f.largest}, f.dtype).reshape({1, 1, 1, 1});
      CHECK(ft::avg_pool2d(one_pixel, {.window = 2, .stride = 1, .padding = 1, .count_padding = false})
                .to_vector<double>() == Reals(4, f.largest));
    }
  });
}
