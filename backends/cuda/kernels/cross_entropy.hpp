#pragma once
#include "backends/cuda/kernels/fault.hpp"
#include "backends/cuda/kernels/softmax.hpp"
#include "core/numerics/loss_formulas.hpp"

/// Cross entropy of logits {rows, classes} and labels, and its gradient: softmax inside.
namespace fusetape::backends::cuda {

/// i64 or u8.
struct Labels {
  const void* data;
  bool bytes;
  Fault* fault;  ///< where a label that is no class is noted
  unsigned site;

  /// The row's label, or −1 after noting that it is none.
  FUSETAPE_HD std::int64_t checked(std::int64_t row, std::int64_t classes) const {
    const std::int64_t label = of(row);
    if (label >= 0 && label < classes) return label;
    note_fault(fault, site, row, label);
    return -1;
  }
  /// The row's label, known to be one or not.
  FUSETAPE_HD std::int64_t of(std::int64_t row) const {
    return bytes ? static_cast<const std::uint8_t*>(data)[row] : static_cast<const std::int64_t*>(data)[row];
  }
};

/// The loss of every row, or their sum for each block.
template <class T>
struct CrossEntropy {
  struct Args {
    const T* x;
    Labels labels;
    T* losses;     ///< of the rows; null: their sums are wanted
    double* sums;  ///< of the blocks
    Lines rows;
    const double* smoothing;
  };
  struct Shared {
    ExpSums exp;
    double away[Lines::threads];  ///< Σ x − largest
    double loss[Lines::threads];  ///< of a row
  };
  using Local = Nothing;
  static std::string name() { return std::string("cross_entropy<") + type_name<T> + ">"; }
  static constexpr unsigned threads = Lines::threads;
  static constexpr int phases = 4;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    switch (phase) {
      case 0:
        return shared.exp.find_largest(args.rows, args.x, thread);
      case 1:
        shared.exp.add_powers(args.rows, args.x, thread);
        if (*args.smoothing != 0) add_away(args, shared, thread);
        return;
      case 2:
        if (args.rows.lane(thread.index) == 0) find_loss(args, shared, thread);
        return;
      default:
        if (args.losses == nullptr && thread.index == 0) sum_losses(args, shared, thread);
    }
  }

 private:
  FUSETAPE_HD static void add_away(const Args& args, Shared& shared, const Thread& thread) {
    const float most = shared.exp.largest_of_line(args.rows, thread);
    float sum = 0;
    args.rows.for_each(thread, [&](std::int64_t, std::int64_t at) { sum += to_float(args.x[at]) - most; });
    shared.away[thread.index] = static_cast<double>(sum);
  }

  FUSETAPE_HD static void find_loss(const Args& args, Shared& shared, const Thread& thread) {
    const std::int64_t row = args.rows.line(thread), classes = args.rows.length;
    if (row >= args.rows.count) return;
    const std::int64_t label = args.labels.checked(row, classes);
    const double most = shared.exp.largest_of_line(args.rows, thread);
    const double log_sum = std::log(shared.exp.sum_of_line(args.rows, thread));
    const double at_label = label < 0 ? 0 : static_cast<double>(to_float(args.x[row * classes + label]));
    double loss = log_sum - (at_label - most);
    if (*args.smoothing != 0) {
      const auto count = static_cast<double>(classes);
      const double away = args.rows.joined(shared.away, thread.index, Added());
      loss = core::smoothed_loss(loss, count * log_sum - away, *args.smoothing, count);
    }
    shared.loss[args.rows.slot(thread.index)] = loss;
    if (args.losses != nullptr) args.losses[row] = from_float<T>(static_cast<float>(loss));
  }

  FUSETAPE_HD static void sum_losses(const Args& args, const Shared& shared, const Thread& thread) {
    const std::int64_t left = args.rows.count - std::int64_t{thread.block_x} * args.rows.per_block();
    double sum = 0;
    for (unsigned i = 0; i < args.rows.per_block() && i < left; ++i) sum += shared.loss[i];
    args.sums[thread.block_x] = sum;
  }
};

/// dx = g·(softmax(x) − target), over the number of rows for the mean. dx may lie where x does.
template <class T>
struct CrossEntropyGrad {
  struct Args {
    const T *g, *x;
    Labels labels;
    T* dx;
    Lines rows;
    const double* smoothing;
    bool g_by_row, mean;
  };
  using Shared = ExpSums;
  using Local = Nothing;
  static std::string name() { return std::string("cross_entropy_grad<") + type_name<T> + ">"; }
  static constexpr unsigned threads = Lines::threads;
  static constexpr int phases = 3;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    if (phase == 0) return shared.find_largest(args.rows, args.x, thread);
    if (phase == 1) return shared.add_powers(args.rows, args.x, thread);
    if (args.rows.line(thread) < args.rows.count) write(args, shared, thread);
  }

 private:
  FUSETAPE_HD static void write(const Args& args, const Shared& shared, const Thread& thread) {
    const std::int64_t row = args.rows.line(thread), classes = args.rows.length;
    const bool first = args.rows.lane(thread.index) == 0;
    const std::int64_t label = first ? args.labels.checked(row, classes) : args.labels.of(row);
    const float most = shared.largest_of_line(args.rows, thread);
    const auto to_probability = static_cast<float>(1 / shared.sum_of_line(args.rows, thread));
    float scale = to_float(args.g[args.g_by_row ? row : 0]);
    if (args.mean) scale /= static_cast<float>(args.rows.count);
    const double smoothing = *args.smoothing;
    const auto everywhere = static_cast<float>(smoothing / static_cast<double>(classes));
    const auto at_label = static_cast<float>(1 - smoothing);
    args.rows.for_each(thread, [&](std::int64_t i, std::int64_t at) {
      const float probability = std::exp(to_float(args.x[at]) - most) * to_probability;
      const float target = i == label ? at_label + everywhere : everywhere;
      args.dx[at] = from_float<T>(scale * (probability - target));
    });
  }
};

}  // namespace fusetape::backends::cuda
