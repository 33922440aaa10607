// What a checkpoint says about how the run was made: old files, settings that differ, schedules after a load.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
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

const std::string data_folder = FUSETAPE_TESTS_DIR "/data/";

constexpr optim::SGDOptions old_sgd{.lr = 0.05, .momentum = 0.9, .weight_decay = 5e-4};
constexpr optim::AdamOptions old_adam{.lr = 0.01};
constexpr optim::RMSpropOptions old_rmsprop{.lr = 0.001, .momentum = 0.9, .centered = true};
const ft::data::DataLoaderOptions old_loader{.batch = 8, .crop = 1, .flip = true, .seed = 3};

ft::data::Dataset images(std::int64_t count = 48) {
  return ft::data::synthetic_images({.count = count, .size = 8, .seed = 1});
}

/// The parts of a run; each may be made in another way.
struct Run {
  using MakeOptimizer = std::function<std::unique_ptr<optim::Optimizer>(SmallNet&)>;
  using MakeSchedule = std::function<std::unique_ptr<optim::Schedule>(optim::Optimizer&)>;

  SmallNet net;
  std::unique_ptr<optim::Optimizer> optimizer;
  std::unique_ptr<optim::Schedule> schedule;
  optim::LossScaler scaler;
  ft::data::DataLoader loader;

  explicit Run(const MakeOptimizer& make_optimizer, const MakeSchedule& make_schedule,
               optim::LossScalerOptions scaling = {}, ft::data::DataLoaderOptions loading = old_loader,
               std::int64_t count = 48)
      : optimizer(make_optimizer(net)),
        schedule(make_schedule(*optimizer)),
        scaler(scaling),
        loader(images(count), loading) {}

  void step() {
    const ft::data::DataLoader::Iterator batch = loader.begin();
    const Tensor loss = ft::cross_entropy(net(batch->images), batch->labels);
    optimizer->zero_grad();
    scaler.scale(loss).backward();
    REQUIRE(scaler.step(*optimizer));
    schedule->step();
  }
  ft::io::Training parts() { return {&net, optimizer.get(), schedule.get(), &loader, true, &scaler}; }

  std::vector<double> numbers() const {
    std::vector<double> all{optimizer->learning_rate(), optimizer->initial_learning_rate(), scaler.factor(),
                            static_cast<double>(schedule->index()),
                            static_cast<double>(loader.state().position)};
    const auto add = [&](const ft::Cell& cell) {
      for (double value : cell.value().to_vector<double>()) all.push_back(value);
    };
    for (const auto& [name, cell] : net.named_parameters()) add(cell);
    for (const auto& [name, cell] : net.named_buffers()) add(cell);
    for (const auto& [name, cell] : optimizer->named_state()) add(cell);
    return all;
  }
};

template <class Kind, class Options>
Run::MakeOptimizer optimizer(Options options) {
  return [options](SmallNet& net) { return std::make_unique<Kind>(net.parameters(), options); };
}
Run::MakeOptimizer sgd(optim::SGDOptions options = old_sgd) { return optimizer<optim::SGD>(options); }
Run::MakeOptimizer adam(optim::AdamOptions options = old_adam) { return optimizer<optim::Adam>(options); }

Run::MakeOptimizer rmsprop(optim::RMSpropOptions options = old_rmsprop) {
  return optimizer<optim::RMSprop>(options);
}

template <class Kind, class Options>
Run::MakeSchedule schedule(Options options) {
  return [options](optim::Optimizer& of) { return std::make_unique<Kind>(of, options); };
}
Run::MakeSchedule steps(optim::StepLROptions options = {.step_size = 2}) {
  return schedule<optim::StepLR>(options);
}
Run::MakeSchedule cosine(optim::CosineLROptions options = {.total_steps = 8}) {
  return schedule<optim::CosineLR>(options);
}
Run::MakeSchedule one_cycle(optim::OneCycleLROptions options = {.max_lr = 0.05, .total_steps = 40}) {
  return schedule<optim::OneCycleLR>(options);
}
Run::MakeSchedule warm_up(optim::LinearWarmupOptions options = {.steps = 3}, std::int64_t total = 8) {
  return [=](optim::Optimizer& of) {
    return std::make_unique<optim::LinearWarmup>(of, optim::CosineLR(of, {.total_steps = total}), options);
  };
}
struct Halving : optim::Schedule {
  explicit Halving(optim::Optimizer& of, double first = 0.5)
      : Schedule(of, [first](std::int64_t step) { return first / static_cast<double>(step + 1); }, "Halving",
                 {{"first", first}}) {}
};
Run::MakeSchedule halving(double first = 0.5) { return schedule<Halving>(first); }

