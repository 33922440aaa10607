#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

#include "backends/cpu/conv/winograd/winograd.hpp"
#include "compare.hpp"
#include "fusetape/runtime.hpp"
#include "tests/conv/winograd_helpers.hpp"
#include "tests/conv/winograd_reference.hpp"
#include "tests/conv/winograd_shapes.hpp"

/// Winograd convolutions against plain sums in doubles.
namespace fusetape {
namespace {

using namespace backends::cpu::conv::winograd;
using namespace tests;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

struct Case {
  Problem problem;
  DType dtype = DType::f32;
  int threads = 2;
  Blocking blocking = {.tiles = 8};
  bool backward_data = false;
  std::string source = "plain", sink = "plain";
};

std::string text(const Case& c) {
  return tests::text(c.problem) + ", " + std::string(name_of(c.dtype)) + ", " + std::to_string(c.threads) +
         " threads, blocks of " + std::to_string(c.blocking.tiles) + " by " +
         std::to_string(c.blocking.out_parts) + (c.backward_data ? ", backward" : "") + ", source " +
         c.source + ", sink " + c.sink;
}

bool has(const std::string& form, const char* part) { return form.find(part) != std::string::npos; }

/// What a kernel got and what is right.
struct Outcome {
  Numbers y, first, second, written;
};

/// Everything that a case reads, and the case in doubles and by the kernel.
class Trial {
 public:
  explicit Trial(const Case& c) : case_(c), p_(c.backward_data ? c.problem.mirrored() : c.problem) {
    const std::int64_t in_size = p_.batch * p_.height * p_.width * p_.in;
    out_pixels_ = p_.batch * p_.out_height() * p_.out_width();
    x_ = Stored(drawn<double>(in_size, 1), c.dtype);
    x2_ = Stored(drawn<double>(in_size, 2), c.dtype);
    w_ = Stored(drawn<double>(p_.in * p_.out * 9, 3), c.dtype);
    for (int i = 0; i < 6; ++i) in_[i] = Stored(drawn<double>(p_.in, 10 + i, 0.5), DType::f32);
    for (int i = 0; i < 5; ++i) out_[i] = Stored(drawn<double>(p_.out, 20 + i, 0.5), DType::f32);
    for (int i = 0; i < 3; ++i) tensors_[i] = Stored(drawn<double>(out_pixels_ * p_.out, 30 + i), c.dtype);
    if (has(c.sink, "far")) out_[0] = Stored(drawn<double>(p_.out, 20, 3000), DType::f32);
  }

  void set_x(std::size_t i, double value) {
    Numbers numbers = x_.read<double>();
    numbers[i] = value;
    x_ = Stored(numbers, case_.dtype);
  }

  Outcome expected() const {
    Outcome it;
    const Numbers v = source_values();
    it.written = v;
    it.y = sunk(convolved(p_, v, taps_of(case_.problem, w_, case_.backward_data)));
    return it;
  }

  Outcome got() {
    const Problem given = case_.problem;
    Scratch u(weights_bytes(given));
    const int threads = allowed(case_.threads);
    ThreadRooms rooms(convolve_room_bytes(p_, case_.blocking, threads), threads);
    transform_weights(given, w_.data(), case_.dtype, case_.backward_data, u.floats(), threads);
    const bool in_place = has(case_.sink, "in_place");
    Stored y = in_place ? tensors_[0] : Stored(Numbers(at(out_pixels_ * p_.out), -77.0), case_.dtype);
    Stored written(Numbers(at(p_.batch * p_.height * p_.width * p_.in), -77.0), case_.dtype);
    Outcome it;
    it.first.resize(at(p_.out));
    it.second.resize(at(p_.out));
    Sink to = sink();
    to.y = y.data();
    if (in_place) to.z = y.data();
    to.first = it.first.data();
    to.second = it.second.data();
    Source from = source();
    if (has(case_.source, "written")) from.written = written.data();
    convolve(p_, from, u.floats(), to, case_.blocking, threads, rooms);
    CHECK_FALSE((u.overrun() || rooms.overrun()));
    it.y = y.read<double>();
    it.written = written.read<double>();
    return it;
  }

