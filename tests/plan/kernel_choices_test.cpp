// Which kernels a run took is part of it: later plans take the same, and so does a run that is resumed.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "scratch_folder.hpp"
#include "tests/tune/tuning.hpp"

namespace ft = fusetape;
namespace fs = std::filesystem;
using namespace fusetape::tests;

namespace {

constexpr Times winograd_wins{.winograd = 1, .direct = 2}, direct_wins{.winograd = 2, .direct = 1};
constexpr double no_time = 0;

/// What of a run a checkpoint takes, and a file for it.
struct Run {
  Run() { fs::create_directories(scratch.path()); }
  void save() { ft::io::save_checkpoint(path, {.optimizer = &sgd}); }
  void load(const ft::io::LoadCheckpointOptions& options = {}) {
    ft::io::load_checkpoint(path, {.optimizer = &sgd}, options);
  }

  ScratchFolder scratch;
  std::string path = (scratch.path() / "last.safetensors").string();
  ft::optim::SGD sgd{{ft::Parameter(ft::ones({2}))}, {.lr = 0.1}};
};

}  // namespace

TEST_CASE("kernel choices: a resumed run takes those of its checkpoint, and times nothing") {
  struct Case {
    Times times;
    double deadline_ms;
    bool winograd;
  };
  // The last had no time: the built-in order, which begins with Winograd, is a choice as well.
  for (const Case& c :
       {Case{winograd_wins, 1e9, true}, Case{direct_wins, 1e9, false}, Case{direct_wins, no_time, true}}) {
    CAPTURE(c.winograd);
    CAPTURE(c.deadline_ms);
    Run run;
    {
      const Tuning tuning(c.times, {}, c.deadline_ms);
      CHECK(by_winograd(convolve()) == c.winograd);
      run.save();
    }
    const Tuning others(c.winograd ? direct_wins : winograd_wins);
    run.load();
    CHECK(by_winograd(convolve()) == c.winograd);
    if (c.deadline_ms != no_time) CHECK(others.runs == 0);
  }
}

TEST_CASE("kernel choices: what was taken once is taken by every later plan") {
  const Tuning hurried(direct_wins, {}, no_time);
  CHECK(by_winograd(convolve()));
  fusetape::backends::cpu::tune::process_tuner().start_over(
      {.file = {},
       .stopwatch = [](auto& kernel, auto&) { return kernel.name.starts_with("highway") ? 2 : 1; }});
  ft::clear_plan_cache();
  CHECK(by_winograd(convolve()));
  CHECK(fusetape::backends::cpu::tune::process_tuner().stats().timed == 1);  // for others
  ft::set_kernel_choices({});
  CHECK_FALSE(by_winograd(convolve()));
}

TEST_CASE("kernel choices: those of a load replace what plans took before") {
  Run run;
  {
    const Tuning tuning(direct_wins);
    convolve();
    run.save();
  }
  const Tuning tuning(winograd_wins);
  CHECK(by_winograd(convolve()));
  CHECK(by_winograd(convolve(8)));
  run.load();
  CHECK_FALSE(by_winograd(convolve()));
  CHECK(by_winograd(convolve(8)));
  CHECK(ft::kernel_choices().size() == 2);  // the checkpoint knows nothing of eight images
}

TEST_CASE(
    "kernel choices: a load leaves them alone where it is told to, restores no optimizer, or finds none") {
  Run run;
  {
    const Tuning tuning(direct_wins);
    convolve();
    run.save();
  }
  const Tuning tuning(winograd_wins);
  for (const ft::io::LoadCheckpointOptions& options :
       {ft::io::LoadCheckpointOptions{.kernels = false}, {.settings = ft::io::OnMismatch::keep_ours}}) {
    run.load(options);
    CHECK(ft::kernel_choices().empty());
  }
  ft::io::load_checkpoint(run.path, {.generator = false});
  CHECK(ft::kernel_choices().empty());

  ft::io::TensorFile older = ft::io::load_tensors(run.path);
  REQUIRE(older.metadata.erase("kernels") == 1);
  ft::io::save_tensors(run.path, older);
  run.load();
  CHECK(by_winograd(convolve()));

  older.metadata["kernels"] = R"([{"work": 3}])";
  ft::io::save_tensors(run.path, older);
  CHECK(contains(message_of([&] { run.load(); }), "different: kernels"));
}

TEST_CASE("kernel choices: one that this CPU cannot run is an error that names it") {
  const Tuning tuning(winograd_wins);
  const OnBackend backend("cpu");
  const ConvBy algorithm(ft::ConvAlgorithm::automatic);
  convolve();
  std::vector<ft::KernelChoice> choices = ft::kernel_choices();
  REQUIRE(choices.size() == 1);
  const std::string work = choices[0].work;
  struct Case {
    std::string kernel;
    std::vector<std::int64_t> blocking;
    std::string name;
  };
  for (const Case& c :
       {Case{"brgconv:avx2048", {}, "'brgconv:avx2048'"}, Case{"winograd", {7, 1}, "'winograd' 7 1"}}) {
    ft::set_kernel_choices({{.work = work, .kernel = c.kernel, .blocking = c.blocking, .why = ""}});
    for (int time = 0; time < 2; ++time) {
      const std::string message = message_of([] { convolved().to_vector(); });
      CHECK(contains(message, "[conv2d] "));
      CHECK(contains(message, c.name + " for " + work + ", which cannot run here (" + ft::cpu_name()));
      CHECK(contains(message, "kernel_choices_test.cpp:"));  // the line that asked for the run
    }
  }
  ft::set_kernel_choices(choices);
  CHECK(by_winograd(convolve()));
  ft::set_kernel_choices({});
  CHECK(by_winograd(convolve()));
}
