// Batch norms by the library: what it is asked for, that it is not trusted, and what the report tells of
// that.
#include <doctest/doctest.h>

#include "backends/cuda/cuda_backend.hpp"
#include "backends/cuda/norm_race.hpp"
#include "core/tape.hpp"
#include "device_cases.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using namespace fusetape::backends::cuda;
using ft::DType;
using ft::Shape;
using ft::Tensor;

namespace {

constexpr NormManners fast{.seconds = 1e-9};

/// A device of its own for this file, where kernels are timed.
HostDouble& timing_double() {
  static HostDouble& device = *[] {
    auto made = std::make_shared<HostDouble>(3);
    ft::core::add_backend(ft::backends::make_device_backend(made, "timing double"));
    return made.get();
  }();
  return device;
}

/// That backend for a scope, with a library that has these manners.
class OnTimingDouble {
 public:
  explicit OnTimingDouble(const NormManners& manners, bool timing = true)
      : before_(ft::tuning_enabled()), backend_((timing_double().normalize(manners), "timing double")) {
    ft::set_tuning(timing);
  }
  ~OnTimingDouble() { ft::set_tuning(before_); }
  OnTimingDouble(const OnTimingDouble&) = delete;
  OnTimingDouble& operator=(const OnTimingDouble&) = delete;

 private:
  bool before_;
  OnBackend backend_;
};

/// A shape that no case has had: what a race showed is remembered.
Shape new_shape() {
  static std::int64_t images = 100;
  return {++images, 2, 1, 8};
}

/// A step of relu(batch_norm(x) + z), or of batch_norm(x) alone; the report is that of all of it. Returns the
/// new running mean and variance.
std::vector<double> step(const Shape& x, bool alone = false, double momentum = 0.1) {
  const std::int64_t c = x.back();
  const OpCase op_case{"", {real(x), scale(c), shift(c), shift(c), scale(c), real(x)}, {}};
  Inputs in = data_for(op_case, DType::f32);
  for (const std::size_t i : {0, 1, 2, 5}) in[i] = ft::variable(in[i]);
  ft::BatchNormResult norm = batch_norm(in[0], in[1], in[2], in[3], in[4], {.momentum = momentum});
  const Tensor y = alone ? std::move(norm.y) : relu(std::move(norm.y) + in[5]);
  std::vector<Tensor> read = ft::grad({ft::sum(y * y.detach())}, {in[0], in[1], in[2]});
  read.insert(read.end(), {norm.running_mean, norm.running_var});
  ft::materialize();
  std::vector<double> tracked = norm.running_mean.to_vector<double>();
  const std::vector<double> var = norm.running_var.to_vector<double>();
  tracked.insert(tracked.end(), var.begin(), var.end());
  return tracked;
}

/// "kernel, why" of the last run's group.
std::string told_of(const std::string& name) {
  for (const ft::GroupReport& group : ft::explain().groups) {
    if (group.name == name) return group.kernel + ", " + group.why;
  }
  return "no group " + name + " in " + group_names();
}

constexpr const char *forward = "batch_norm+add+relu", *backward = "relu_grad+batch_norm_grad";

}  // namespace

TEST_CASE("cuda: batch norms by the library agree with the reference") {
  const OnTimingDouble timing(fast);
  const Mode mode{"cuda, the library's norms", "timing double", true, false};
  std::map<std::string, std::set<std::string>> kernels;
  for (const OpCase& op_case : fused_cases()) {
    if (!contains(op_case.name, "bn") && !contains(op_case.name, "statistics")) continue;
    for (const auto& [dtype, tolerance] :
         {std::pair{DType::f32, 2e-5}, {DType::bf16, 0.04}, {DType::f16, 0.005}}) {
      expect_no_error(op_case, [&] {
        const CaseOutcome got = run(op_case, dtype, mode);
        compare(op_case, std::string(name_of(dtype)), got, run(op_case, dtype, oracle), tolerance);
        for (const auto& [group, by] : got.kernels) kernels[group].insert(by.begin(), by.end());
      });
    }
  }
  for (const char* group : {forward, backward, "batch_norm+relu", "batch_norm", "batch_norm_grad"}) {
    CAPTURE(group);
    CHECK(kernels[group].contains("double:batch_norm"));
  }
}

