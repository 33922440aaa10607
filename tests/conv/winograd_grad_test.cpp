// The Winograd weight gradient against double arithmetic.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <optional>
#include <string>

#include "backends/cpu/conv/winograd/both_gradients.hpp"
#include "backends/cpu/conv/winograd/weight_gradient.hpp"
#include "compare.hpp"
#include "fusetape/runtime.hpp"
#include "tests/conv/winograd_helpers.hpp"
#include "tests/conv/winograd_reference.hpp"
#include "tests/conv/winograd_shapes.hpp"

namespace wino = fusetape::backends::cpu::conv::winograd;
using namespace fusetape::tests;
using fusetape::DType;

namespace {

using Floats = std::vector<float>;

/// What is read, how it is cut, and what the result is stored as.
struct Run {
  wino::Source x, dy;
  std::optional<wino::GradientBlocking> blocking;
  int threads = 1;
  DType dtype = DType::f32;
};

Floats gradient(const wino::Problem& p, const Run& run) {
  const wino::GradientBlocking blocking =
      run.blocking ? *run.blocking : wino::default_gradient_blocking(p, run.threads);
  const wino::GradientMemory memory = wino::weight_gradient_memory(p, blocking, run.threads);
  Scratch scratch(memory.scratch);
  ThreadRooms rooms(memory.room, run.threads);
  Stored dw(Floats(static_cast<std::size_t>(p.out * 9 * p.in), 7.0f), run.dtype);
  wino::weight_gradient(p, run.x, run.dy, dw.data(), run.dtype, blocking, run.threads, scratch.data(), rooms);
  CHECK_FALSE((scratch.overrun() || rooms.overrun()));
  return dw.read<float>();
}

double error(const Floats& got, const Numbers& expected) {
  return difference(Numbers(got.begin(), got.end()), expected, 1e-3);
}

std::int64_t x_size(const wino::Problem& p) { return p.batch * p.height * p.width * p.in; }
std::int64_t dy_size(const wino::Problem& p) { return p.batch * p.out_height() * p.out_width() * p.out; }

/// The forms of a source.
struct Form {
  bool norm = false, second = false, second_norm = false, gradient = false, relu = false;
};
constexpr Form forms[] = {
    {},
    {.norm = true},
    {.norm = true, .relu = true},
    {.norm = true, .second = true, .relu = true},
    {.norm = true, .second = true, .second_norm = true, .relu = true},
    {.norm = true, .second = true, .gradient = true},
};

/// A source of a form, and its values in scalar arithmetic.
struct Image {
  std::int64_t channels;
  Form form;
  DType dtype;
  Stored x, x2, written;
  Floats mean, scale, shift, mean2, scale2, shift2;

  Image(std::int64_t count, std::int64_t of_channels, const Form& of_form, DType of_dtype, unsigned seed)
      : channels(of_channels),
        form(of_form),
        dtype(of_dtype),
        x(drawn<float>(count, seed), dtype),
        x2(drawn<float>(count, seed + 1), dtype),
        written(Floats(static_cast<std::size_t>(count)), dtype),
        mean(drawn<float>(channels, seed + 7)),
        scale(drawn<float>(channels, seed + 2)),
        shift(drawn<float>(channels, seed + 3)),
        mean2(drawn<float>(channels, seed + 6)),
        scale2(drawn<float>(channels, seed + 4)),
        shift2(drawn<float>(channels, seed + 5)) {}

  wino::Source source() {
    const bool second_norm = form.second_norm || form.gradient;
    return {.x = x.data(),
            .dtype = dtype,
            .mean = form.norm && !form.gradient ? mean.data() : nullptr,
            .scale = form.norm ? scale.data() : nullptr,
            .shift = form.norm && !form.gradient ? shift.data() : nullptr,
            .x2 = form.second ? x2.data() : nullptr,
            .mean2 = second_norm ? mean2.data() : nullptr,
            .scale2 = second_norm ? scale2.data() : nullptr,
            .shift2 = second_norm ? shift2.data() : nullptr,
            .relu = form.relu,
            .written = form.norm ? written.data() : nullptr};
  }

  float rounded(float v) const {
    return dtype == DType::f32 ? v : fusetape::core::from_bf16(fusetape::core::to_bf16(v));
  }

