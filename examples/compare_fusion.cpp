// Times training steps with and without fusion: the same data, from the same state, in pairs of random order,
// with an unfused step against an unfused one as control. Nothing is switched but the fusion rules: all of
// them, those of --rules, or with --ladder one family after the other. With --profile: where the fused step's
// time goes, kernel by kernel.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fusetape/fusetape.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "benchmarks/cold_step.hpp"
#include "benchmarks/core_latency.hpp"
#include "benchmarks/ladder.hpp"
#include "benchmarks/machine_speed.hpp"
#include "benchmarks/profile.hpp"
#include "benchmarks/statistics.hpp"
#include "benchmarks/subjects.hpp"
#include "benchmarks/timed_steps.hpp"
#include "command_line.hpp"
#include "files.hpp"

namespace ft = fusetape;
using benchmarks::Mode;
using benchmarks::paired_ratio;
using benchmarks::Ratio;
using benchmarks::Subject;
using benchmarks::SubjectFactory;
using benchmarks::timed_step;

namespace {

struct Options {
  std::string model = "resnet20";
  std::int64_t batch = 128;
  std::string device;
  std::string precision = "f32";
  std::string rules;  // empty: all
  bool ladder = false;
  bool profile = false;
  int threads = 0;  // 0: all cores
  int steps = 30;
  std::uint64_t seed = 1;
  std::string json, trace;
  bool evaluate = false;
  bool explain = false;
};

SubjectFactory factory_of(const Options& options) {
  return {options.model, examples::dtype_of(options.precision), options.batch, options.seed,
          options.evaluate};
}

void set_up(const Options& options) {
  examples::use_device(options.device);
  if (options.threads > 0) ft::set_threads(options.threads);
}

Mode fused_mode(const Options& options) {
  if (options.rules.empty()) return {};
  return {.rules = benchmarks::parse_rules(options.rules)};
}

/// What is known of one side.
struct Side {
  Mode mode;
  benchmarks::ColdStep first_step;
  std::vector<double> step_ms;
  ft::Report report;
};

struct Result {
  Side fused, unfused{.mode = benchmarks::unfused()};
  std::vector<double> control_ms;
  double max_rel_diff = 0;
  benchmarks::CoreLatency cores;
};

// ---- equal gradients

/// Over all tensors, the largest of max|a − b| / max|b|.
double largest_relative_difference(const std::vector<ft::Tensor>& a, const std::vector<ft::Tensor>& b) {
  double worst = 0;
  for (std::size_t t = 0; t < a.size(); ++t) {
    const std::vector<double> left = a[t].to_vector<double>(), right = b[t].to_vector<double>();
    double difference = 0, largest = 0;
    for (std::size_t i = 0; i < left.size(); ++i) {
      if (std::isnan(left[i]) || std::isnan(right[i]))
        throw std::runtime_error("a gradient of the first step is NaN");
      difference = std::max(difference, std::abs(left[i] - right[i]));
      largest = std::max(largest, std::abs(right[i]));
    }
    if (difference > 0) worst = std::max(worst, difference / largest);
  }
  return worst;
}

// ---- the measurement

/// The time of a step. On a device a few go before it: a plan replays as a graph where its buffers lie where
/// an earlier run had them, and another subject's steps may have taken those places.
double settled_step(Subject& subject, const Mode& mode, std::size_t index) {
  const int before = ft::backend_name() == "cuda" ? 3 : 0;
  for (int i = 0; i < before; ++i) timed_step(subject, mode, index);
  return timed_step(subject, mode, index);
}

Result measure(const Options& options) {
  Result result;
  result.fused.mode = fused_mode(options);
  for (Side* side : {&result.fused, &result.unfused}) {
    side->first_step = benchmarks::cold_step([&] {
      set_up(options);
      return timed_step(*factory_of(options).make(), side->mode, 0);
    });
  }

  set_up(options);
  result.cores.before = benchmarks::one_way_ns();
  const Mode &with = result.fused.mode, &without = result.unfused.mode;
  SubjectFactory factory = factory_of(options);
  const std::unique_ptr<Subject> fused = factory.make(), unfused = factory.make(), control = factory.make();
  timed_step(*fused, with, 0);
  timed_step(*unfused, without, 0);
  timed_step(*control, without, 0);
  result.max_rel_diff = largest_relative_difference(fused->gradients(), unfused->gradients());
  timed_step(*fused, with, 1);
  timed_step(*unfused, without, 1);
  timed_step(*control, without, 1);

  // Each round takes its three steps in a random order, so that whatever one step leaves to the next favours
  // nobody.
  struct Turn {
    Subject& subject;
    const Mode& mode;
    std::vector<double>& ms;
  };
  const std::array<Turn, 3> turns{{{*fused, with, result.fused.step_ms},
                                   {*unfused, without, result.unfused.step_ms},
                                   {*control, without, result.control_ms}}};
  std::array<std::size_t, 3> order{0, 1, 2};
  std::mt19937_64 random(options.seed);
  for (int round = 0; round < options.steps; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (std::size_t i : order) {
      const auto index = static_cast<std::size_t>(round) + 2;
      turns[i].ms.push_back(settled_step(turns[i].subject, turns[i].mode, index));
    }
  }

  result.cores.after = benchmarks::one_way_ns();

  // Only now does a device replay what it does replay.
  const auto last = static_cast<std::size_t>(options.steps) + 2;
  settled_step(*fused, with, last);
  result.fused.report = ft::explain();
  settled_step(*unfused, without, last);
  result.unfused.report = ft::explain();
  return result;
}

// ---- the report

/// What was run, and on what.
nlohmann::ordered_json subject_json(const Options& options) {
  return {{"model", options.model},         {"batch", options.batch},
          {"precision", options.precision}, {"device", std::string(ft::backend_name())},
          {"threads", ft::threads()},       {"cpu", ft::cpu_name()},
          {"versions", ft::versions()}};
}

nlohmann::ordered_json to_json(const Side& side) {
  nlohmann::ordered_json json = {{"rules", side.mode.rules},
                                 {"step_ms", benchmarks::step_json(side.step_ms)},
                                 {"first_step_ms", side.first_step.ms},
                                 {"resident_bytes", side.first_step.resident_bytes}};
  json.update(benchmarks::plan_json(side.report));
  return json;
}

nlohmann::ordered_json to_json(const Options& options, const Result& result, const Ratio& speedup,
                               const Ratio& control) {
  nlohmann::ordered_json json = subject_json(options);
  json.update({{"speedup", speedup.median},
               {"speedup_ci95", {speedup.ci95.low, speedup.ci95.high}},
               {"control", control.median},
               {"max_rel_diff", result.max_rel_diff},
               {"cores", result.cores.text()},
               {"fused", to_json(result.fused)},
               {"unfused", to_json(result.unfused)}});
  return json;
}

void print_subject(const Options& options) {
  std::printf("%s, batch %lld, %s, %s backend, %d threads\n%s\n%s\n\n", options.model.c_str(),
              static_cast<long long>(options.batch), options.precision.c_str(),
              std::string(ft::backend_name()).c_str(), ft::threads(), ft::cpu_name().c_str(),
              ft::versions().c_str());
}

void print_row(const char* name, const char* format, double fused, double unfused) {
  std::printf("%-26s", name);
  std::printf(format, fused);
  std::printf(format, unfused);
  std::printf("\n");
}

void print_table(const Options& options, const Result& result) {
  const Side &fused = result.fused, &unfused = result.unfused;
  using benchmarks::megabytes;
  print_subject(options);
  if (!options.rules.empty()) std::printf("fused by these rules alone: %s\n\n", options.rules.c_str());
  std::printf("%-26s%12s%12s\n", "", "fused", "unfused");
  print_row("step, median ms", "%12.2f", benchmarks::median(fused.step_ms),
            benchmarks::median(unfused.step_ms));
  print_row("step, p10 ms", "%12.2f", benchmarks::quantile(fused.step_ms, 0.1),
            benchmarks::quantile(unfused.step_ms, 0.1));
  print_row("step, p90 ms", "%12.2f", benchmarks::quantile(fused.step_ms, 0.9),
            benchmarks::quantile(unfused.step_ms, 0.9));
  print_row("first step, ms", "%12.1f", fused.first_step.ms, unfused.first_step.ms);
  print_row("kernels", "%12.0f", fused.report.kernels, unfused.report.kernels);
  print_row("tensor passes", "%12.0f", fused.report.tensor_passes, unfused.report.tensor_passes);
  print_row("moved, MB", "%12.1f", megabytes(benchmarks::bytes_moved(fused.report)),
            megabytes(benchmarks::bytes_moved(unfused.report)));
  print_row("kept for backward, MB", "%12.2f", megabytes(fused.report.kept_bytes),
            megabytes(unfused.report.kept_bytes));
  print_row("peak, MB", "%12.2f", megabytes(fused.report.peak_bytes), megabytes(unfused.report.peak_bytes));
  print_row("first step took of memory, MB", "%12.2f", fused.first_step.resident_bytes / 1e6,
            unfused.first_step.resident_bytes / 1e6);
}

void print_summary(const Options& options, const Result& result, const Ratio& speedup, const Ratio& control) {
  std::printf("\n%s\n", result.cores.text().c_str());
  std::printf("largest relative difference of the first step's gradients: %.2g\n", result.max_rel_diff);
  std::printf("unfused against unfused (control): %.3fx [%.3f, %.3f]\n", control.median, control.ci95.low,
              control.ci95.high);
  std::printf(
      "fused against unfused: %.3fx [%.3f, %.3f], %s at batch %lld, median of %d pairs, 95 %% interval\n",
      speedup.median, speedup.ci95.low, speedup.ci95.high, options.model.c_str(),
      static_cast<long long>(options.batch), options.steps);
}

void write_json(const std::string& path, const nlohmann::ordered_json& json) {
  if (!path.empty()) ft::io::replace_file(path, json.dump(2) + "\n");
}

void compare(const Options& options) {
  const Result result = measure(options);
  const Ratio speedup = paired_ratio(result.unfused.step_ms, result.fused.step_ms, options.seed);
  const Ratio control = paired_ratio(result.unfused.step_ms, result.control_ms, options.seed);
  if (options.explain) std::cout << result.fused.report << '\n' << result.unfused.report << std::endl;
  print_table(options, result);
  print_summary(options, result, speedup, control);
  std::fflush(stdout);
  write_json(options.json, to_json(options, result, speedup, control));
}

void climb_ladder(const Options& options) {
  set_up(options);
  SubjectFactory factory = factory_of(options);
  const std::vector<benchmarks::Rung> ladder = benchmarks::climb(factory, options.steps, options.seed);
  if (options.explain) {
    for (const benchmarks::Rung& rung : ladder) std::cout << rung.name << ": " << rung.report << std::endl;
  }
  print_subject(options);
  benchmarks::print_ladder(ladder, options.steps);
  std::fflush(stdout);
  nlohmann::ordered_json json = subject_json(options);
  json["ladder"] = benchmarks::to_json(ladder);
  write_json(options.json, json);
}

void profile(const Options& options) {
  set_up(options);
  const Mode mode = fused_mode(options);
  const bool half = examples::dtype_of(options.precision) == ft::DType::bf16;
  const benchmarks::MachineSpeed machine = benchmarks::measure_machine(ft::threads(), half);
  const std::unique_ptr<Subject> subject = factory_of(options).make();
  benchmarks::CoreLatency cores{.before = benchmarks::one_way_ns()};
  const benchmarks::Profile profile = benchmarks::profile_steps(*subject, mode, options.steps, machine);
  cores.after = benchmarks::one_way_ns();
  if (options.explain) std::cout << profile.report << std::endl;
  print_subject(options);
  benchmarks::print_kernels(profile);
  benchmarks::print_differences(profile);
  std::printf("%s\n", cores.text().c_str());
  std::fflush(stdout);
  nlohmann::ordered_json json = subject_json(options);
  json["profile"] = benchmarks::to_json(profile);
  json["cores"] = cores.text();
  write_json(options.json, json);
  write_json(options.trace, benchmarks::chrome_trace(profile.report));
}

void run(const Options& options) {
  for (const std::string& file : {options.json, options.trace}) {
    if (!file.empty()) examples::require_writable(file);
  }
  if (options.profile) {
    profile(options);
  } else if (options.ladder) {
    climb_ladder(options);
  } else {
    compare(options);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Times training steps with fusion against the same steps without.", "compare_fusion");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.add_option("--model", options.model, "What to train")
      ->check(CLI::IsMember(benchmarks::subject_names))
      ->capture_default_str();
  app.add_option("--batch", options.batch, "Images in a batch")
      ->check(CLI::Range(1, 65'536))
      ->capture_default_str();
  examples::add_device(app, options.device);
  examples::add_precision(app, options.precision);
  app.add_option("--threads", options.threads, "Threads; all cores if not given")
      ->check(CLI::Range(1, 1'024));
  app.add_option("--steps", options.steps, "Pairs of steps")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  CLI::Option* const rules =
      app.add_option("--rules", options.rules, "Fuse by these rules and families only: A,B");
  CLI::Option* const ladder =
      app.add_flag("--ladder", options.ladder, "Switch the rules on family by family instead");
  ladder->excludes(rules);
  CLI::Option* const profile =
      app.add_flag("--profile", options.profile, "Time every kernel of the fused step beside its floor")
          ->excludes(ladder);
  app.add_option("--trace", options.trace, "Write one step's kernels to this file, in Chrome's trace format")
      ->needs(profile);
  app.add_option("--seed", options.seed, "Of weights, inputs and the order of the steps")
      ->check(examples::seeds)
      ->capture_default_str();
  app.add_option("--json", options.json, "Write everything measured to this file");
  app.add_flag("--evaluate", options.evaluate, "Forward only, in evaluation mode (batch norms fold)")
      ->excludes(ladder);
  app.add_flag("--explain", options.explain, "Print every plan, kernel by kernel");
  return examples::run(app, argc, argv, [&] { run(options); });
}