TEST_CASE("cuda: a norm of the library in a step that is captured") {
  const OnTimingDouble timing(fast);
  const Shape x = new_shape();
  for (int again = 0; again < 5; ++again) step(x);
  CHECK(contains(ft::explain().replay, "one graph"));
  CHECK(told_of(forward) == "double:batch_norm, cudnn: 0.67 of our time");
  CHECK(told_of(backward) == "double:batch_norm, cudnn: 0.00 of our time");
}

TEST_CASE("cuda: the momentum of a norm of the library may change from replay to replay") {
  const Shape x = new_shape();
  std::map<double, std::vector<double>> expected;
  for (const double momentum : {0.5, 0.0, 1.0, 0.25}) {
    const OnBackend reference("reference");
    expected[momentum] = step(x, false, momentum);
  }
  const OnTimingDouble timing(fast);
  for (int again = 0; again < 4; ++again) step(x);
  for (const auto& [momentum, tracked] : expected) {
    CAPTURE(momentum);
    CHECK(difference(step(x, false, momentum), tracked) <= 2e-6);
    CHECK(contains(ft::explain().replay, "one graph"));
    CHECK(told_of(forward) == "double:batch_norm, cudnn: 0.67 of our time");
  }
}

TEST_CASE("cuda: where our norm runs, the report says what was found of the library's") {
  struct Row {
    NormManners manners;
    const char* group;
    const char* why;
  };
  const Row rows[] = {
      {{.seconds = 3.5e-6}, forward, "cuda:batch_norm_relu, cudnn: 1.83 of our time"},
      {{.seconds = 0.95e-6}, forward, "cuda:batch_norm_relu, cudnn: 0.98 of our time, which is too little"},
      {{.seconds = 1e-9, .unbiased_variance = true},
       forward,
       "cuda:batch_norm_relu, cudnn: its y differs by 0.00"},
      {{.seconds = 1e-9, .shifts = true}, forward, "cuda:batch_norm_relu, cudnn: its y differs by "},
      {{.seconds = 1e-9, .relu_drops_nans = true},
       forward,
       "cuda:batch_norm_relu, cudnn: its y is not finite in other places than ours"},
      {{.seconds = 1e-9, .needs_clean_workspace = true},
       forward,
       "cuda:batch_norm_relu, cudnn: its y differs by "},
      {{.seconds = 1e-9, .mask_multiplies = true},
       backward,
       "cuda:batch_norm_relu_grad, cudnn: its dx is not finite in other places than ours"},
      {{.seconds = 1e-9, .leaves_dgamma_out = true},
       backward,
       "cuda:batch_norm_relu_grad, cudnn: its dgamma is not finite in other places than ours"},
  };
  for (const Row& row : rows) {
    const OnTimingDouble timing(row.manners);
    step(new_shape());
    INFO(told_of(row.group));
    CHECK(told_of(row.group).starts_with(row.why));
  }
}

TEST_CASE("cuda: a race for which there was no memory is run again by the next plan") {
  const OnTimingDouble timing(fast);
  const Shape x = new_shape();
  timing_double().refuse_operations(HostDouble::Refusal::shortage, "no room");
  step(x);
  CHECK(told_of(forward) == "cuda:batch_norm_relu, cudnn: no room");
  timing_double().refuse_operations(HostDouble::Refusal::none);
  ft::clear_plan_cache();
  step(x);
  CHECK(told_of(forward) == "double:batch_norm, cudnn: 0.67 of our time");
}

