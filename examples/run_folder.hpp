#pragma once
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <fusetape/fusetape.hpp>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

#include "files.hpp"

/// The folder that a training run writes: last.safetensors, best.safetensors and metrics.jsonl.
namespace examples {

/// What a checkpoint holds beside model, optimizer, schedule, loader and generator: the epoch that is going
/// on, and the best so far.
struct RunState {
  std::int64_t step = 0;  ///< optimizer steps done
  double best_accuracy = -1;
  std::int64_t best_epoch = 0;
  double test_accuracy = -1;  ///< of the last whole epoch
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
  /// Throws where a run could not be written there, or has left nothing to resume.
  RunFolder(std::string folder, bool resume) : folder_(std::move(folder)) {
    if (resume && !std::filesystem::exists(last())) {
      throw cannot("resume", folder_, "there is no last.safetensors in it");
    }
    require_writable_folder(folder_);
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
    std::ofstream file(metrics(), std::ios::app);
    file << line.dump() + "\n" << std::flush;
    if (!file) throw cannot("write", metrics(), "the disk may be full");
  }

  /// Drops the lines of epochs after `epoch`, which will be trained again, and a last line that a kill left
  /// unfinished.
  void cut_metrics(std::int64_t epoch) const {
    std::ifstream file(metrics());
    if (!file) return;
    std::string kept;
    for (std::string line; std::getline(file, line);) {
      const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
      if (json.is_object() && json.value("epoch", epoch + 1) <= epoch) kept += line + "\n";
    }
    file.close();
    write_file(metrics(), kept);
  }

  /// `recipe` says what the run's numbers depend on, by flag.
  void save(const std::string& path, const fusetape::io::Training& training, const nlohmann::json& recipe,
            const RunState& state) const {
    fusetape::io::save_checkpoint(path, training,
                                  {{"recipe", recipe.dump()}, {"run", nlohmann::json(state).dump()}});
  }

  /// Restores the last checkpoint. Throws, and changes nothing, where it is damaged or of a run with another
  /// recipe.
  RunState resume(const fusetape::io::Training& training, const nlohmann::json& recipe) const {
    if (!std::filesystem::exists(last()))
      throw cannot("resume", folder_, "there is no last.safetensors in it");
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
    fusetape::io::load_checkpoint(last(), training);
    return state;
  }

 private:
  void require_same(const nlohmann::json& recipe, const nlohmann::json& before) const {
    for (const auto& [flag, value] : recipe.items()) {
      if (before.at(flag) != value) {
        throw cannot("resume", last(),
                     "it was made with --" + flag + " " + before.at(flag).dump() + ", not " + value.dump());
      }
    }
  }

  std::string folder_;
};

/// Each step's loss, exact to the bit. Writes nothing until a file is opened.
class StepLog {
 public:
  StepLog() = default;
  ~StepLog() {
    if (file_ != nullptr) std::fclose(file_);
  }
  StepLog(const StepLog&) = delete;
  StepLog& operator=(const StepLog&) = delete;

  void open(const std::string& path) {
    if (path.empty()) return;
    file_ = std::fopen(path.c_str(), "w");
    if (file_ == nullptr) throw cannot("write", path, std::strerror(errno));
  }

  void write(std::int64_t step, double loss) {
    if (file_ == nullptr) return;
    std::fprintf(file_, "%lld %a\n", static_cast<long long>(step), loss);
    std::fflush(file_);  // a killed run's losses count too
  }

 private:
  std::FILE* file_ = nullptr;
};

}  // namespace examples