  Floats values() const {
    Floats v = x.read<float>();
    const Floats other = x2.read<float>();
    for (std::size_t i = 0; i < v.size(); ++i) {
      const std::size_t c = i % static_cast<std::size_t>(channels);
      if (form.gradient) {
        v[i] = std::fma(scale[c], v[i], std::fma(scale2[c], other[i] - mean2[c], shift2[c]));
      } else {
        if (form.norm) v[i] = rounded(std::fma(scale[c], v[i] - mean[c], shift[c]));
        if (form.second_norm) v[i] += rounded(std::fma(scale2[c], other[i] - mean2[c], shift2[c]));
        if (form.second && !form.second_norm) v[i] += other[i];
      }
      v[i] = rounded(form.relu && v[i] <= 0 ? 0.0f : v[i]);
    }
    return v;
  }
};

}  // namespace

TEST_CASE("the weight gradient of every shape, however it is cut") {
  const std::optional<wino::GradientBlocking> cuts[] = {
      std::nullopt,
      wino::GradientBlocking{.tiles = 1},
      wino::GradientBlocking{.tiles = 7},
      wino::GradientBlocking{.tiles = 8, .passes = 3},
      wino::GradientBlocking{.tiles = 1000, .passes = 3},
      wino::GradientBlocking{.tiles = 10, .by_channels = true, .chunks = 2},
      wino::GradientBlocking{.tiles = 10, .by_channels = true, .passes = 3, .chunks = 1},
      wino::GradientBlocking{.tiles = 1000, .by_channels = true, .chunks = 1},
  };
  for (const wino::Problem& p : small_winograd_shapes()) {
    const Floats x = drawn<float>(x_size(p), 1), dy = drawn<float>(dy_size(p), 2);
    const Numbers expected = weight_gradient_of(p, x, dy);
    Stored xs(x, DType::f32), dys(dy, DType::f32);
    on_every_target([&] {
      for (std::size_t c = 0; c < std::size(cuts); ++c) {
        const auto& cut = cuts[c];
        Floats of_one_thread;
        for (const int threads : {1, allowed(2), allowed(3)}) {
          const Run run{.x = {.x = xs.data()}, .dy = {.x = dys.data()}, .blocking = cut, .threads = threads};
          INFO(text(p), ", threads ", threads, " cut ", c);
          const Floats dw = gradient(p, run);
          CHECK(error(dw, expected) <= fusetape::winograd_gradient_error);
          CHECK(dw == gradient(p, run));
          if (threads == 1) of_one_thread = dw;
          if (cut && cut->by_channels) CHECK(dw == of_one_thread);
        }
      }
    });
  }
}

TEST_CASE("many weights, whether aligned or not") {
  const wino::Problem p = {.batch = 1, .height = 3, .width = 2, .in = 352, .out = 340};
  const Floats x = drawn<float>(x_size(p), 1), dy = drawn<float>(dy_size(p), 2);
  const Numbers expected = weight_gradient_of(p, x, dy);
  Floats room(expected.size() + 32);
  void* place = room.data();
  std::size_t bytes = room.size() * sizeof(float);
  auto* const aligned = static_cast<float*>(std::align(64, 4, place, bytes));
  on_every_target([&] {
    for (float* const dw : {aligned, aligned + 1}) {
      const wino::GradientBlocking blocking = wino::default_gradient_blocking(p, most_threads);
      CHECK(blocking.by_channels);
      const wino::GradientMemory memory = wino::weight_gradient_memory(p, blocking, most_threads);
      Scratch scratch(memory.scratch);
      ThreadRooms rooms(memory.room, most_threads);
      wino::weight_gradient(p, {.x = x.data()}, {.x = dy.data()}, dw, DType::f32, blocking, most_threads,
                            scratch.data(), rooms);
      CHECK(error(Floats(dw, dw + expected.size()), expected) <= fusetape::winograd_gradient_error);
    }
  });
}

