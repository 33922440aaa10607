// Checkpoints of runs with several optimizers and schedules, each by its name.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "scratch_folder.hpp"
#include "tests/nn/small_net.hpp"

namespace ft = fusetape;
namespace optim = ft::optim;
using ft::Tensor;
using ft::io::OnMismatch;
using namespace fusetape::tests;

namespace {

/// Muon for the filters, SGD for the rest, a schedule each.
struct TwoOptimizers {
  SmallNet net;
  optim::Muon muon;
  optim::SGD sgd;
  optim::CosineLR muon_schedule{muon, {.total_steps = 8}};
  optim::StepLR sgd_schedule{sgd, {.step_size = 2}};
  ft::data::DataLoader loader{ft::data::synthetic_images({.count = 48, .size = 8, .seed = 1}),
                              {.batch = 8, .crop = 1, .flip = true, .seed = 3}};

  static std::vector<ft::Parameter> of_rank(const SmallNet& net, bool filters) {
    std::vector<ft::Parameter> all;
    for (const ft::Parameter& p : net.parameters())
      if ((p.shape().rank() == 4) == filters) all.push_back(p);
    return all;
  }
  TwoOptimizers()
      : muon(of_rank(net, true), {.lr = 0.02}), sgd(of_rank(net, false), {.lr = 0.05, .momentum = 0.9}) {}

  void step() {
    const ft::data::DataLoader::Iterator batch = loader.begin();
    const Tensor loss = ft::cross_entropy(net(batch->images), batch->labels);
    muon.zero_grad();
    sgd.zero_grad();
    loss.backward();
    muon.step();
    sgd.step();
    muon_schedule.step();
    sgd_schedule.step();
  }
  ft::io::Training parts() {
    return {.model = &net,
            .loader = &loader,
            .optimizers = {{"filters", &muon}, {"rest", &sgd}},
            .schedules = {{"filters", &muon_schedule}, {"rest", &sgd_schedule}}};
  }
  std::vector<double> numbers() const {
    std::vector<double> all{muon.learning_rate(), sgd.learning_rate()};
    const auto add = [&](const ft::Cell& cell) {
      for (double value : cell.value().to_vector<double>()) all.push_back(value);
    };
    for (const auto& [name, cell] : net.named_parameters()) add(cell);
    for (const auto& [name, cell] : muon.named_state()) add(cell);
    for (const auto& [name, cell] : sgd.named_state()) add(cell);
    return all;
  }
};

std::string file_in(const ScratchFolder& folder) {
  std::filesystem::create_directories(folder.path());
  return folder.path() / "run.safetensors";
}

}  // namespace

TEST_CASE("a run with two optimizers resumes to the bit, each part by its name") {
  const ScratchFolder folder;
  const std::string path = file_in(folder);
  ft::manual_seed(5);
  TwoOptimizers run;
  for (int i = 0; i < 3; ++i) run.step();
  ft::io::save_checkpoint(path, run.parts());
  for (int i = 0; i < 3; ++i) run.step();

  ft::manual_seed(6);
  TwoOptimizers resumed;
  ft::io::load_checkpoint(path, resumed.parts());
  CHECK(resumed.muon_schedule.index() == 3);
  for (int i = 0; i < 3; ++i) resumed.step();
  CHECK(resumed.numbers() == run.numbers());

  // One of the names differs, or a part is missing: nothing is loaded.
  const std::vector<double> before = resumed.numbers();
  ft::io::Training parts = resumed.parts();
  parts.optimizers[1].first = "biases";
  CHECK(contains(message_of([&] { ft::io::load_checkpoint(path, parts); }), "missing: optimizer.biases."));
  parts.optimizers.pop_back();
  CHECK(contains(message_of([&] { ft::io::load_checkpoint(path, parts); }), "unexpected: optimizer.rest."));
  // The second optimizer refuses what the file says: the first one has its own settings, still.
  ft::io::TensorFile file = ft::io::load_tensors(path);
  file.metadata["optimizer.filters.settings.momentum"] = "0.5";
  file.metadata["optimizer.rest.settings.momentum"] = "7";
  ft::io::save_tensors(path, file);
  const optim::Settings settings = resumed.muon.settings();
  CHECK(contains(message_of([&] {
                   ft::io::load_checkpoint(path, resumed.parts(), {.settings = OnMismatch::take_theirs});
                 }),
                 "momentum in [0, 1]"));
  CHECK(resumed.muon.settings() == settings);
  CHECK(resumed.numbers() == before);
}

