#pragma once
#include "backends/cuda/kernels/fault.hpp"
#include "backends/cuda/kernels/tensor_list.hpp"
#include "core/update_formulas.hpp"

/// sgd_update and adam_update of many parameters at once, with the clipping of their gradients.
namespace fusetape::backends::cuda {

/// A parameter, its gradient and its state before and after; the clipped gradient only where somebody wants
/// it. Results may lie where the operands do. Where a kernel before found fault with its data, what is
/// updated stays as it was.
template <class T, int States>
struct ListedUpdate {
  static constexpr int states = States;
  const T *p, *g, *state[States];
  T *new_p, *new_g, *new_state[States];
  ListedTensor at;
};

/// g·scale.
template <class T, int States>
FUSETAPE_HD Eight clipped(const ListedUpdate<T, States>& tensor, float scale, std::int64_t at, int count) {
  Eight g = load_eight(tensor.g + at, count);
  for (float& value : g.at) value *= scale;
  return g;
}

/// A run-time scalar of the gradients' dtype; none is 1.
template <class T>
FUSETAPE_HD float gradient_scale(const T* scale) {
  return scale != nullptr ? to_float(*scale) : 1;
}

template <class T>
struct SgdUpdate {
  using Entry = ListedUpdate<T, 1>;  ///< state: the velocity, or null
  static constexpr int most = entries_that_fit<Entry>;
  struct Args {
    const double *lr, *weight_decay, *momentum;
    const T* scale;
    const Fault* fault;
    bool nesterov;
    int count;
    Entry tensors[most];
  };
  struct Shared {
    core::SgdFactors factors;
    float scale;
    bool leaves;  ///< everything as it was
  };
  using Local = Nothing;
  static std::string name() { return std::string("sgd_update<") + type_name<T> + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    if (phase == 0) {
      if (thread.index != 0) return;
      shared.factors = core::sgd_factors(*args.lr, *args.weight_decay,
                                         args.momentum != nullptr ? *args.momentum : 0, args.nesterov);
      shared.scale = gradient_scale(args.scale);
      shared.leaves = args.fault->site != 0;
      return;
    }
    const ListedRun run = run_of_block(args.tensors, args.count, thread.block_x);
    const Entry& tensor = args.tensors[run.entry];
    for_eights<threads>(run, thread.index,
                        [&](std::int64_t at, int count) { update(shared, tensor, at, count); });
  }

 private:
  FUSETAPE_HD static void update(const Shared& shared, const Entry& tensor, std::int64_t at, int count) {
    Eight p = load_eight(tensor.p + at, count);
    const Eight g = clipped(tensor, shared.scale, at, count);
    Eight v = tensor.state[0] != nullptr ? load_eight(tensor.state[0] + at, count) : Eight{};
    for (int i = 0; i < 8 && !shared.leaves; ++i) {
      const core::SgdElement next = core::sgd_updated(shared.factors, p.at[i], g.at[i], v.at[i]);
      p.at[i] = next.p;
      v.at[i] = next.velocity;
    }
    store_eight(tensor.new_p + at, p, count);
    if (tensor.new_g != nullptr) store_eight(tensor.new_g + at, g, count);
    if (tensor.new_state[0] != nullptr) store_eight(tensor.new_state[0] + at, v, count);
  }
};

template <class T>
struct AdamUpdate {
  using Entry = ListedUpdate<T, 2>;  ///< state: m, v
  static constexpr int most = entries_that_fit<Entry>;
  struct Args {
    const double *lr, *beta1, *beta2, *eps, *weight_decay, *correction1, *correction2;
    const T* scale;
    const Fault* fault;
    bool decoupled;
    int count;
    Entry tensors[most];
  };
  struct Shared {
    core::AdamFactors factors;
    float scale;
    bool leaves;  ///< everything as it was
  };
  using Local = Nothing;
  static std::string name() { return std::string("adam_update<") + type_name<T> + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    if (phase == 0) {
      if (thread.index != 0) return;
      shared.factors = core::adam_factors({*args.lr, *args.beta1, *args.beta2, *args.eps, *args.weight_decay,
                                           *args.correction1, *args.correction2},
                                          args.decoupled);
      shared.scale = gradient_scale(args.scale);
      shared.leaves = args.fault->site != 0;
      return;
    }
    const ListedRun run = run_of_block(args.tensors, args.count, thread.block_x);
    const Entry& tensor = args.tensors[run.entry];
    for_eights<threads>(run, thread.index,
                        [&](std::int64_t at, int count) { update(shared, tensor, at, count); });
  }

 private:
  FUSETAPE_HD static void update(const Shared& shared, const Entry& tensor, std::int64_t at, int count) {
    Eight p = load_eight(tensor.p + at, count), m = load_eight(tensor.state[0] + at, count),
          v = load_eight(tensor.state[1] + at, count);
    const Eight g = clipped(tensor, shared.scale, at, count);
    for (int i = 0; i < 8 && !shared.leaves; ++i) {
      const core::AdamElement next = core::adam_updated(shared.factors, p.at[i], g.at[i], m.at[i], v.at[i]);
      p.at[i] = next.p;
      m.at[i] = next.m;
      v.at[i] = next.v;
    }
    store_eight(tensor.new_p + at, p, count);
    if (tensor.new_g != nullptr) store_eight(tensor.new_g + at, g, count);
    store_eight(tensor.new_state[0] + at, m, count);
    store_eight(tensor.new_state[1] + at, v, count);
  }
};

}  // namespace fusetape::backends::cuda