TEST_CASE("the weight gradient of every form of both sources, which are written once") {
  const wino::Problem problems[] = {{.batch = 2, .height = 9, .width = 6, .in = 24, .out = 16},
                                    {.batch = 1, .height = 5, .width = 7, .in = 16, .out = 33, .pad = 0}};
  const wino::GradientBlocking cuts[] = {
      {.tiles = 2}, {.tiles = 3, .passes = 3}, {.tiles = 5, .by_channels = true, .chunks = 1}};
  for (const wino::Problem& p : problems) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const Form& form : forms) {
        const Form& other = forms[(&form - forms + 3) % std::ssize(forms)];
        Image x(x_size(p), p.in, form, dtype, 3), dy(dy_size(p), p.out, other, dtype, 10);
        const Numbers expected = weight_gradient_of(p, x.values(), dy.values());
        on_every_target([&] {
          for (const wino::GradientBlocking& cut : cuts) {
            x.written = Stored(Floats(x.values().size(), 7.0f), dtype);
            dy.written = Stored(Floats(dy.values().size(), 7.0f), dtype);
            Run run{.x = x.source(), .dy = dy.source(), .blocking = cut, .threads = most_threads};
            INFO(text(p), ", ", name_of(dtype), ", form ", &form - forms, " cut ", &cut - cuts);
            CHECK(error(gradient(p, run), expected) <= fusetape::winograd_gradient_error);
            if (form.norm) CHECK(x.written.read<float>() == x.values());
            if (other.norm) CHECK(dy.written.read<float>() == dy.values());
            run.dtype = DType::bf16;
            CHECK(error(gradient(p, run), expected) <= 0x1p-8);
          }
        });
      }
    }
  }
}

TEST_CASE("a NaN in x or dy reaches the weight gradients of its channel, and no others") {
  const wino::Problem p = {.batch = 1, .height = 6, .width = 5, .in = 18, .out = 20};
  const std::size_t pixel = 13;
  for (const bool in_x : {true, false}) {
    Floats x = drawn<float>(x_size(p), 1), dy = drawn<float>(dy_size(p), 2);
    (in_x ? x[pixel * 18 + 17] : dy[pixel * 20 + 3]) = std::nanf("");
    Stored xs(x, DType::f32), dys(dy, DType::f32);
    const Floats dw = gradient(p, {.x = {.x = xs.data()}, .dy = {.x = dys.data()}});
    for (std::size_t i = 0; i < dw.size(); ++i) {
      CHECK(std::isnan(dw[i]) == (in_x ? i % 18 == 17 : i / (9 * 18) == 3));
    }
  }
}

TEST_CASE("a NaN in a corner without padding reaches the only tap that reads it") {
  const wino::Problem p = {.batch = 1, .height = 6, .width = 6, .in = 3, .out = 2, .pad = 0};
  Floats x = drawn<float>(x_size(p), 1), dy = drawn<float>(dy_size(p), 2);
  x[0] = std::nanf("");
  Stored xs(x, DType::f32), dys(dy, DType::f32);
  const Floats dw = gradient(p, {.x = {.x = xs.data()}, .dy = {.x = dys.data()}});
  for (std::size_t i = 0; i < dw.size(); ++i) CHECK(std::isnan(dw[i]) == (i % 27 == 0));
}

namespace {

struct Gradients {
  Floats dx, dw;
};

/// Of both at once, and dx to the bit as by convolve, cut the same way. `between`: after the latter.
Gradients both(
    const wino::Problem& p, const Floats& w, const Run& run, const wino::Blocking& blocking,
    const std::function<void()>& between = [] {}) {
  const wino::Problem mirrored = p.mirrored();
  Scratch u(wino::weights_bytes(mirrored));
  wino::transform_weights(p, w.data(), DType::f32, true, u.floats(), run.threads);
  Stored alone(Floats(static_cast<std::size_t>(x_size(p)), 7.0f), run.x.dtype);
  ThreadRooms others(wino::convolve_room_bytes(mirrored, blocking, run.threads), run.threads);
  wino::convolve(mirrored, run.dy, u.floats(), {.y = alone.data(), .dtype = run.x.dtype}, blocking,
                 run.threads, others);
  CHECK_FALSE(others.overrun());
  between();

  Stored dx(Floats(static_cast<std::size_t>(x_size(p)), 7.0f), run.x.dtype);
  Stored dw(Floats(static_cast<std::size_t>(p.out * 9 * p.in), 7.0f), run.dtype);
  const wino::GradientMemory memory = wino::both_gradients_memory(p, blocking, run.threads);
  Scratch scratch(memory.scratch);
  ThreadRooms rooms(memory.room, run.threads);
  wino::both_gradients(p, run.x, run.dy, u.floats(), {.y = dx.data(), .dtype = run.x.dtype},
                       {dw.data(), run.dtype}, blocking, run.threads, scratch.data(), rooms);
  CHECK_FALSE((scratch.overrun() || rooms.overrun()));
  CHECK(dx.read<float>() == alone.read<float>());
  return {dx.read<float>(), dw.read<float>()};
}

}  // namespace

