#pragma once
#include "backends/cuda/kernels/fault.hpp"
#include "backends/cuda/kernels/tensor_list.hpp"
#include "core/numerics/update_formulas.hpp"

/// The update of many parameters at once, with the clipping of their gradients.
namespace fusetape::backends::cuda {

/// A parameter, its gradient and its state before and after; the clipped gradient only where somebody wants
/// it. Results may lie where the operands do. Where a kernel before found fault with its data, what is
/// updated stays as it was.
template <class T, int States>
struct ListedUpdate {
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

template <class U>
inline constexpr const char* update_name = nullptr;
#define FUSETAPE_NAME_UPDATE(name) \
  template <>                      \
  inline constexpr const char* update_name<core::updates::name> = #name;
FUSETAPE_UPDATE_OPS(FUSETAPE_NAME_UPDATE)
#undef FUSETAPE_NAME_UPDATE

/// U: of core::updates.
template <class T, class U>
struct ParameterUpdate {
  using Entry = ListedUpdate<T, core::updates::most_states<U>()>;
  static constexpr int most = entries_that_fit<Entry>;
  struct Args {
    const double* scalars[core::updates::scalars_of<U>];
    const T* scale;
    const Fault* fault;
    int variant;
    int count;
    Entry tensors[most];
  };
  static_assert(sizeof(Args) <= 4096);
  struct Shared {
    typename U::template Factors<float> factors;
    float scale;
    bool leaves;  ///< everything as it was
  };
  using Local = Nothing;
  static std::string name() { return std::string(update_name<U>) + "<" + type_name<T> + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    if (phase == 0) {
      if (thread.index != 0) return;
      shared.factors =
          U::template factors<float>(core::updates::read_scalars<U>([&](int i) { return *args.scalars[i]; }));
      shared.scale = gradient_scale(args.scale);
      shared.leaves = args.fault->site != 0;
      return;
    }
    const ListedRun run = run_of_block(args.tensors, args.count, thread.block_x);
    const Entry& tensor = args.tensors[run.entry];
    core::updates::with_variant<U>(args.variant, [&](auto variant) {
      for_eights<threads>(run, thread.index, [&](std::int64_t at, int count) {
        update<decltype(variant)::value>(shared, tensor, at, count);
      });
    });
  }

 private:
  template <int variant>
  FUSETAPE_HD static void update(const Shared& shared, const Entry& tensor, std::int64_t at, int count) {
    constexpr int states = U::states(variant);
    Eight p = load_eight(tensor.p + at, count), state[states + 1];
    const Eight g = clipped(tensor, shared.scale, at, count);
    for (int s = 0; s < states; ++s) state[s] = load_eight(tensor.state[s] + at, count);
    for (int i = 0; i < 8 && !shared.leaves; ++i) {
      float next[states + 1];
      for (int s = 0; s < states; ++s) next[s] = state[s].at[i];
      U::template update<variant>(shared.factors, p.at[i], g.at[i], next);
      for (int s = 0; s < states; ++s) state[s].at[i] = next[s];
    }
    store_eight(tensor.new_p + at, p, count);
    if (tensor.new_g != nullptr) store_eight(tensor.new_g + at, g, count);
    for (int s = 0; s < states; ++s) store_eight(tensor.new_state[s] + at, state[s], count);
  }
};

}  // namespace fusetape::backends::cuda