std::string in(const ScratchFolder& folder) {
  std::filesystem::create_directories(folder.path());
  return folder.path() / "run.safetensors";
}

}  // namespace

TEST_CASE("checkpoints of the first format load, and the run goes on") {
  struct Row {
    const char* file;
    Run::MakeOptimizer optimizer;
    Run::MakeSchedule schedule;
    double rate, initial;
    bool scaled;
  };
  const Row rows[] = {
      {"checkpoint_1_sgd.safetensors", sgd(), cosine(), 0.025, 0.05, false},
      {"checkpoint_1_adam.safetensors", adam(), one_cycle(), 0.016030039687954724, 0.01, true}};
  for (const Row& row : rows) {
    CAPTURE(row.file);
    Run run(row.optimizer, row.schedule);
    ft::io::Training parts = run.parts();
    if (!row.scaled) parts.loss_scaler = nullptr;
    const ft::io::Metadata extra = ft::io::load_checkpoint(data_folder + row.file, parts);
    CHECK(extra == ft::io::Metadata{{"written-by", "bbebf44"}});

    const ft::io::TensorFile file = ft::io::load_tensors(data_folder + row.file);
    std::size_t compared = 1;  // and the counts of updates
    const auto compare = [&](const std::string& name, const ft::Cell& cell) {
      CAPTURE(name);
      CHECK(cell.value().to_vector() == file.tensors.at(name).to_vector());
      ++compared;
    };
    for (const auto& [name, cell] : run.net.named_parameters()) compare("model." + name, cell);
    for (const auto& [name, cell] : run.net.named_buffers()) compare("model." + name, cell);
    for (const auto& [name, cell] : run.optimizer->named_state()) compare("optimizer." + name, cell);
    CHECK(compared == file.tensors.size());
    CHECK(run.optimizer->updates() == std::vector<std::int64_t>(5, 4));
    CHECK(run.optimizer->learning_rate() == row.rate);
    CHECK(run.optimizer->initial_learning_rate() == row.initial);
    CHECK(run.schedule->index() == 4);
    CHECK(run.loader.state() == ft::data::DataLoader::State{11, 0, 4});
    CHECK(ft::generator_state().seed == 7);
    CHECK(ft::generator_state().counter == 2208);
    if (row.scaled) {
      CHECK(run.scaler.factor() == 1024);
      CHECK(run.scaler.clean_steps() == 4);
    }
    run.step();
    CHECK(run.optimizer->updates()[0] == 5);
    for (double number : run.numbers()) CHECK(std::isfinite(number));
  }
}

TEST_CASE("a schedule that is made after a load starts from the initial rate, not from the decayed one") {
  const ScratchFolder folder;
  const std::string today = in(folder);
  {
    Run run(sgd(), cosine());
    for (int i = 0; i < 4; ++i) run.step();
    CHECK(run.optimizer->learning_rate() == doctest::Approx(0.025));
    ft::io::save_checkpoint(today, run.parts());
  }
  for (const std::string& path : {today, data_folder + "checkpoint_1_sgd.safetensors"}) {
    CAPTURE(path);
    SmallNet net;
    optim::SGD restored(net.parameters(), old_sgd);
    ft::io::load_checkpoint(path, {.model = &net, .optimizer = &restored});
    CHECK(restored.learning_rate() == doctest::Approx(0.025));
    CHECK(restored.initial_learning_rate() == 0.05);
    CHECK(optim::StepLR(restored, {.step_size = 10}).at(0) == 0.05);
    CHECK(optim::CosineLR(restored, {.total_steps = 10}).at(0) == 0.05);
    CHECK(warm_up()(restored)->at(3) == 0.05);
    CHECK(warm_up()(restored)->at(0) == doctest::Approx(0.005));
    restored.set_learning_rate(0.01);  // by hand: meant
    CHECK(optim::CosineLR(restored, {.total_steps = 10}).at(0) == 0.01);
  }
}

