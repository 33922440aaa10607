#pragma once
#include <cmath>
#include <type_traits>

#include "backends/cuda/kernels/elements.hpp"
#include "backends/cuda/kernels/lines.hpp"

/// max, argmax and the gradient of max: the first NaN of a line, else the first of its largest elements.
namespace fusetape::backends::cuda {

/// Of the same line, in any order; place −1: none yet.
template <class Value>
struct Place {
  Value value;
  std::int64_t place;

  FUSETAPE_HD bool beats(const Place& other) const {
    if (place < 0 || other.place < 0) return place >= 0;
    const bool undefined = value != value, other_undefined = other.value != other.value;
    if (undefined != other_undefined) return undefined;
    if (undefined || value == other.value) return place < other.place;
    return value > other.value;
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
    T* dx;                ///< g at that place, else 0
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
    FUSETAPE_HD Found operator()(const Found& a, const Found& b) const { return b.beats(a) ? b : a; }
  };

  FUSETAPE_HD static Value value_of(T x) {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<Value>(x);
    } else {
      return to_float(x);
    }
  }

  FUSETAPE_HD static void find(const Args& args, Shared& shared, const Thread& thread) {
    Found found{Value(), -1};
    args.lines.for_each(thread, [&](std::int64_t i, std::int64_t at) {
      found = Better()(found, Found{value_of(args.x[at]), i});
    });
    shared.found[thread.index] = found;
  }

  FUSETAPE_HD static void write(const Args& args, const Shared& shared, const Thread& thread) {
    const std::int64_t line = args.lines.line(thread);
    if (line >= args.lines.count) return;
    const std::int64_t place = args.lines.joined(shared.found, thread.index, Better()).place;
    if (args.dx != nullptr) {
      args.lines.for_each(
          thread, [&](std::int64_t i, std::int64_t at) { args.dx[at] = i == place ? args.g[line] : T{}; });
    } else if (args.lines.lane(thread.index) == 0) {
      if (args.place != nullptr) args.place[line] = place;
      if (args.largest != nullptr) {
        args.largest[line] = args.x[args.lines.across.offset(line) + args.lines.along.offset(place)];
      }
    }
  }
};

}  // namespace fusetape::backends::cuda