TEST_CASE("cuda: a norm of the library is not asked for, and why") {
  const auto why_of = [](const char* group) {
    const std::string told = told_of(group);
    return told.substr(told.find(", ") + 2);
  };
  {
    const OnTimingDouble timing(fast, false);
    step(new_shape());
    CHECK(why_of(forward) == "cudnn: not timed");
    CHECK(why_of(backward) == "cudnn: not timed");
  }
  const OnTimingDouble timing(fast);
  timing_double().refuse_operations(HostDouble::Refusal::verdict, "no engine has a plan");
  step(new_shape());
  CHECK(why_of(forward) == "cudnn: no engine has a plan");
  timing_double().refuse_operations(HostDouble::Refusal::none);

  const Shape shape = new_shape();
  const std::vector<Input> one{real(shape), scale(8), shift(8), shift(8), scale(8)};
  struct Row {
    const char* group;
    std::function<Results(const Inputs&)> call;
    const char* why;
  };
  const auto norm = [](const Inputs& in, float by = 1) {
    return batch_norm(in[0] * by, in[1], in[2], in[3], in[4]).y;
  };
  const Row rows[] = {
      {"batch_norm+relu", [&](const Inputs& in) { return relu(norm(in)); },
       "cudnn: backward makes it again from x, by the arithmetic of our forward kernel"},
      {backward, [&](const Inputs& in) { return relu(norm(in)); },
       "cudnn: the ReLU's mask: backward makes it again from x, by the arithmetic of our forward kernel"},
      {"batch_norm+batch_norm+add+relu", [&](const Inputs& in) { return relu(norm(in) + norm(in, 2)); },
       "cudnn: no pattern of two norms"},
      {"relu_grad+batch_norm_grad+batch_norm_grad",
       [&](const Inputs& in) { return relu(norm(in) + norm(in, 2)); }, "cudnn: no pattern of two norms"},
      {"batch_norm_inference+relu",
       [](const Inputs& in) { return relu(batch_norm_inference(in[0], in[1], in[2], in[3], in[4])); },
       "cudnn: no pattern whose statistics are given"},
      {"add+relu_grad+batch_norm_grad",
       [&](const Inputs& in) {
         const Tensor y = relu(norm(in) + in[0]);
         return Results{y * y, exp(y)};
       },
       "cudnn: no pattern that adds two gradients"},
  };
  for (const Row& row : rows) {
    Inputs in = data_for({"", one, {}}, DType::f32);
    for (const std::size_t i : {0, 1, 2}) in[i] = ft::variable(in[i]);
    const std::vector<Tensor> gradients = ft::grad({weighted_sum(row.call(in))}, {in[0], in[1], in[2]});
    ft::materialize();
    CAPTURE(row.group);
    CHECK(why_of(row.group) == row.why);
  }
}

TEST_CASE("cuda: norms are raced once, whatever plan asks for them") {
  const OnTimingDouble timing(fast);
  const Shape x = new_shape();
  const auto built_by = [&](auto&& body) {
    const std::int64_t before = timing_double().operations_built();
    ft::clear_plan_cache();
    body();
    return timing_double().operations_built() - before;
  };
  CHECK(built_by([&] { step(x); }) == 2);
  CHECK(built_by([&] { step(x); }) == 0);
  CHECK(built_by([&] { step(x, true); }) == 2);  // without add, ReLU and mask
  CHECK(told_of("batch_norm_grad") == "double:batch_norm, cudnn: 0.00 of our time");
  timing_double().normalize({});
  CHECK(built_by([&] { step(x); }) == 0);
  CHECK(told_of(forward) == "double:batch_norm, cudnn: 0.67 of our time");
}

TEST_CASE("cuda: the library's norm is taken where it computes the same and is clearly faster") {
  struct Row {
    NormRace race;
    bool library;
    const char* why;
  };
  for (const Row& row : {Row{{"", 1, 0.5}, true, "0.50 of our time"},
                         {{"", 2, 1.8}, true, "0.90 of our time"},
                         {{"", 2, 1.82}, false, "0.91 of our time, which is too little to gain"},
                         {{"", 1, 1.12}, false, "1.12 of our time"},
                         {{"", 0, 1}, false, "too fast to be timed"},
                         {{"its y differs by 0.3", 1, 0.1}, false, "its y differs by 0.3"}}) {
    const NormVerdict verdict = judge(row.race);
    CHECK(verdict.library == row.library);
    CHECK(verdict.why == row.why);
  }
}