TEST_CASE("what is loaded of each of two optimizers is as the caller says") {
  const ScratchFolder folder;
  const std::string path = file_in(folder);
  TwoOptimizers run;
  for (int i = 0; i < 3; ++i) run.step();
  ft::io::save_checkpoint(path, run.parts());
  ft::io::TensorFile file = ft::io::load_tensors(path);
  file.metadata["optimizer.filters.settings.momentum"] = "0.5";
  file.metadata["optimizer.rest.settings.momentum"] = "0.75";
  file.metadata["schedule.filters.settings.total_steps"] = "16";
  file.metadata["schedule.rest.settings.step_size"] = "7";
  ft::io::save_tensors(path, file);

  TwoOptimizers ours;
  ft::io::load_checkpoint(path, ours.parts(), {.settings = OnMismatch::keep_ours});
  CHECK(ours.muon.settings().at("momentum") == 0.95);
  CHECK(ours.sgd.settings().at("momentum") == 0.9);
  CHECK(ours.muon_schedule.settings().at("total_steps") == 8);
  CHECK(ours.sgd_schedule.settings().at("step_size") == 2);

  TwoOptimizers theirs;
  ft::io::load_checkpoint(path, theirs.parts(), {.settings = OnMismatch::take_theirs});
  CHECK(theirs.muon.settings().at("momentum") == 0.5);
  CHECK(theirs.sgd.settings().at("momentum") == 0.75);
  CHECK(theirs.muon_schedule.settings().at("total_steps") == 16);
  CHECK(theirs.sgd_schedule.settings().at("step_size") == 7);
  CHECK(theirs.muon.learning_rate() == run.muon.learning_rate());
  CHECK(theirs.sgd.learning_rate() == run.sgd.learning_rate());

  // A schedule refuses.
  file.metadata["schedule.rest.kind"] = "NoSuchLR";
  ft::io::save_tensors(path, file);
  CHECK(contains(
      message_of([&] { ft::io::load_checkpoint(path, ours.parts(), {.settings = OnMismatch::take_theirs}); }),
      "got 'NoSuchLR'"));
  CHECK(ours.muon.settings().at("momentum") == 0.95);

  // One schedule of two.
  ft::io::Training parts = theirs.parts();
  parts.schedules.pop_back();
  CHECK(
      contains(message_of([&] { ft::io::load_checkpoint(path, parts, {.settings = OnMismatch::keep_ours}); }),
               "unexpected: schedule.rest.index"));
}

TEST_CASE("optimizers of a checkpoint have names that tell them apart") {
  const ScratchFolder folder;
  const std::string path = file_in(folder);
  TwoOptimizers run;
  struct Row {
    ft::io::Training parts;
    const char* says;
  };
  const Row rows[] = {
      {{.optimizer = &run.sgd, .optimizers = {{"filters", &run.muon}}}, "got both"},
      {{.optimizers = {{"a", &run.muon}, {"a", &run.sgd}}}, "two parts are named optimizer \"a\""},
      {{.optimizers = {{"a", &run.muon}, {"b", &run.muon}}}, "optimizer \"b\" has another name already"},
      {{.optimizers = {{"a.b", &run.muon}}}, "a name without a dot, got optimizer \"a.b\""},
      {{.optimizers = {{"", &run.muon}}}, "a name without a dot, got optimizer \"\""},
      {{.optimizers = {{"a", nullptr}}}, "optimizer \"a\" is null"},
      {{.schedules = {{"a", nullptr}}}, "schedule \"a\" is null"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.says);
    CHECK(contains(message_of([&] { ft::io::save_checkpoint(path, row.parts); }), row.says));
    CHECK(contains(message_of([&] { ft::io::load_checkpoint(path, row.parts); }), row.says));
  }
}
