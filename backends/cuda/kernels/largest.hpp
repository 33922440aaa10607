#pragma once
#include <cmath>
#include <type_traits>

#include "backends/cuda/kernels/elements.hpp"
#include "backends/cuda/kernels/lines.hpp"

/// max, argmax and the gradient of max: the first NaN of a line, else the first of its largest elements.
namespace fusetape::backends::cuda {

/// The first and the number of the largest elements of a part of a line; place −1: of none.
template <class Value>
struct Place {
  Value value;
  std::int64_t place, count;

  FUSETAPE_HD bool equals(const Place& other) const {
    return value == other.value || (value != value && other.value != other.value);
  }
  FUSETAPE_HD bool beats(const Place& other) const {
    if (place < 0 || other.place < 0) return place >= 0;
    const bool undefined = value != value, other_undefined = other.value != other.value;
    return undefined != other_undefined ? undefined : value > other.value;
  }
};

template <class T>
struct Largest {
  using Value = std::conditional_t<std::is_integral_v<T>, std::int64_t, float>;
  using Found = Place<Value>;
  struct Args {
    const T* x;
    Lines lines;
    // One of these results:
    T* largest;
    std::int64_t* place;  ///< in the line
    T* dx;                ///< equal shares of g where an element is as large as the largest, else 0
    const T* g;
  };
  struct Shared {
    Found found[Lines::threads];
  };
  using Local = Nothing;
  static std::string name() { return std::string("largest<") + type_name<T> + ">"; }
  static constexpr unsigned threads = Lines::threads;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    phase == 0 ? find(args, shared, thread) : write(args, shared, thread);
  }

 private:
  struct Better {
    FUSETAPE_HD Found operator()(const Found& a, const Found& b) const {
      if (b.beats(a)) return b;
      if (a.place < 0 || a.beats(b)) return a;
      return {a.value, a.place < b.place ? a.place : b.place, a.count + b.count};
    }
  };

  FUSETAPE_HD static Value value_of(T x) {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<Value>(x);
    } else {
      return to_float(x);
    }
  }

  FUSETAPE_HD static T share_of(T g, std::int64_t count) {
    if constexpr (std::is_integral_v<T>) {
      return g;  // integers have no gradient
    } else {
      return from_float<T>(to_float(g) / static_cast<float>(count));
    }
  }

  FUSETAPE_HD static void find(const Args& args, Shared& shared, const Thread& thread) {
    Found found{Value(), -1, 0};
    args.lines.for_each(thread, [&](std::int64_t i, std::int64_t at) {
      found = Better()(found, Found{value_of(args.x[at]), i, 1});
    });
    shared.found[thread.index] = found;
  }

  FUSETAPE_HD static void write(const Args& args, const Shared& shared, const Thread& thread) {
    const std::int64_t line = args.lines.line(thread);
    if (line >= args.lines.count) return;
    const Found found = args.lines.joined(shared.found, thread.index, Better());
    const std::int64_t place = found.place;
    if (args.dx != nullptr) {
      const T share = share_of(args.g[line], found.count);
      args.lines.for_each(thread, [&](std::int64_t, std::int64_t at) {
        args.dx[at] = found.equals({value_of(args.x[at]), 0, 1}) ? share : T{};
      });
    } else if (args.lines.lane(thread.index) == 0) {
      if (args.place != nullptr) args.place[line] = place;
      if (args.largest != nullptr) {
        args.largest[line] = args.x[args.lines.across.offset(line) + args.lines.along.offset(place)];
      }
    }
  }
};

}  // namespace fusetape::backends::cuda