TEST_CASE("settings that differ are refused with both values, or hold as the caller says") {
  struct Row {
    Run::MakeOptimizer saved_optimizer;
    Run::MakeSchedule saved_schedule;
    std::function<Run()> other;  ///< what the file is loaded into
    const char* key;
    const char* values;
    bool can_take = true;
  };
  const auto with = [](Run::MakeOptimizer make, Run::MakeSchedule schedule) {
    return [=] { return Run(make, schedule); };
  };
  const auto scaling = [](optim::LossScalerOptions options) {
    return [=] { return Run(sgd(), cosine(), options); };
  };
  const auto loading = [](ft::data::DataLoaderOptions options, std::int64_t count = 48) {
    return [=] { return Run(sgd(), cosine(), {}, options, count); };
  };
  const auto sgd_with = [](auto change) {
    optim::SGDOptions options = old_sgd;
    change(options);
    return sgd(options);
  };
  const auto lr = sgd_with([](auto& o) { o.lr = 0.1; });
  const auto momentum = sgd_with([](auto& o) { o.momentum = 0.8; });
  const auto decay = sgd_with([](auto& o) { o.weight_decay = 0; });
  const auto nesterov = sgd_with([](auto& o) { o.nesterov = true; });
  const auto clipped = sgd_with([](auto& o) { o.max_grad_norm = 2; });
  const Row rows[] = {
      {sgd(), cosine(), with(lr, cosine()), "optimizer.settings.lr", "the file has 0.05, expected 0.1"},
      {sgd(), cosine(), with(momentum, cosine()), "optimizer.settings.momentum", "has 0.9, expected 0.8"},
      {sgd(), cosine(), with(decay, cosine()), "optimizer.settings.weight_decay", "has 5e-04, expected 0"},
      {sgd(), cosine(), with(nesterov, cosine()), "optimizer.settings.nesterov", "has 0, expected 1"},
      {sgd(), cosine(), with(clipped, cosine()), "optimizer.settings.max_grad_norm", "has 0, expected 2"},
      {adam(), cosine(), with(adam({.lr = 0.01, .beta1 = 0.8}), cosine()), "optimizer.settings.beta1",
       "has 0.9, expected 0.8"},
      {adam(), cosine(), with(adam({.lr = 0.01, .beta2 = 0.99}), cosine()), "optimizer.settings.beta2",
       "has 0.999, expected 0.99"},
      {adam(), cosine(), with(adam({.lr = 0.01, .eps = 1e-6}), cosine()), "optimizer.settings.eps",
       "has 1e-08, expected 1e-06"},
      {rmsprop(), cosine(),
       with(rmsprop({.lr = 0.001, .alpha = 0.9, .momentum = 0.9, .centered = true}), cosine()),
       "optimizer.settings.alpha", "has 0.99, expected 0.9"},
      {rmsprop(), cosine(), with(rmsprop({.lr = 0.001, .momentum = 0.5, .centered = true}), cosine()),
       "optimizer.settings.momentum", "has 0.9, expected 0.5"},
      {sgd(), cosine(), with(sgd(), steps()), "schedule.kind", "has CosineLR, expected StepLR"},
      {sgd(), cosine(), with(sgd(), cosine({.total_steps = 9})), "schedule.settings.total_steps",
       "has 8, expected 9"},
      {sgd(), cosine(), with(lr, cosine()), "schedule.settings.base", "has 0.05, expected 0.1"},
      {sgd(), steps(), with(sgd(), steps({.step_size = 3})), "schedule.settings.step_size",
       "has 2, expected 3"},
      {sgd(), one_cycle(), with(sgd(), one_cycle({.max_lr = 0.1, .total_steps = 40})),
       "schedule.settings.max_lr", "has 0.05, expected 0.1"},
      {sgd(), warm_up(), with(sgd(), warm_up({.steps = 4})), "schedule.settings.steps", "has 3, expected 4"},
      {sgd(), warm_up(), with(sgd(), warm_up({.steps = 3}, 9)), "schedule.settings.then.total_steps",
       "has 8, expected 9"},
      {sgd(), warm_up(), with(sgd(), cosine()), "schedule.kind",
       "has LinearWarmup, then CosineLR, expected CosineLR"},
      {sgd(), halving(), with(sgd(), halving(0.25)), "schedule.settings.first", "has 0.5, expected 0.25",
       false},
      {sgd(), cosine(), scaling({.growth_interval = 5}), "loss_scaler.settings.growth_interval",
       "has 2000, expected 5"},
      {sgd(), cosine(), loading({.batch = 6, .crop = 1, .flip = true}), "loader.settings.batch",
       "has 8, expected 6", false},
      {sgd(), cosine(), loading({.batch = 8, .flip = true}), "loader.settings.crop", "has 1, expected 0",
       false},
      {sgd(), cosine(), loading(old_loader, 40), "loader.settings.images", "has 48, expected 40", false},
  };
  const ScratchFolder folder;
  const std::string path = in(folder);
  for (const Row& row : rows) {
    CAPTURE(row.key);
    Run saved(row.saved_optimizer, row.saved_schedule);
    saved.step(), saved.step();
    ft::io::save_checkpoint(path, saved.parts());
    {
      Run same(row.saved_optimizer, row.saved_schedule);
      ft::io::load_checkpoint(path, same.parts());
      CHECK(same.numbers() == saved.numbers());
    }
    {
      Run run = row.other();
      const std::vector<double> before = run.numbers();
      const std::string message = message_of([&] { ft::io::load_checkpoint(path, run.parts()); });
      CHECK(contains(message, row.key));
      CHECK(contains(message, row.values));
      CHECK(contains(message, "LoadCheckpointOptions::settings"));
      CHECK(contains(message, "resume_test.cpp"));
      CHECK(run.numbers() == before);
    }
    {
      Run run = row.other();
      const optim::Settings settings = run.optimizer->settings();
      const double initial = run.optimizer->initial_learning_rate(), third = run.schedule->at(3);
      ft::io::load_checkpoint(path, run.parts(), {.settings = OnMismatch::keep_ours});
      CHECK(run.net.fc.weight().value().to_vector() == saved.net.fc.weight().value().to_vector());
      CHECK(run.optimizer->settings() == settings);
      CHECK(run.optimizer->initial_learning_rate() == initial);
      CHECK(run.schedule->index() == 2);
      CHECK(run.optimizer->learning_rate() == run.schedule->at(2));
      CHECK(run.schedule->at(3) == third);
      run.step();
    }
    {
      Run run = row.other();
      const std::vector<double> before = run.numbers();
      const std::string message = message_of(
          [&] { ft::io::load_checkpoint(path, run.parts(), {.settings = OnMismatch::take_theirs}); });
      CHECK(message.empty() == row.can_take);
      CHECK(run.numbers() == (row.can_take ? saved.numbers() : before));
      if (!row.can_take) continue;
      CHECK(run.optimizer->settings() == saved.optimizer->settings());
      CHECK(run.schedule->kind() == saved.schedule->kind());
      CHECK(run.scaler.settings() == saved.scaler.settings());
      for (std::int64_t step : {0, 1, 3, 5, 7, 30}) CHECK(run.schedule->at(step) == saved.schedule->at(step));
      const ft::GeneratorState state = ft::generator_state();
      run.step();
      ft::set_generator_state(state);
      saved.step();
      CHECK(run.numbers() == saved.numbers());
    }
  }
}