  /// Of the stored y.
  void sums_of(const Numbers& y, Numbers& first, Numbers& second) const {
    const std::int64_t channels = p_.out;
    first.assign(at(channels), 0);
    second.assign(at(channels), 0);
    const double n = static_cast<double>(out_pixels_);
    const bool moments = has(case_.sink, "moments");
    for (std::int64_t i = 0; i < out_pixels_ * channels; ++i)
      first[at(i % channels)] += y[at(i)] / (moments ? n : 1);
    for (std::int64_t i = 0; i < out_pixels_ * channels; ++i) {
      const std::size_t c = at(i % channels);
      second[c] += moments ? (y[at(i)] - first[c]) * (y[at(i)] - first[c])
                           : y[at(i)] * (tensors_[2][at(i)] - out_[3][c]);
    }
  }

 private:
  double as_stored(double x) const {
    const float f = static_cast<float>(x);
    return case_.dtype == DType::bf16 ? core::from_bf16(core::to_bf16(f)) : f;
  }

  Source source() {
    const std::string& form = case_.source;
    Source s{.x = x_.data(), .dtype = case_.dtype, .relu = has(form, "relu")};
    if (has(form, "norm") || has(form, "gradient")) s.scale = in_[0].floats();
    if (has(form, "norm")) {
      s.shift = in_[1].floats();
      s.mean = in_[5].floats();
    }
    if (has(form, "add") || has(form, "two") || has(form, "gradient")) s.x2 = x2_.data();
    if (has(form, "two") || has(form, "gradient")) {
      s.scale2 = in_[2].floats();
      s.shift2 = in_[3].floats();
      s.mean2 = in_[4].floats();
    }
    return s;
  }

  Numbers source_values() const {
    const std::string& form = case_.source;
    Numbers v = x_.read<double>();
    for (std::size_t i = 0; i < v.size(); ++i) {
      const std::size_t c = i % at(p_.in);
      const auto k = [&](int which) { return in_[which][c]; };
      const double x2 = x2_[i];
      if (has(form, "gradient")) v[i] = k(0) * v[i] + (k(2) * (x2 - k(4)) + k(3));
      if (has(form, "norm")) v[i] = k(0) * (v[i] - k(5)) + k(1);
      if (has(form, "two")) v[i] = as_stored(v[i]) + as_stored(k(2) * (x2 - k(4)) + k(3));
      if (has(form, "add")) v[i] = as_stored(v[i]) + x2;
      if (has(form, "relu") && v[i] <= 0) v[i] = 0;
      v[i] = as_stored(v[i]);
    }
    return v;
  }

  Sink sink() {
    const std::string& form = case_.sink;
    Sink s{.dtype = case_.dtype, .relu = has(form, "relu")};
    if (has(form, "bias")) s.bias = out_[0].floats();
    if (has(form, "add")) s.z = tensors_[0].data();
    if (has(form, "mask_y")) s.mask_y = tensors_[1].data();
    if (has(form, "mask_x")) {
      s.mask_x = tensors_[1].data();
      s.mask_mean = out_[4].floats();
      s.mask_scale = out_[1].floats();
      s.mask_shift = out_[2].floats();
    }
    if (has(form, "moments")) s.sums = Sums::moments;
    if (has(form, "gradient")) {
      s.sums = Sums::gradient;
      s.norm_x = tensors_[2].data();
      s.norm_mean = out_[3].floats();
    }
    return s;
  }

  Numbers sunk(Numbers y) const {
    const std::string& form = case_.sink;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t c = i % at(p_.out);
      const double mask = tensors_[1][i];
      if (has(form, "bias")) y[i] += out_[0][c];
      if (has(form, "add")) y[i] += tensors_[0][i];
      if (has(form, "relu") && y[i] <= 0) y[i] = 0;
      if (has(form, "mask_y") && mask <= 0) y[i] = 0;
      if (has(form, "mask_x") && out_[1][c] * (mask - out_[4][c]) + out_[2][c] <= 0) y[i] = 0;
    }
    return y;
  }

