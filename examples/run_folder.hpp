#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fusetape/fusetape.hpp>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

#include "files.hpp"
#include "folder_lock.hpp"

/// The folder that a training run writes: last.safetensors, best.safetensors, metrics.jsonl and run.lock.
namespace examples {

/// What a checkpoint holds beside model, optimizer, schedule, loader and generator: the epoch that is going
/// on, and the best so far.
struct RunState {
  std::int64_t step = 0;  ///< optimizer steps done
  double best_accuracy = -1;
  std::int64_t best_epoch = 0;
  double test_accuracy = -1;  ///< of the last epoch that was judged
  double loss_sum = 0;        ///< over the images of this epoch
  double correct = 0;
  std::int64_t images = 0;
  double seconds = 0;
};

inline void to_json(nlohmann::json& json, const RunState& s) {
  json = {{"step", s.step},
          {"best_accuracy", s.best_accuracy},
          {"best_epoch", s.best_epoch},
          {"test_accuracy", s.test_accuracy},
          {"loss_sum", s.loss_sum},
          {"correct", s.correct},
          {"images", s.images},
          {"seconds", s.seconds}};
}

inline void from_json(const nlohmann::json& json, RunState& s) {
  json.at("step").get_to(s.step), json.at("best_accuracy").get_to(s.best_accuracy);
  json.at("best_epoch").get_to(s.best_epoch), json.at("test_accuracy").get_to(s.test_accuracy);
  json.at("loss_sum").get_to(s.loss_sum), json.at("correct").get_to(s.correct);
  json.at("images").get_to(s.images), json.at("seconds").get_to(s.seconds);
}

class RunFolder {
 public:
  /// Throws where a run could not be written there, where another writes now, or where none has left
  /// anything to resume.
  RunFolder(std::string folder, bool resume) : folder_(prepared(std::move(folder), resume)), lock_(folder_) {
    for (const std::string& path : {last(), best(), metrics()}) fusetape::io::remove_abandoned(path);
  }

  std::string last() const { return folder_ + "/last.safetensors"; }
  std::string best() const { return folder_ + "/best.safetensors"; }
  std::string metrics() const { return folder_ + "/metrics.jsonl"; }

  /// Removes what an earlier run left; whether there was any.
  bool clear() const {
    bool found = false;
    for (const std::string& path : {last(), best(), metrics()})
      found = std::filesystem::remove(path) || found;
    return found;
  }

  void append_metrics(const nlohmann::ordered_json& line) const {
    LineFile file;
    file.open(metrics(), true);
    file.write(line.dump());
  }

  /// Drops the lines of epochs after `epoch`, which will be trained again.
  void cut_metrics(std::int64_t epoch) const {
    filter_lines(metrics(), [&](const std::string& line) {
      return nlohmann::json::parse(line).at("epoch").get<std::int64_t>() <= epoch;
    });
  }

  /// `recipe` says what the run's numbers depend on, by flag.
  void save(const std::string& path, const fusetape::io::Training& training, const nlohmann::json& recipe,
            const RunState& state) const {
    fusetape::io::save_checkpoint(path, training,
                                  {{"recipe", recipe.dump()}, {"run", nlohmann::json(state).dump()}});
  }

  /// Restores the last checkpoint. Throws, and changes nothing, where it is damaged or of a run with another
  /// recipe.
  RunState resume(const fusetape::io::Training& training, const nlohmann::json& recipe,
                  const fusetape::io::LoadCheckpointOptions& options) const {
    const fusetape::io::Metadata extra = fusetape::io::load_checkpoint(last(), {.generator = false});
    RunState state;
    try {
      require_same(recipe, nlohmann::json::parse(extra.at("recipe")));
      state = nlohmann::json::parse(extra.at("run")).get<RunState>();
    } catch (const std::out_of_range&) {
      throw cannot("resume", last(), "it is no checkpoint of resnet_cifar");
    } catch (const nlohmann::json::exception& error) {
      throw cannot("resume", last(), std::string("it is damaged: ") + error.what());
    }
    fusetape::io::load_checkpoint(last(), training, options);
    return state;
  }

 private:
  static std::string prepared(std::string folder, bool resume) {
    if (resume && !std::filesystem::exists(folder + "/last.safetensors"))
      throw cannot("resume", folder, "there is no last.safetensors in it");
    require_folder(folder);
    return folder;
  }

  void require_same(const nlohmann::json& recipe, const nlohmann::json& before) const {
    for (const auto& [flag, value] : recipe.items()) {
      if (!before.contains(flag)) throw cannot("resume", last(), "it was made without --" + flag);
      if (before.at(flag) != value) {
        throw cannot("resume", last(),
                     "it was made with --" + flag + " " + before.at(flag).dump() + ", not " + value.dump());
      }
    }
    for (const auto& [flag, value] : before.items()) {
      if (!recipe.contains(flag))
        throw cannot("resume", last(), "it was made with --" + flag + " " + value.dump());
    }
  }

  std::string folder_;
  FolderLock lock_;
};

/// Each step's loss, exact to the bit. Writes nothing until a file is opened.
class StepLog {
 public:
  /// Keeps what an earlier part of the run wrote of the steps until `step`.
  void open(const std::string& path, std::int64_t step) {
    if (path.empty()) return;
    if (step > 0 && std::filesystem::is_regular_file(path)) {
      filter_lines(path, [&](const std::string& line) {
        char* end = nullptr;
        const long long number = std::strtoll(line.c_str(), &end, 10);
        if (end == line.c_str() || *end != ' ') throw std::runtime_error("expected a step and its loss");
        return number <= step;
      });
    }
    file_.open(path, step > 0);
  }

  void write(std::int64_t step, double loss) {
    if (!file_.is_open()) return;
    char text[64];
    std::snprintf(text, sizeof text, "%lld %a", static_cast<long long>(step), loss);
    file_.write(text);
  }

 private:
  LineFile file_;
};

}  // namespace examples