TEST_CASE("settings, formats and counters that no run has are refused, and nothing changes") {
  const ScratchFolder folder;
  const std::string path = in(folder);
  Run saved(sgd(), cosine());
  saved.step();
  ft::io::save_checkpoint(path, saved.parts());
  const ft::io::TensorFile file = ft::io::load_tensors(path);
  struct Row {
    const char* key;
    const char* value;  ///< null: the key is not there
    const char* says;
    OnMismatch settings = OnMismatch::refuse;
  };
  const char* const most = "9223372036854775807";
  const Row rows[] = {
      {"format", "fusetape checkpoint 3", "newer version of this library: expected format 1 to 2, got 3"},
      {"format", "fusetape checkpoint 0", "is no checkpoint of this library"},
      {"format", "fusetape checkpoint -1", "is no checkpoint of this library"},
      {"format", "fusetape checkpoint 2x", "is no checkpoint of this library"},
      {"format", "fusetape checkpoint 99999999999", "is no checkpoint of this library"},
      {"format", nullptr, "is no checkpoint of this library"},
      {"schedule.index", most, "schedule.index"},
      {"loader.epoch", most, "loader.epoch"},
      {"loader.position", most, "loader.position"},
      {"loss_scaler.clean_steps", most, "loss_scaler.clean_steps"},
      {"generator.counter", "18446744073709551615", "generator.counter"},
      {"optimizer.initial_learning_rate", "-1", "optimizer.initial_learning_rate"},
      {"optimizer.initial_learning_rate", nullptr, "missing: optimizer.initial_learning_rate"},
      {"optimizer.settings.momentum", nullptr, "missing: optimizer.settings.momentum"},
      {"optimizer.settings.momentum", "much", "'much' is no such number"},
      {"optimizer.settings.speed", "1", "unexpected: optimizer.settings.speed"},
      {"schedule.kind", nullptr, "missing: schedule.kind"},
      {"optimizer.settings.momentum", "7", "momentum in [0, 1]", OnMismatch::take_theirs},
      {"optimizer.settings.momentum", "0", "the velocity exists", OnMismatch::take_theirs},
      {"optimizer.settings.lr", nullptr, "expected a setting lr", OnMismatch::take_theirs},
      {"schedule.settings.total_steps", "0", "total_steps ≥ 1", OnMismatch::take_theirs},
      {"schedule.settings.total_steps", "1e300", "a whole number", OnMismatch::take_theirs},
      {"schedule.settings.total_steps", "nan", "a whole number", OnMismatch::take_theirs},
      {"schedule.kind", "NoSuchLR", "got 'NoSuchLR'", OnMismatch::take_theirs},
      {"loss_scaler.settings.growth", "0", "growth > 1", OnMismatch::take_theirs},
  };
  Run run(sgd(), cosine());
  const std::vector<double> before = run.numbers();
  const std::string broken_path = folder.path() / "broken.safetensors";
  for (const Row& row : rows) {
    CAPTURE(row.key);
    CAPTURE(row.says);
    ft::io::TensorFile broken = file;
    broken.metadata.erase(row.key);
    if (row.value != nullptr) broken.metadata[row.key] = row.value;
    ft::io::save_tensors(broken_path, broken);
    const std::string message =
        message_of([&] { ft::io::load_checkpoint(broken_path, run.parts(), {.settings = row.settings}); });
    CHECK(contains(message, row.says));
    CHECK(contains(message, "broken.safetensors"));
    CHECK(run.numbers() == before);
    CHECK(run.optimizer->settings() == saved.optimizer->settings());
    CHECK(run.schedule->settings() == saved.schedule->settings());
  }
  constexpr std::int64_t most_count = std::numeric_limits<std::int64_t>::max();
  ft::io::TensorFile broken = file;
  broken.tensors["optimizer.updates"] = ft::from_vector(std::vector<std::int64_t>(5, most_count), {5});
  ft::io::save_tensors(broken_path, broken);
  CHECK(
      contains(message_of([&] { ft::io::load_checkpoint(broken_path, run.parts()); }), "optimizer.updates"));
  CHECK_THROWS_AS(run.schedule->set_index(most_count), ft::Error);
  CHECK_THROWS_AS(run.optimizer->set_updates(std::vector<std::int64_t>(5, most_count)), ft::Error);
  CHECK_THROWS_AS(run.scaler.set_state(1, most_count), ft::Error);
}
