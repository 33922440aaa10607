// The table of what random programs are made of. Factors keep values near 1, and powers, logarithms and
// quotients away from where they are steep.
#include "tests/random/random_program.hpp"

namespace fusetape::tests {
namespace {

using From = Ingredients;

/// Extents that random programs can afford.
Tensor small(Tensor x) { return x.defined() && x.elements() <= 3'000 ? x : Tensor(); }

Tensor binary(From& from, Tensor (*op)(Operand, Operand)) {
  const Tensor x = from.any(), y = from.like(x);
  return op(x, y);
}

/// A convolution of the image that keeps its extents or not.
struct Conv {
  Tensor x, w;
  Conv2dOptions options;
};
Conv conv_of(From& from, const Tensor& x, bool same, std::int64_t out) {
  const std::int64_t k = from.dice.pick({1, 3}), c = x.size(3);
  Conv2dOptions options{.padding = {k / 2, k / 2}};
  if (!same && from.dice.chance(40)) options.stride = {2, from.dice.pick({1, 2})};
  if (!same && k == 3 && from.dice.chance(20)) options.dilation = {2, 2}, options.padding = {2, 2};
  if (from.dice.chance(15) && c == out) options.groups = c;
  const std::int64_t per_group = c / options.groups;
  return {x, from.weight({out, k, k, per_group}, k * k * per_group), options};
}

// ---- one op ----

Tensor scalars(From& from) { return 2 * from.any() - 1; }
Tensor number_over(From& from) { return 1 / (abs(from.any()) + 1.5); }
Tensor divide(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  return x / (abs(y) + 1);
}
Tensor power(From& from) { return pow(abs(from.any()) * 0.5 + 0.5, from.dice.chance(50) ? 2.0 : 0.75); }
Tensor power_of_both(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  return pow(sigmoid(x) + 0.5, tanh(y));
}
Tensor square_root(From& from) { return sqrt(abs(from.any()) + 0.5); }
Tensor logarithm(From& from) { return log(abs(from.any()) + 0.5); }
Tensor exponential(From& from) { return exp(-abs(from.any())); }
Tensor clamped(From& from) { return clamp(from.any(), -2, 3); }
Tensor leaky(From& from) { return leaky_relu(from.any(), 0.25); }
Tensor multiply(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  return 0.5 * x * y;
}
Tensor choose(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  Tensor (*const compare[])(Operand, Operand) = {less, less_equal, greater, greater_equal, equal, not_equal};
  const auto op = compare[from.dice.below(6)];
  return where(op(x, from.dice.chance(50) ? Operand(y) : Operand(0.0)), x, y);
}
Tensor broadcast_add(From& from) {
  const Tensor x = from.any();
  return x + from.channels(x.size(-1), 0);
}
Tensor broadcast_multiply(From& from) {
  const Tensor x = from.any();
  return x * from.channels(x.size(-1), 0);
}
Tensor add_bias(From& from) {
  const Tensor x = from.any();
  Tensor b = from.channels(x.size(-1), 0);
  if (b.dtype() != x.dtype() && autocast_dtype() == DType::f32) b = cast(b, x.dtype());
  return bias_add(x, b);
}
Tensor spread(From& from) {
  const Tensor x = from.any();
  return broadcast_to(from.channels(x.size(-1), 0), x.shape());
}
Tensor products(From& from) {
  const Tensor x = from.matrix(), y = from.like(x);
  const bool inner = from.dice.chance(50);
  return 0.25 * matmul(x, y, {.transpose_a = inner, .transpose_b = !inner});
}
Tensor batched_product(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Tensor y = from.like(x);
  const Tensor square = matmul(x, y, {.transpose_a = true});  // {N, H, C, C}
  return small(0.25 * matmul(x, square * 0.25));
}
Tensor layer(From& from) {
  const Tensor x = from.dice.chance(50) ? from.matrix() : from.any();
  const std::int64_t out = from.out_channels();
  return small(linear(x, from.weight({out, x.size(-1)}, x.size(-1))));
}
Tensor convolution(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Conv conv = conv_of(from, x, from.dice.chance(60), from.out_channels());
  return small(conv2d(conv.x, conv.w, conv.options));
}
Tensor transposed_convolution(From& from) {
  const Tensor x = from.image();
  if (!x.defined() || x.size(1) > 4) return {};
  const std::int64_t out = from.out_channels(), stride = from.dice.pick({1, 2});
  const Tensor w = from.weight({x.size(3), 3, 3, out}, 9 * x.size(3));
  return small(conv_transpose2d(x, w, {.stride = {stride, 1}, .padding = {1, 1}}));
}
Tensor max_pooled(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  if (from.dice.chance(50)) return max_pool2d(x, {.window = {3, 3}, .stride = {1, 1}, .padding = {1, 1}});
  return x.size(1) < 2 || x.size(2) < 2 ? Tensor() : max_pool2d(x);
}
Tensor averaged(From& from) {
  const Tensor x = from.image();
  if (!x.defined() || x.size(1) < 2 || x.size(2) < 2) return {};
  if (from.dice.chance(50) || from.integers()) return avg_pool2d(x);
  return avg_pool2d(
      x, {.window = {3, 3}, .stride = {1, 2}, .padding = {1, 1}, .count_padding = from.dice.chance(50)});
}
Tensor global_average(From& from) {
  const Tensor x = from.image();
  return x.defined() ? global_avg_pool(x) : Tensor();
}
Tensor normalised(From& from) { return from.norm(from.any(), from.dice.chance(30)); }
Tensor flat(From& from) { return small(flatten(from.any())); }
Tensor there_and_back(From& from) {
  const Tensor x = from.any();
  return reshape(reshape(x, {-1}) * 2, x.shape());
}
Tensor transposed(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return transpose(from.matrix());
  return from.dice.chance(50) ? transpose(x, {0, 2, 1, 3}) : from_nchw(relu(to_nchw(x)));
}
Tensor joined(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  const int axis = static_cast<int>(from.dice.below(x.rank()));
  return small(concat({x, y, x}, axis));
}
Tensor joined_and_cut(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  const int axis = static_cast<int>(from.dice.below(x.rank()));
  return slice(concat({x, y}, axis), axis, 1, 1 + x.size(axis));
}
Tensor every_second(From& from) {
  const Tensor x = from.any();
  const int axis = static_cast<int>(from.dice.below(x.rank()));
  return slice(x, axis, x.size(axis) > 1 ? 1 : 0, x.size(axis), 2);
}
Tensor padded(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  return small(pad(x, {{0, 0}, {1, 0}, {0, 1}, {0, 0}}, from.dice.chance(50) ? 0 : 1));
}
Tensor summed(From& from) {
  const Tensor x = from.any();
  return x + sum(from.like(x), {0}, {.keep_dims = true}) * 0.25;
}
Tensor less_mean(From& from) {
  const Tensor x = from.image();
  return x.defined() ? from.like(x) - mean(x, {1, 2}, {.keep_dims = true}) : Tensor();
}
Tensor largest(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  return y - 0.5 * max(x, {static_cast<int>(from.dice.below(x.rank()))}, {.keep_dims = true});
}
Tensor index_of_largest(From& from) {
  const Tensor x = from.any();
  return x + cast(argmax(x, -1, {.keep_dims = true}), x.dtype()) * 0.125;
}
Tensor soft(From& from) {
  const Tensor x = from.any();
  return softmax(x, from.dice.chance(70) ? -1 : 0);
}
Tensor log_soft(From& from) { return 0.5 * log_softmax(from.any()); }
/// A loss in the midst of a program scales something.
Tensor scaled_by(From& from, const Tensor& loss) { return from.any() * (0.25 * loss); }
Tensor entropy(From& from) {
  const Tensor x = from.matrix();
  const Tensor labels = from.labels(x.size(0), x.size(1));
  return scaled_by(from, cross_entropy(x, labels, {.label_smoothing = from.dice.chance(30) ? 0.1 : 0.0}));
}
Tensor binary_entropy(From& from) {
  const Tensor x = from.any();
  return scaled_by(from, bce_with_logits(x, sigmoid(from.like(x))));
}
Tensor squared_error(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  return from.dice.chance(50) ? 0.5 * mse_loss(x, y, Reduction::none) : scaled_by(from, mse_loss(x, y));
}
Tensor uniform(From& from) {
  const Tensor x = from.any();
  return x + rand(x.shape(), x.dtype());
}
Tensor gaussian(From& from) {
  const Tensor x = from.any();
  return x * randn(x.shape(), x.dtype()) * 0.5;
}
Tensor dropped(From& from) { return dropout(from.any(), 0.5); }
Tensor casts(From& from) {
  const Tensor x = from.any();
  if (x.dtype() == DType::f64) return x * 1.0;  // a value of its own, as below: it may get a hook
  return cast(cast(x, DType::f64), x.dtype());
}
Tensor detached(From& from) {
  const Tensor x = from.any();
  return from.like(x) + x.detach();
}
Tensor without_gradient(From& from) {
  const Tensor x = from.any();
  return from.like(x) + no_grad([&] { return relu(x) * 2; });
}

// ---- patterns ----

Tensor conv_bias_relu(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Conv conv = conv_of(from, x, from.dice.chance(50), from.out_channels());
  const Tensor b = from.channels(conv.w.size(0), 0);
  return small(relu(from.between(conv2d(conv.x, conv.w, b, conv.options))));
}
Tensor conv_relu(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Conv conv = conv_of(from, x, true, from.out_channels());
  return relu(from.between(conv2d(conv.x, conv.w, conv.options)));
}
Tensor conv_bias(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Conv conv = conv_of(from, x, from.dice.chance(50), from.out_channels());
  return small(conv2d(conv.x, conv.w, from.channels(conv.w.size(0), 0), conv.options));
}
/// relu(conv(x) + x): a residual fork that ends in a convolution.
Tensor conv_add_relu(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Conv conv = conv_of(from, x, true, x.size(3));
  Tensor y = conv2d(conv.x, conv.w, conv.options);
  if (from.dice.chance(50)) y = y + from.channels(x.size(3), 0);
  y = from.between(from.between(y) + from.like(x));
  return from.dice.chance(70) ? relu(y) : y;
}
Tensor conv_norm(From& from, bool evaluation) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Conv conv = conv_of(from, x, true, x.size(3));
  Tensor y = from.dice.chance(30) ? conv2d(conv.x, conv.w, from.channels(x.size(3), 0), conv.options)
                                  : conv2d(conv.x, conv.w, conv.options);
  y = from.between(from.norm(from.between(y), evaluation));
  if (from.dice.chance(40)) y = from.between(y + from.like(x));
  return from.dice.chance(70) ? relu(y) : y;
}
Tensor conv_norm_training(From& from) { return conv_norm(from, false); }
Tensor conv_norm_evaluation(From& from) { return conv_norm(from, true); }
Tensor norm_relu(From& from) { return relu(from.between(from.norm(from.any(), from.dice.chance(20)))); }
Tensor norm_add_relu(From& from) {
  const Tensor x = from.any(), z = from.like(x);
  const bool evaluation = from.dice.chance(20);
  const Tensor y = from.between(from.norm(x, evaluation));
  return relu(from.between(from.dice.chance(50) ? y + z : z + y));
}
Tensor norm_norm_add_relu(From& from) {
  const Tensor x = from.any(), z = from.like(x);
  const bool evaluation = from.dice.chance(20);
  const Tensor y = from.between(from.norm(x, evaluation));
  return relu(from.between(y + from.norm(z, evaluation)));
}
/// What a residual network is made of: two convolutions with their norms, and the fork.
Tensor residual_block(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Conv first = conv_of(from, x, true, x.size(3));
  const Tensor y = relu(from.between(from.norm(conv2d(x, first.w, first.options), false)));
  const Conv second = conv_of(from, y, true, x.size(3));
  const Tensor shortcut = from.dice.chance(70) ? x : from.norm(x, false);
  return relu(from.between(from.norm(conv2d(y, second.w, second.options), false) + shortcut));
}
/// Convolutions, norms and ReLUs in a row, where any value may come back as an operand of a later sum.
Tensor tangle(From& from) {
  std::vector<Tensor> values{from.image()};
  if (!values[0].defined()) return {};
  const std::int64_t c = values[0].size(3);
  for (int i = 0; i < 6; ++i) {
    const Tensor& x = values.back();
    const std::int64_t kind = from.dice.below(5);
    if (kind < 2) {
      const Conv conv = conv_of(from, x, true, c);
      const bool turned = kind == 1 && conv.w.size(1) == 3 && conv.options.groups == 1;
      const Tensor w = from.dice.chance(25) ? conv.w.detach() : conv.w;
      values.push_back(turned ? conv_transpose2d(x, w, {.padding = {1, 1}}) : conv2d(x, w, conv.options));
    } else if (kind == 2) {
      values.push_back(from.norm(x, false));
    } else if (kind == 3) {
      values.push_back(relu(x));
    } else {
      values.push_back(x + values[static_cast<std::size_t>(from.dice.below(std::ssize(values)))]);
    }
  }
  return values.back();
}
/// Two convolutions of one input: their gradients meet at the fork.
Tensor siblings(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Conv a = conv_of(from, x, true, x.size(3)), b = conv_of(from, x, true, x.size(3));
  return conv2d(x, a.w, a.options) + relu(conv2d(x, b.w, b.options));
}
Tensor linear_pattern(From& from) {
  const Tensor x = from.dice.chance(60) ? from.matrix() : from.any();
  const std::int64_t out = from.out_channels();
  const Tensor w = from.weight({out, x.size(-1)}, x.size(-1)), b = from.channels(out, 0);
  const Tensor y = from.between(linear(x, w, b));
  return small(from.integers() || from.dice.chance(50) ? relu(y) : gelu(y));
}
Tensor product_and_bias(From& from) {
  const Tensor x = from.matrix(), y = from.like(x);
  const Tensor product = matmul(x, y, {.transpose_b = true});
  return small((from.between(product) + from.channels(product.size(-1), 0)) * 0.25);
}
Tensor pool_of_relu(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const Tensor y = from.between(relu(from.dice.chance(40) ? from.norm(x, from.dice.chance(30)) : x));
  if (x.size(1) < 2 || x.size(2) < 2)
    return max_pool2d(y, {.window = {3, 3}, .stride = {1, 1}, .padding = {1, 1}});
  return from.dice.chance(50) ? max_pool2d(y)
                              : max_pool2d(y, {.window = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});
}
Tensor relu_of_pool(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  return relu(from.between(max_pool2d(x, {.window = {3, 3}, .stride = {1, 1}, .padding = {1, 1}})));
}
Tensor integer_chain(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  const Tensor larger = from.between(maximum(x, y));
  return clamp(relu(from.between(x * 2 - y)) + larger, -4, 4);
}
Tensor chain(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  return tanh(from.between(sigmoid(x) * y + from.channels(x.size(-1), 0))) * 0.5 + gelu(y);
}
Tensor chain_and_sum(From& from) {
  const Tensor x = from.any(), y = from.like(x);
  const int axis = static_cast<int>(from.dice.below(x.rank()));
  return y + 0.25 * sum(relu(x) * 2 - y, {axis}, {.keep_dims = true});
}
Tensor head(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const std::int64_t out = from.out_channels();
  const Tensor w = from.weight({out, x.size(3)}, x.size(3)), b = from.channels(out, 0);
  const Tensor logits = linear(global_avg_pool(x), w, b);
  return from.dice.chance(50) ? from.between(logits)
                              : scaled_by(from, cross_entropy(logits, from.labels(x.size(0), out)));
}
/// One weight, used twice in a row.
Tensor shared_twice(From& from) {
  const Tensor x = from.image();
  if (!x.defined()) return {};
  const std::int64_t c = x.size(3);
  const Tensor w = from.weight({c, 3, 3, c}, 9 * c), b = from.channels(c, 0);
  const Conv2dOptions same{.padding = {1, 1}};
  return conv2d(relu(from.between(conv2d(x, w, b, same))), w, b, same);
}

}  // namespace

const std::vector<OpRow>& op_rows() {
  static const std::vector<OpRow> rows = {
      {"add", [](From& from) { return binary(from, add); }, true},
      {"sub", [](From& from) { return binary(from, sub); }, true},
      {"minimum", [](From& from) { return binary(from, minimum); }, true},
      {"maximum", [](From& from) { return binary(from, maximum); }, true},
      {"neg", [](From& from) { return neg(from.any()); }, true},
      {"abs", [](From& from) { return abs(from.any()); }, true},
      {"relu", [](From& from) { return relu(from.any()); }, true},
      {"sigmoid", [](From& from) { return sigmoid(from.any()); }},
      {"tanh", [](From& from) { return tanh(from.any()); }},
      {"gelu", [](From& from) { return gelu(from.any()); }},
      {"relu6", [](From& from) { return relu6(from.any()); }},
      {"elu", [](From& from) { return elu(from.any(), 0.5); }},
      {"silu", [](From& from) { return silu(from.any()); }},
      {"softplus", [](From& from) { return softplus(from.any()); }},
      {"mish", [](From& from) { return mish(from.any()); }},
      {"hardsigmoid", [](From& from) { return hardsigmoid(from.any()); }},
      {"hardswish", [](From& from) { return hardswish(from.any()); }},
      {"scalars", scalars, true},
      {"1 over", number_over},
      {"mul", multiply},
      {"div", divide},
      {"pow", power},
      {"pow of tensors", power_of_both},
      {"sqrt", square_root},
      {"log", logarithm},
      {"exp", exponential},
      {"clamp", clamped, true},
      {"leaky_relu", leaky, true},
      {"compare, where", choose, true, true},
      {"broadcast add", broadcast_add, true},
      {"broadcast mul", broadcast_multiply, true},
      {"bias_add", add_bias, true},
      {"broadcast_to", spread, true},
      {"matmul", products},
      {"matmul in batches", batched_product},
      {"linear", layer, true},
      {"conv2d", convolution, true},
      {"conv_transpose2d", transposed_convolution, true},
      {"max_pool2d", max_pooled, true},
      {"avg_pool2d", averaged, true},
      {"global_avg_pool", global_average},
      {"batch_norm", normalised},
      {"flatten", flat, true},
      {"reshape", there_and_back, true},
      {"transpose", transposed, true},
      {"concat", joined, true},
      {"concat, slice", joined_and_cut, true},
      {"slice in steps", every_second, true},
      {"pad", padded, true},
      {"sum", summed, true},
      {"mean", less_mean},
      {"max", largest, true},
      {"argmax", index_of_largest, true, true},
      {"softmax", soft},
      {"log_softmax", log_soft},
      {"cross_entropy", entropy},
      {"bce_with_logits", binary_entropy},
      {"mse_loss", squared_error},
      {"rand", uniform},
      {"randn", gaussian},
      {"dropout", dropped, true},
      {"cast", casts, true},
      {"detach", detached, true},
      {"no_grad", without_gradient, true},
  };
  return rows;
}

const std::vector<OpRow>& pattern_rows() {
  static const std::vector<OpRow> rows = {
      {"conv+bias+relu", conv_bias_relu, true},
      {"conv+relu", conv_relu, true},
      {"conv+bias", conv_bias, true},
      {"conv+add+relu", conv_add_relu, true},
      {"conv+bn", conv_norm_training},
      {"conv+bn, evaluation", conv_norm_evaluation},
      {"bn+relu", norm_relu},
      {"bn+add+relu", norm_add_relu},
      {"bn+bn+add+relu", norm_norm_add_relu},
      {"residual block", residual_block},
      {"tangle of convolutions and norms", tangle},
      {"sibling convs", siblings, true},
      {"linear+bias+activation", linear_pattern, true},
      {"matmul+bias", product_and_bias},
      {"relu+max_pool", pool_of_relu},
      {"max_pool+relu", relu_of_pool, true},
      {"chain of integers", integer_chain, true},
      {"chain", chain},
      {"chain+sum", chain_and_sum, true},
      {"head", head},
      {"a weight twice", shared_twice, true},
  };
  return rows;
}

}  // namespace fusetape::tests
