#pragma once
#include <cmath>

#include "backends/cuda/kernels/elements.hpp"
#include "backends/cuda/kernels/lines.hpp"

/// softmax and log_softmax of each line, and their gradients from y. y may lie where an operand does.
namespace fusetape::backends::cuda {

/// The largest element of a line, then Σ e^(x − largest): two phases, and a third that knows both. A NaN need
/// not be the largest, it shows in the sum.
struct ExpSums {
  float largest[Lines::threads];
  double sum[Lines::threads];

  template <class T>
  FUSETAPE_HD void find_largest(const Lines& lines, const T* x, const Thread& thread) {
    float most = -HUGE_VALF;
    lines.for_each(thread, [&](std::int64_t, std::int64_t at) { most = Larger()(most, to_float(x[at])); });
    largest[thread.index] = most;
  }
  template <class T>
  FUSETAPE_HD void add_powers(const Lines& lines, const T* x, const Thread& thread) {
    const float most = largest_of_line(lines, thread);
    float total = 0;
    lines.for_each(thread, [&](std::int64_t, std::int64_t at) { total += std::exp(to_float(x[at]) - most); });
    sum[thread.index] = static_cast<double>(total);
  }
  FUSETAPE_HD float largest_of_line(const Lines& lines, const Thread& thread) const {
    return lines.joined(largest, thread.index, Larger());
  }
  FUSETAPE_HD double sum_of_line(const Lines& lines, const Thread& thread) const {
    return lines.joined(sum, thread.index, Added());
  }
};

template <class T>
struct Softmax {
  struct Args {
    const T* x;
    T* y;
    Lines lines;
    bool log;
  };
  using Shared = ExpSums;
  using Local = Nothing;
  static std::string name() { return std::string("softmax<") + type_name<T> + ">"; }
  static constexpr unsigned threads = Lines::threads;
  static constexpr int phases = 3;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    if (phase == 0) return shared.find_largest(args.lines, args.x, thread);
    if (phase == 1) return shared.add_powers(args.lines, args.x, thread);
    const float most = shared.largest_of_line(args.lines, thread);
    const double sum = shared.sum_of_line(args.lines, thread);
    const float normaliser = args.log ? std::log(static_cast<float>(sum)) : static_cast<float>(1 / sum);
    args.lines.for_each(thread, [&](std::int64_t, std::int64_t at) {
      const float away = to_float(args.x[at]) - most;
      args.y[at] = from_float<T>(args.log ? away - normaliser : std::exp(away) * normaliser);
    });
  }
};

/// dx = y·(g − Σg·y); of log_softmax g − e^y·Σg.
template <class T>
struct SoftmaxGrad {
  struct Args {
    const T *g, *y;
    T* dx;
    Lines lines;
    bool log;
  };
  struct Shared {
    double sum[Lines::threads];
  };
  using Local = Nothing;
  static std::string name() { return std::string("softmax_grad<") + type_name<T> + ">"; }
  static constexpr unsigned threads = Lines::threads;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    if (phase == 0) {
      float sum = 0;
      args.lines.for_each(thread, [&](std::int64_t, std::int64_t at) {
        sum += args.log ? to_float(args.g[at]) : to_float(args.g[at]) * to_float(args.y[at]);
      });
      shared.sum[thread.index] = static_cast<double>(sum);
      return;
    }
    const auto sum = static_cast<float>(args.lines.joined(shared.sum, thread.index, Added()));
    args.lines.for_each(thread, [&](std::int64_t, std::int64_t at) {
      const float g = to_float(args.g[at]), y = to_float(args.y[at]);
      args.dx[at] = from_float<T>(args.log ? g - std::exp(y) * sum : y * (g - sum));
    });
  }
};

}  // namespace fusetape::backends::cuda
