#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

const Shape image_shapes[] = {{1, 4, 3, 2},  {2, 3, 3, 1}, {2, 7, 5, 3},  {1, 7, 5, 17},
                              {3, 4, 4, 24}, {2, 1, 1, 8}, {5, 33, 31, 9}};

// ---- batch norm with add and ReLU ----

/// x, γ, β and the running statistics.
std::vector<Input> norm_inputs(const Shape& x) {
  const std::int64_t c = x.back();
  return {real(x), scale(c), shift(c), constant(shift(c)), constant(scale(c))};
}

/// The normalisation of inputs first … first + 4, and its new statistics.
BatchNormResult norm(In in, std::size_t first = 0) {
  return batch_norm(in[first], in[first + 1], in[first + 2], in[first + 3], in[first + 4], {.eps = 1e-2});
}
Tensor inference(In in, std::size_t first = 0) {
  return batch_norm_inference(in[first], in[first + 1], in[first + 2], in[first + 3], in[first + 4]);
}

std::vector<Input> operator+(std::vector<Input> a, const std::vector<Input>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

void add_norms(Cases& cases) {
  for (const Shape& x : image_shapes) {
    const std::vector<Input> one = norm_inputs(x), with_z = norm_inputs(x) + std::vector{real(x)},
                             two = one + one;
    cases.push_back({named("bn+relu", x),
                     one,
                     [](In in) { return relu(batch_norm(in[0], in[1], in[2])); },
                     {.groups = {"batch_norm+relu", "relu_grad+batch_norm_grad"}}});
    cases.push_back({named("bn+relu, running statistics", x),
                     one,
                     [](In in) {
                       BatchNormResult n = norm(in);
                       return Results{relu(std::move(n.y)), n.running_mean, n.running_var};
                     },
                     {.groups = {"batch_norm+relu", "relu_grad+batch_norm_grad"}}});
    cases.push_back({named("bn+add", x),
                     with_z,
                     [](In in) {
                       BatchNormResult n = norm(in);
                       return Results{n.y + in[5], n.running_mean, n.y.detach()};
                     },
                     {.groups = {"batch_norm+add"}}});
    cases.push_back({named("bn+bn+add", x),
                     two,
                     [](In in) { return norm(in).y + norm(in, 5).y; },
                     {.groups = {"batch_norm+batch_norm+add"}}});
    cases.push_back({named("bn+add+relu", x),
                     with_z,
                     [](In in) { return relu(norm(in).y + in[5]); },
                     {.groups = {"batch_norm+add+relu", "relu_grad+batch_norm_grad"}}});
    cases.push_back({named("add of bn on the right, relu", x),
                     with_z,
                     [](In in) { return relu(in[5] + norm(in).y); },
                     {.groups = {"batch_norm+add+relu", "relu_grad+batch_norm_grad"}}});
    cases.push_back(
        {named("bn+bn+add+relu", x),
         two,
         [](In in) {
           BatchNormResult a = norm(in), b = norm(in, 5);
           return Results{relu(std::move(a.y) + std::move(b.y)), a.running_var, b.running_mean};
         },
         {.groups = {"batch_norm+batch_norm+add+relu", "relu_grad+batch_norm_grad+batch_norm_grad"}}});
    cases.push_back({named("bn inference+relu", x),
                     one,
                     [](In in) { return relu(inference(in)); },
                     {.groups = {"batch_norm_inference+relu"}}});
    cases.push_back({named("bn inference+add+relu", x),
                     with_z,
                     [](In in) { return relu(inference(in) + in[5]); },
                     {.groups = {"batch_norm_inference+add+relu"}}});
    cases.push_back({named("bn inference twice+add+relu", x),
                     two,
                     [](In in) { return relu(inference(in) + inference(in, 5)); },
                     {.groups = {"batch_norm_inference+batch_norm_inference+add+relu"}}});
  }
}

void add_odd_norms(Cases& cases) {
  const Shape x{2, 4, 3, 5};
  cases.push_back({"bn+relu of a matrix",
                   norm_inputs({9, 6}),
                   [](In in) { return relu(norm(in).y); },
                   {.groups = {"batch_norm+relu"}}});
  cases.push_back({"bn+relu, x needs no gradient",
                   {constant(real(x)), scale(5), shift(5)},
                   [](In in) { return relu(batch_norm(in[0], in[1], in[2])); },
                   {.groups = {"batch_norm+relu", "relu_grad+batch_norm_grad"}}});
  cases.push_back({"bn+add+relu, z broadcast", norm_inputs(x) + std::vector{real({5})},
                   [](In in) { return relu(norm(in).y + in[5]); }});
  cases.push_back({"bn added to itself, relu", norm_inputs(x), [](In in) {
                     const Tensor y = norm(in).y;
                     return relu(y + y);
                   }});
  cases.push_back({"bn+add+relu where z is x",
                   norm_inputs(x),
                   [](In in) { return relu(norm(in).y + in[0]); },
                   {.groups = {"batch_norm+add+relu"}}});
  cases.push_back(
      {"bn of one x with two scales, added, relu",
       {real(x), scale(5), shift(5), scale(5), shift(5)},
       [](In in) { return relu(batch_norm(in[0], in[1], in[2]) + batch_norm(in[0], in[3], in[4])); },
       {.groups = {"batch_norm+batch_norm+add+relu"}}});
  std::vector<Input> first_is_constant = norm_inputs(x) + norm_inputs(x);
  first_is_constant[0].constant = true;
  cases.push_back({"bn+bn+add+relu, the first x needs no gradient",
                   first_is_constant,
                   [](In in) { return relu(norm(in).y + norm(in, 5).y); },
                   {.groups = {"relu_grad+batch_norm_grad+batch_norm_grad"}}});
  // Both gradients of the fork and y live on: only the xs' places are free for the results.
  cases.push_back({"bn+bn+add+relu before a fork, everything else is kept",
                   norm_inputs(x) + norm_inputs(x) + std::vector{real(x), real(x)},
                   [](In in) {
                     Inputs doubled = in;
                     doubled[0] = in[0] * 2;
                     doubled[5] = in[5] * 2;
                     Tensor a = norm(doubled).y, b = norm(doubled, 5).y;
                     const Tensor y = relu(std::move(a) + std::move(b));
                     return Results{y + in[10], y + in[11], y.detach()};
                   },
                   {.groups = {"add+relu_grad+batch_norm_grad+batch_norm_grad"}}});
  cases.push_back({"training and inference added, relu",
                   norm_inputs(x) + norm_inputs(x),
                   [](In in) { return relu(norm(in).y + inference(in, 5)); },
                   {.groups = {"batch_norm+add+relu"}}});
  cases.push_back(
      {"statistics that go on into a second bn", norm_inputs(x) + std::vector{real(x)}, [](In in) {
         const BatchNormResult first = norm(in);
         const BatchNormResult second =
             batch_norm(in[5], in[1], in[2], first.running_mean, first.running_var);
         return Results{relu(first.y) + relu(second.y), second.running_mean, second.running_var};
       }});
  cases.push_back({"statistics that go on into the bn that is added, relu",
                   norm_inputs(x) + std::vector{real(x)},
                   [](In in) {
                     const BatchNormResult first = norm(in);
                     const BatchNormResult second =
                         batch_norm(in[5], in[1], in[2], first.running_mean, first.running_var);
                     return Results{relu(second.y + first.y), second.running_mean, second.running_var};
                   },
                   {.groups = {"batch_norm+add+relu"}}});
  cases.push_back({"bn and the bn of that added, relu",
                   norm_inputs(x) + norm_inputs(x),
                   [](In in) {
                     Inputs inner = in;
                     inner[5] = norm(in).y;
                     return relu(inner[5] + norm(inner, 5).y);
                   },
                   {.groups = {"batch_norm+add+relu"}}});
  cases.push_back({"relu of the new running mean of two rows", norm_inputs({2, 5}), [](In in) {
                     const BatchNormResult result = norm(in);
                     return Results{relu(result.running_mean), result.y};
                   }});
}

/// What lies inside a group and is wanted outside, too: one more output.
void add_norms_with_readers(Cases& cases) {
  for (const Shape& x : image_shapes) {
    const std::vector<Input> with_z = norm_inputs(x) + std::vector{real(x)},
                             two = norm_inputs(x) + norm_inputs(x);
    cases.push_back({named("bn+relu, the normalised value is read elsewhere", x),
                     norm_inputs(x),
                     [](In in) {
                       const Tensor y = norm(in).y;
                       return Results{relu(y), y * 0.5};
                     },
                     {.groups = {"batch_norm+relu"}}});
    cases.push_back({named("bn inference+relu, a handle on the normalised value", x),
                     norm_inputs(x),
                     [](In in) {
                       const Tensor y = inference(in);
                       return Results{relu(y), y};
                     },
                     {.groups = {"batch_norm_inference+relu"}}});
    cases.push_back({named("bn+add+relu, a handle on the normalised value", x),
                     with_z,
                     [](In in) {
                       const Tensor y = norm(in).y;
                       return Results{y, relu(y + in[5])};
                     },
                     {.groups = {"batch_norm+add+relu"}}});
    cases.push_back({named("bn+add+relu, the sum is read elsewhere", x),
                     with_z,
                     [](In in) {
                       const Tensor sum = in[5] + norm(in).y;
                       return Results{relu(sum), sum * 0.5};
                     },
                     {.groups = {"batch_norm+add+relu"}}});
    cases.push_back({named("bn+bn+add+relu, all inside is read elsewhere", x),
                     two,
                     [](In in) {
                       const Tensor a = norm(in).y, b = norm(in, 5).y, sum = a + b;
                       return Results{relu(sum), sum * 0.5, a * 0.25, b};
                     },
                     {.groups = {"batch_norm+batch_norm+add+relu"}}});
  }
  cases.push_back({"bn+add+relu, z is made from the normalised value", norm_inputs({2, 4, 3, 5}), [](In in) {
                     const Tensor y = norm(in).y;
                     return relu(y + exp(y));
                   }});
}

// ---- batch norm with other activations ----

struct Act {
  const char* name;
  std::function<Tensor(const Tensor&)> of;
  const char* gradient;  ///< its op; nullptr: of several
};
const Act acts[] = {
    {"relu6", [](const Tensor& x) { return relu6(x); }, "relu6_grad"},
    {"clamp", [](const Tensor& x) { return clamp(x, -0.75, 0.5); }, "clamp_grad"},
    {"leaky_relu", [](const Tensor& x) { return leaky_relu(x, 0.125); }, "leaky_relu_grad"},
    {"elu", [](const Tensor& x) { return elu(x, 0.75); }, "elu_grad"},
    {"sigmoid", [](const Tensor& x) { return sigmoid(x); }, "sigmoid_grad"},
    {"tanh", [](const Tensor& x) { return tanh(x); }, "tanh_grad"},
    {"gelu", [](const Tensor& x) { return gelu(x); }, "gelu_grad"},
    {"silu", [](const Tensor& x) { return silu(x); }, "silu_grad"},
    {"mish", [](const Tensor& x) { return mish(x); }, "mish_grad"},
    {"hardsigmoid", [](const Tensor& x) { return hardsigmoid(x); }, "hardsigmoid_grad"},
    {"hardswish", [](const Tensor& x) { return hardswish(x); }, "hardswish_grad"},
    {"softplus", [](const Tensor& x) { return softplus(x); }, nullptr},
};

void add_activated_norms(Cases& cases) {
  for (const Act& act : acts) {
    const std::string name = act.name;
    const auto of = act.of;
    const auto with = [&](const char* forward, const char* backward = "+batch_norm_grad") {
      std::vector<std::string> groups{forward + name};
      if (act.gradient != nullptr) groups.push_back(act.gradient + std::string(backward));
      return Flags{.groups = groups};
    };
    for (const Shape& x : {Shape{2, 3, 3, 1}, Shape{2, 7, 5, 3}, Shape{5, 9, 8, 17}, Shape{3, 4, 4, 24}}) {
      const std::vector<Input> one = norm_inputs(x), with_z = norm_inputs(x) + std::vector{real(x)};
      cases.push_back({named("bn+" + name, x), one,
                       [of](In in) {
                         BatchNormResult n = norm(in);
                         return Results{of(std::move(n.y)), n.running_mean, n.running_var};
                       },
                       with("batch_norm+")});
      cases.push_back({named("bn+add+" + name, x), with_z, [of](In in) { return of(norm(in).y + in[5]); },
                       with("batch_norm+add+")});
    }
    const Shape x{2, 5, 6, 7};
    const std::vector<Input> one = norm_inputs(x), two = one + one;
    cases.push_back({"bn+bn+add+" + name, two, [of](In in) { return of(norm(in).y + norm(in, 5).y); },
                     with("batch_norm+batch_norm+add+", "+batch_norm_grad+batch_norm_grad")});
    cases.push_back({"bn inference+" + name,
                     one,
                     [of](In in) { return of(inference(in)); },
                     {.groups = {"batch_norm_inference+" + name}}});
    cases.push_back({"bn+" + name + ", the normalised value and the result are read elsewhere",
                     one,
                     [of](In in) {
                       const Tensor y = norm(in).y, a = of(y);
                       return Results{a * 0.5, y * 0.25};
                     },
                     {.groups = {"batch_norm+" + name}}});
    cases.push_back({"bn+" + name + " before a fork",
                     one + std::vector{real(x)},
                     [of](In in) {
                       const Tensor a = of(norm(in).y);
                       return Results{a + in[5], a * 0.5};
                     },
                     {.groups = {"batch_norm+" + name}}});
    cases.push_back({"bn+add+" + name + ", the sum is read elsewhere",
                     one + std::vector{real(x)},
                     [of](In in) {
                       const Tensor sum = in[5] + norm(in).y;
                       return Results{of(sum), sum * 0.5};
                     },
                     {.groups = {"batch_norm+add+" + name}}});
  }
}

// ---- group and layer norm with what follows them ----

/// x, γ, β and z.
std::vector<Input> group_norm_inputs(const Shape& x) {
  return {real(x), scale(x.back()), shift(x.back()), real(x)};
}

void add_group_norms(Cases& cases) {
  struct Norm {
    Shape x;
    std::int64_t groups;  ///< 0: layer norm
  };
  // The first two, for some activations: more than one thread; more channels than are rounded at a time.
  const Norm norms[] = {{{3, 17, 19, 48}, 6}, {{2, 3, 3, 520}, 4}, {{3, 5}, 1},    {{2, 7, 5, 6}, 3},
                        {{5, 9, 8, 17}, 17},  {{3, 4, 4, 24}, 4},  {{2, 6, 40}, 0}};
  std::vector<Act> all(std::begin(acts), std::end(acts));
  all.push_back({"relu", [](const Tensor& x) { return relu(x); }, "relu_grad"});
  for (const Act& act : all) {
    const std::string name = act.name;
    const auto of = act.of;
    const auto with = [&](const char* forward) {
      std::vector<std::string> groups{forward + name};
      if (act.gradient != nullptr) groups.push_back(act.gradient + std::string("+group_norm_grad"));
      return Flags{.groups = groups};
    };
    const bool of_all_kinds = name == "relu" || name == "gelu" || name == "sigmoid";
    for (const Norm& n : norms) {
      if (n.x.elements() > 8192 && !of_all_kinds) continue;
      const auto norm_of = [n](In in) {
        return n.groups == 0 ? layer_norm(in[0], in[1], in[2], 1e-2)
                             : group_norm(in[0], n.groups, in[1], in[2], 1e-2);
      };
      const std::string shape = named("", n.x) + " in " + std::to_string(n.groups);
      const std::vector<Input> inputs = group_norm_inputs(n.x);
      std::vector<std::string> forked{"group_norm+" + name};
      if (act.gradient != nullptr) forked.push_back("add+" + std::string(act.gradient) + "+group_norm_grad");
      cases.push_back({"gn+" + name + shape,
                       {inputs[0], inputs[1], inputs[2]},
                       [=](In in) { return of(norm_of(in)); },
                       with("group_norm+")});
      cases.push_back({"gn+add+" + name + shape, inputs, [=](In in) { return of(norm_of(in) + in[3]); },
                       with("group_norm+add+")});
      cases.push_back({"gn+" + name + ", the normalised value and the result are read elsewhere" + shape,
                       {inputs[0], inputs[1], inputs[2]},
                       [=](In in) {
                         const Tensor y = norm_of(in), a = of(y);
                         return Results{a * 0.5, y * 0.25};
                       },
                       {.groups = {"group_norm+" + name}}});
      cases.push_back({"gn+add+" + name + ", the sum is read elsewhere" + shape,
                       inputs,
                       [=](In in) {
                         const Tensor y = norm_of(in) + in[3], a = of(y);
                         return Results{a * 0.5, y * 0.25};
                       },
                       {.groups = {"group_norm+add+" + name}}});
      cases.push_back({"gn+add(x)+" + name + shape,
                       {inputs[0], inputs[1], inputs[2]},
                       [=](In in) { return of(norm_of(in) + in[0]); },
                       {.groups = {"group_norm+add+" + name}}});
      cases.push_back({"gn+" + name + " before a fork" + shape,
                       inputs,
                       [=](In in) {
                         const Tensor a = of(norm_of(in));
                         return Results{a * in[3], a * 0.5};
                       },
                       {.groups = forked}});
      cases.push_back({"gn+" + name + ", x is made before" + shape,
                       {inputs[0], inputs[1], inputs[2]},
                       [=](In in) {
                         const Tensor x = in[0] * 2.0;
                         return of(norm_of({x, in[1], in[2]}));
                       },
                       with("group_norm+")});
      cases.push_back({"gn+" + name + ", x needs no gradient" + shape,
                       {constant(inputs[0]), inputs[1], inputs[2]},
                       [=](In in) { return of(norm_of(in)); },
                       with("group_norm+")});
    }
  }
  const std::vector<Input> inputs = group_norm_inputs({2, 3, 4, 6});
  cases.push_back({"gn+add",
                   inputs,
                   [](In in) { return group_norm(in[0], 2, in[1], in[2]) + in[3]; },
                   {.groups = {"group_norm+add"}}});
  cases.push_back(
      {"gn+gn+add+relu",
       inputs,
       [](In in) { return relu(group_norm(in[0], 2, in[1], in[2]) + group_norm(in[3], 3, in[1], in[2])); },
       {.groups = {"group_norm+add+relu", "relu_grad+group_norm_grad"}}});
  cases.push_back({"gn+bn+add+relu: the batch norm takes the sum",
                   inputs,
                   [](In in) {
                     const Tensor normed = batch_norm(in[3], in[1], in[2], {.eps = 1e-2});
                     return relu(group_norm(in[0], 2, in[1], in[2]) + normed);
                   },
                   {.groups = {"batch_norm+add+relu", "relu_grad+batch_norm_grad"}}});
  cases.push_back({"gn+relu in front of bn",
                   {inputs[0], inputs[1], inputs[2]},
                   [](In in) {
                     const Tensor y = relu(group_norm(in[0], 2, in[1], in[2]));
                     return batch_norm(y, in[1], in[2], {.eps = 1e-2});
                   },
                   {.groups = {"group_norm+relu", "relu_grad+group_norm_grad"}}});
}

// ---- max pooling of a batch norm's ReLU ----

void add_pooled_norms(Cases& cases) {
  const std::pair<const char*, Pool2dOptions> windows[] = {
      {"2x2", {}},
      {"3x3 that overlap", {.window = {3, 3}, .stride = {2, 2}, .padding = {1, 1}}},
      {"2x3 with gaps", {.window = {2, 3}, .stride = {3, 4}}},
      {"of 300 places", {.window = {20, 15}, .stride = {1, 1}}},  // more than a byte holds
  };
  for (const Shape& x :
       {Shape{1, 4, 4, 1}, Shape{2, 7, 5, 3}, Shape{5, 9, 8, 17}, Shape{2, 6, 7, 70}, Shape{2, 24, 33, 16}}) {
    for (const auto& row : windows) {
      const auto& how = row.first;
      const auto& options = row.second;
      if (options.window[0] > x[1]) continue;
      const std::string name = named("max pool of bn+relu", x) + " " + how;
      cases.push_back(
          {name,
           norm_inputs(x),
           [options](In in) { return max_pool2d(relu(batch_norm(in[0], in[1], in[2])), options); },
           {.groups = {"batch_norm+relu+max_pool2d", "relu_grad+batch_norm_grad"}}});
      cases.push_back({name + ", running statistics",
                       norm_inputs(x),
                       [options](In in) {
                         BatchNormResult n = norm(in);
                         Tensor y = max_pool2d(relu(std::move(n.y)), options);
                         return Results{std::move(y), n.running_mean, n.running_var};
                       },
                       {.groups = {"batch_norm+relu+max_pool2d"}}});
      cases.push_back({name + ", inference",
                       norm_inputs(x),
                       [options](In in) { return max_pool2d(relu(inference(in)), options); },
                       {.groups = {"batch_norm_inference+relu+max_pool2d"}}});
      cases.push_back({name + ", the ReLU is read elsewhere",
                       norm_inputs(x),
                       [options](In in) {
                         const Tensor y = relu(norm(in).y);
                         return Results{max_pool2d(y, options), y * 0.5};
                       },
                       {.groups = {"batch_norm+relu"}}});
    }
  }
}

}  // namespace

std::vector<OpCase> norm_cases() {
  Cases norms;
  for (const auto add : {add_norms, add_odd_norms, add_norms_with_readers, add_pooled_norms,
                         add_activated_norms, add_group_norms})
    add(norms);
  for (OpCase& norm : norms) norm.flags.same_bits_bf16 = true;
  return norms;
}

}  // namespace fusetape::tests