  Case case_;
  Problem p_;
  std::int64_t out_pixels_ = 0;
  Stored x_, x2_, w_;
  Stored in_[6], out_[5], tensors_[3];
};

/// Half a unit in the last place of what is stored, and the transforms' own error.
double tolerance(const Case& c) {
  if (c.dtype == DType::bf16) return 5e-3;
  return c.backward_data ? winograd_gradient_error : winograd_error;
}

/// On every target.
void check(const Case& c) {
  INFO(text(c));
  Trial trial(c);
  const Outcome expected = trial.expected();
  on_every_target([&] {
    const Outcome got = trial.got();
    CHECK(difference(got.y, expected.y) < tolerance(c));
    if (has(c.source, "written")) {
      CHECK(difference(got.written, expected.written) < (c.dtype == DType::bf16 ? 5e-3 : 1e-6));
    }
    if (has(c.sink, "moments") || has(c.sink, "gradient")) {
      Numbers first, second;
      trial.sums_of(got.y, first, second);
      CHECK(difference(got.first, first) < 1e-6);
      CHECK(difference(got.second, second) < 1e-5);
    }
  });
}

TEST_CASE("winograd: any shape, forward and backward-data, against doubles") {
  for (const Problem& problem : small_winograd_shapes()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const bool backward : {false, true}) {
        check({.problem = problem,
               .dtype = dtype,
               .blocking = default_blocking(backward ? problem.mirrored() : problem, 2),
               .backward_data = backward});
        check({.problem = problem,
               .dtype = dtype,
               .threads = 1,
               .backward_data = backward,
               .source = "norm relu written",
               .sink = "moments"});
      }
    }
  }
}

TEST_CASE("winograd: every source and sink") {
  const std::vector<std::string> sources = {
      "norm",     "norm written",     "norm relu",     "norm add relu",         "norm add relu written",
      "gradient", "gradient written", "norm two relu", "norm two relu written",
  };
  std::vector<std::string> sinks = {"bias moments", "bias far moments"};
  for (const std::string sink :
       {"bias", "relu", "mask_y", "gradient", "mask_y gradient", "mask_x gradient"}) {
    for (const char* z : {"", " add", " add in_place"}) sinks.push_back(sink + z);
  }
  const std::vector<Problem> problems = {{2, 8, 12, 16, 32, 1}, {1, 7, 5, 24, 17, 1}, {2, 6, 9, 3, 40, 0}};
  for (const Problem& problem : problems) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const std::string& source : sources) check({.problem = problem, .dtype = dtype, .source = source});
      for (const std::string& sink : sinks) {
        check({.problem = problem, .dtype = dtype, .sink = sink});
        check({.problem = problem, .dtype = dtype, .backward_data = true, .sink = sink});
      }
    }
  }
}

TEST_CASE("winograd: any blocking and number of threads") {
  for (const int threads : {1, 2, 3, 7}) {
    for (const Blocking blocking : {Blocking{.tiles = 8}, Blocking{.tiles = 24}, Blocking{.tiles = 64},
                                    Blocking{.tiles = 8, .out_parts = 2}, Blocking{.out_parts = 9}}) {
      for (const Problem& problem : {Problem{3, 8, 7, 17, 40, 1}, Problem{1, 1, 2, 16, 16, 1}}) {
        const Case c{.problem = problem,
                     .threads = threads,
                     .blocking = blocking,
                     .source = "norm relu written",
                     .sink = "bias far moments"};
        check(c);
        on_every_target([&] {
          const Outcome once = Trial(c).got(), again = Trial(c).got();
          CHECK(once.y == again.y);
          CHECK(once.first == again.first);
          CHECK(once.second == again.second);
        });
      }
    }
  }
}

TEST_CASE("winograd: threads share few tiles by their outputs") {
  CHECK(default_blocking({128, 32, 32, 16, 16, 1}, 2).out_parts == 1);
  CHECK(default_blocking({16, 4, 4, 512, 512, 1}, 2).out_parts == 2);
  CHECK(default_blocking({1, 4, 4, 512, 16, 1}, 8).out_parts == 1);
  CHECK(default_blocking({1, 4, 4, 512, 512, 1}, 6).out_parts == 6);
}

TEST_CASE("winograd: a NaN goes through every source and sink that lets it") {
  on_every_target([] {
    for (const std::int64_t channels : {16, 17}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const char* source : {"plain", "norm relu", "norm add relu", "norm two relu", "gradient"}) {
          for (const char* sink : {"moments", "bias add relu", "gradient"}) {
            const Case c{
                .problem = {1, 4, 4, channels, channels, 1}, .dtype = dtype, .source = source, .sink = sink};
            INFO(text(c));
            Trial trial(c);
            trial.set_x(at(channels - 1), std::numeric_limits<double>::quiet_NaN());
            const Outcome expected = trial.expected(), got = trial.got();
            bool lost = false;
            for (std::size_t i = 0; i < got.y.size(); ++i) {
              lost = lost || (std::isnan(expected.y[i]) && !std::isnan(got.y[i]));
            }
            CHECK_FALSE(lost);
            CHECK(std::isnan(got.y[0]));
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace fusetape