TEST_CASE("both gradients at once: dx to the bit as alone, dw of every shape, however they are cut") {
  for (const wino::Problem& p : small_winograd_shapes()) {
    const Floats x = drawn<float>(x_size(p), 1), dy = drawn<float>(dy_size(p), 2);
    const Floats w = drawn<float>(p.out * 9 * p.in, 3);
    const Numbers expected = weight_gradient_of(p, x, dy);
    Stored xs(x, DType::f32), dys(dy, DType::f32);
    on_every_target([&] {
      for (const std::int64_t tiles : {4, 8, 32}) {
        for (const int threads : {1, allowed(2), allowed(3)}) {
          const Run run{.x = {.x = xs.data()}, .dy = {.x = dys.data()}, .threads = threads};
          INFO(text(p), ", threads ", threads, ", tiles ", tiles);
          const Gradients got = both(p, w, run, {.tiles = tiles});
          CHECK(error(got.dw, expected) <= fusetape::winograd_gradient_error);
          CHECK(got.dw == both(p, w, run, {.tiles = tiles}).dw);
        }
      }
    });
  }
}

TEST_CASE("both gradients at once, of every form of both sources, which are written once") {
  const wino::Problem problems[] = {{.batch = 2, .height = 9, .width = 6, .in = 24, .out = 16},
                                    {.batch = 1, .height = 5, .width = 7, .in = 16, .out = 33, .pad = 0},
                                    // More blocks than one sum takes.
                                    {.batch = 3, .height = 40, .width = 44, .in = 16, .out = 16}};
  for (const wino::Problem& p : problems) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const Form& form : forms) {
        const Form& other = forms[(&form - forms + 3) % std::ssize(forms)];
        Image x(x_size(p), p.in, form, dtype, 3), dy(dy_size(p), p.out, other, dtype, 10);
        const Floats w = drawn<float>(p.out * 9 * p.in, 4);
        const Numbers expected = weight_gradient_of(p, x.values(), dy.values());
        Run run{.x = x.source(), .dy = dy.source(), .threads = most_threads};
        INFO(text(p), ", ", name_of(dtype), ", form ", &form - forms);
        const auto clear = [&] {
          std::fill_n(x.written.data(), x.values().size() * fusetape::size_of(dtype), std::byte{0});
          std::fill_n(dy.written.data(), dy.values().size() * fusetape::size_of(dtype), std::byte{0});
        };
        CHECK(error(both(p, w, run, {.tiles = 4}, clear).dw, expected) <= fusetape::winograd_gradient_error);
        if (form.norm) CHECK(x.written.read<float>() == x.values());
        if (other.norm) CHECK(dy.written.read<float>() == dy.values());
        run.dtype = DType::bf16;
        CHECK(error(both(p, w, run, {.tiles = 8}).dw, expected) <= 0x1p-8);
      }
    }
  }
}

TEST_CASE(
    "both gradients at once: a NaN in x or dy reaches the weight gradients of its channel, and no others") {
  for (const int pad : {0, 1}) {
    const wino::Problem p = {.batch = 1, .height = 6, .width = 5, .in = 18, .out = 20, .pad = pad};
    const Floats w = drawn<float>(p.out * 9 * p.in, 4);
    for (const bool in_x : {true, false}) {
      Floats x = drawn<float>(x_size(p), 1), dy = drawn<float>(dy_size(p), 2);
      (in_x ? x[13 * 18 + 17] : dy[7 * 20 + 3]) = std::nanf("");
      Stored xs(x, DType::f32), dys(dy, DType::f32);
      const Run run{.x = {.x = xs.data()}, .dy = {.x = dys.data()}};
      const wino::Problem mirrored = p.mirrored();
      Scratch u(wino::weights_bytes(mirrored));
      const wino::GradientMemory memory = wino::both_gradients_memory(p, {.tiles = 8}, 1);
      Scratch scratch(memory.scratch);
      ThreadRooms rooms(memory.room, 1);
      wino::transform_weights(p, w.data(), DType::f32, true, u.floats(), 1);
      Floats dx(x.size()), dw(w.size());
      wino::both_gradients(p, run.x, run.dy, u.floats(), {.y = dx.data()}, {dw.data()}, {.tiles = 8}, 1,
                           scratch.data(), rooms);
      for (std::size_t i = 0; i < dw.size(); ++i)
        CHECK(std::isnan(dw[i]) == (in_x ? i % 18 == 17 : i / (9 * 18) == 3));
    }
  }
}
