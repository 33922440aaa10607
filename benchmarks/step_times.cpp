// One side of tools/bench_diff.py. It takes a training step for each line that it reads, and tells how many
// milliseconds that took; with --ratios it reads pairs of times instead, and tells what compare_fusion would
// say of them. It sees public headers only, and so can be built against the library of another revision.
#include <chrono>
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks/statistics.hpp"
#include "benchmarks/subjects.hpp"
#include "examples/command_line.hpp"

namespace ft = fusetape;

namespace {

struct Options {
  std::string model = "resnet20";
  std::string precision = "f32";
  std::int64_t batch = 128;
  int threads = 0;  // 0: all cores
  bool ratios = false;
};

double timed_step(benchmarks::Subject& subject, std::size_t index) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  subject.step(index);
  ft::synchronize();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void take_steps(const Options& options) {
  if (options.threads > 0) ft::set_threads(options.threads);
  const std::unique_ptr<benchmarks::Subject> subject =
      benchmarks::SubjectFactory(options.model, examples::dtype_of(options.precision), options.batch, 1)
          .make();
  std::size_t index = 0;
  for (; index < 2; ++index) timed_step(*subject, index);
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line); ++index) {
    std::cout << timed_step(*subject, index) << std::endl;
  }
}

/// Median, and the ends of its interval.
void print_ratio() {
  std::vector<double> slow, fast;
  for (double a = 0, b = 0; std::cin >> a >> b;) {
    slow.push_back(a);
    fast.push_back(b);
  }
  const benchmarks::Ratio ratio = benchmarks::paired_ratio(slow, fast, 1);
  std::cout << ratio.median << ' ' << ratio.ci95.low << ' ' << ratio.ci95.high << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Takes a training step for each line of its input.", "step_times");
  app.add_option("--model", options.model, "What to train")
      ->check(CLI::IsMember(benchmarks::subject_names))
      ->capture_default_str();
  examples::add_precision(app, options.precision);
  app.add_option("--batch", options.batch, "Images in a batch")
      ->check(CLI::Range(1, 65'536))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; all cores if not given")
      ->check(CLI::Range(1, 1'024));
  app.add_flag("--ratios", options.ratios,
               "Read pairs of times: print the median of their ratios and its 95 % interval");
  return examples::run(app, argc, argv, [&] { options.ratios ? print_ratio() : take_steps(options); });
}
