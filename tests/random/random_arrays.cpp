// Rows of the table of random programs: by index, reductions, norms of samples, other sizes, attention.
#include "tests/random/random_program.hpp"

namespace fusetape::tests {
namespace {

using From = Ingredients;

Tensor small(Tensor x) { return x.defined() && x.elements() <= 3'000 ? x : Tensor(); }

int axis_of(From& from, const Tensor& x) { return static_cast<int>(from.dice.below(x.rank())); }

/// Places of an axis, any of them several times.
Tensor places(From& from, std::int64_t count, std::int64_t extent, Shape shape) {
  std::vector<std::int64_t> chosen(static_cast<std::size_t>(count));
  for (std::int64_t& place : chosen) place = from.dice.below(extent);
  return from_vector(chosen, shape);
}

Tensor selected(From& from) {
  const Tensor x = from.any();
  const int axis = axis_of(from, x);
  const std::int64_t extent = x.size(axis), count = 1 + from.dice.below(extent + 2);
  return small(index_select(x, axis, places(from, count, extent, {count})));
}
Tensor gathered(From& from) {
  const Tensor x = from.any();
  const int axis = axis_of(from, x);
  const Tensor index = places(from, x.elements(), x.size(axis), x.shape());
  return from.dice.chance(50) ? gather(x, axis, index)
                              : 0.25 * scatter_add(x, axis, index, cast(from.like(x), x.dtype()));
}
Tensor running_sum(From& from) {
  const Tensor x = from.any();
  return from.integers() ? cumsum(x, axis_of(from, x)) : 0.25 * cumsum(x, axis_of(from, x));
}
Tensor largest_two(From& from) {
  const Tensor x = from.any();
  const int axis = axis_of(from, x);
  return x.size(axis) < 2 ? Tensor() : topk(x, 2, axis).values;
}
Tensor turned(From& from) {
  const Tensor x = from.any();
  const int axis = axis_of(from, x);
  return from.dice.chance(50) ? flip(x, axis) : roll(x, from.dice.below(7) - 3, axis);
}
Tensor stacked(From& from) {
  const Tensor x = from.any();
  return small(stack({x, from.like(x)}, axis_of(from, x)).reshape({-1, x.size(-1)}));
}
Tensor repeated(From& from) {
  const Tensor x = from.any();
  std::vector<std::int64_t> times(static_cast<std::size_t>(x.rank()), 1);
  times[static_cast<std::size_t>(axis_of(from, x))] = 2;
  return small(repeat(x, times));
}
Tensor smallest(From& from) {
  const Tensor x = from.any();
  return from.like(x) + min(x, axis_of(from, x), {.keep_dims = true});
}
Tensor variance(From& from) {
  const Tensor x = from.any();
  const int axis = axis_of(from, x);
  return x / (var(x, axis, {.correction = 0, .keep_dims = true}) + 1.0);
}
Tensor log_of_sum(From& from) {
  const Tensor x = from.any();
  return from.like(x) - 0.5 * logsumexp(x, axis_of(from, x), {.keep_dims = true});
}
Tensor product_of_few(From& from) {
  const Tensor x = from.any();
  return from.like(x) * prod(tanh(x) * 0.5 + 0.75, axis_of(from, x), {.keep_dims = true});
}
Tensor layer_normed(From& from) {
  const Tensor x = from.any();
  return x.size(-1) < 2 ? Tensor()
                        : layer_norm(x, from.channels(x.size(-1), 1), from.channels(x.size(-1), 0), 0.1);
}
Tensor group_normed(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const std::int64_t c = x.size(3), groups = c % 2 == 0 ? 2 : 1;
  const Tensor y = group_norm(x, groups, from.channels(c, 1), from.channels(c, 0), 0.1);
  return from.dice.chance(50) ? relu(y) : y;
}
Tensor resized(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Size2d size(1 + from.dice.below(9), 1 + from.dice.below(9));
  const std::int64_t way = from.dice.below(3);
  if (way == 0) return small(adaptive_avg_pool2d(x, size));
  return small(upsample(x, size, way == 1 ? Upsampling::nearest : Upsampling::bilinear));
}
Tensor attended(From& from) {
  const Tensor x = from.matrix();
  return scaled_dot_product_attention(x, from.like(x), from.like(x), {.causal = from.dice.chance(50)});
}
Tensor elementary(From& from) {
  const Tensor x = from.any();
  switch (from.dice.below(7)) {
    case 0:
      return rsqrt(abs(x) + 0.5);
    case 1:
      return expm1(-abs(x));
    case 2:
      return log1p(abs(x));
    case 3:
      return sin(x);
    case 4:
      return cos(x);
    case 5:
      return gelu_tanh(x);
    default:
      return where(logical_and(greater(x, 0), less(x, 1)), x * x, from.like(x));
  }
}
Tensor stepped(From& from) {
  const Tensor x = from.any();
  Tensor (*const steps[])(Operand) = {floor, round, sign};
  return from.like(x) + 0.125 * steps[from.dice.below(3)](x * 1.5);
}

}  // namespace

const std::vector<OpRow>& array_rows() {
  static const std::vector<OpRow> rows = {
      {"index_select", selected, true},
      {"gather, scatter_add", gathered},
      {"cumsum", running_sum},
      {"topk", largest_two, true},
      {"flip, roll", turned, true},
      {"stack", stacked, true},
      {"repeat", repeated, true},
      {"min", smallest, true},
      {"var", variance},
      {"logsumexp", log_of_sum},
      {"prod", product_of_few},
      {"layer_norm", layer_normed},
      {"group_norm", group_normed},
      {"upsample, adaptive_avg_pool2d", resized},
      {"attention", attended},
      {"elementary functions", elementary},
      {"floor, round, sign", stepped, false, true},
  };
  return rows;
}

}  // namespace fusetape::tests
