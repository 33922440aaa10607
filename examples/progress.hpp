#pragma once
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

/// How far a training run is: one bar that rewrites itself on a terminal, a plain line every ten seconds
/// elsewhere.
namespace examples {

inline std::string duration_text(double seconds) {
  const auto whole = static_cast<long long>(std::lround(std::max(seconds, 0.0)));
  char text[32];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
  } else {
    std::snprintf(text, sizeof text, "%lld:%02lld", whole / 60, whole % 60);
  }
  return text;
}

class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  struct State {
    std::int64_t epoch = 0, epochs = 0;  ///< counted from 1
    std::int64_t step = 0, steps = 0;    ///< of this epoch
    double loss = 0, accuracy = 0;       ///< of this epoch so far
    double images_per_second = 0;
    std::int64_t steps_left = 0;  ///< of the whole run
    double step_seconds = 0;      ///< of the last step
  };

  void show(const State& state) {
    seconds_ += state.step_seconds;
    ++steps_;
    const Clock::time_point now = Clock::now();
    if (now - shown_ < (terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(10))) return;
    shown_ = now;
    const double left = seconds_ / static_cast<double>(steps_) * static_cast<double>(state.steps_left);
    char text[160];
    std::snprintf(text, sizeof text, "loss %.4f  accuracy %.4f  %.0f images/s  %s left", state.loss,
                  state.accuracy, state.images_per_second, duration_text(left).c_str());
    const std::string epoch = "epoch " + of(state.epoch, state.epochs);
    if (terminal_) {
      std::string line = bar(state) + " " + epoch + "  " + text;
      if (line.size() > columns()) line.resize(columns());  // one that wraps would not be overwritten
      std::printf("\r\033[K%s", line.c_str());
    } else {
      std::printf("%s  step %s  %s\n", epoch.c_str(), of(state.step, state.steps).c_str(), text);
    }
    std::fflush(stdout);
  }

  /// The line that an epoch leaves, from its line of metrics.jsonl.
  void say_epoch(const nlohmann::ordered_json& metrics, std::int64_t epochs) {
    const auto number = [&](const char* key) { return metrics.at(key).get<double>(); };
    char text[200], tested[40] = "";
    if (metrics.contains("test_accuracy"))
      std::snprintf(tested, sizeof tested, "  test accuracy %.4f", number("test_accuracy"));
    std::snprintf(text, sizeof text, "epoch %s  train loss %.4f  train accuracy %.4f%s  %s  %.0f images/s",
                  of(metrics.at("epoch").get<std::int64_t>(), epochs).c_str(), number("train_loss"),
                  number("train_accuracy"), tested, duration_text(number("seconds")).c_str(),
                  number("images_per_second"));
    say(text);
  }

  /// A line that stays.
  void say(const std::string& line) {
    std::printf("%s%s\n", terminal_ ? "\r\033[K" : "", line.c_str());
    std::fflush(stdout);
  }

 private:
  static std::string of(std::int64_t part, std::int64_t whole) {
    return std::to_string(part) + "/" + std::to_string(whole);
  }

  static std::size_t columns() {
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return known ? size.ws_col : 80u;
  }

  static std::string bar(const State& state) {
    constexpr std::int64_t width = 12;
    const std::int64_t filled = state.step * width / state.steps;
    std::string text = "[";
    for (std::int64_t i = 0; i < width; ++i) text += i < filled ? '#' : '.';
    return text + "]";
  }

  const bool terminal_ = ::isatty(STDOUT_FILENO) != 0;
  Clock::time_point shown_ = Clock::now();
  double seconds_ = 0;  ///< of the steps shown, for the time that is left
  std::int64_t steps_ = 0;
};

}  // namespace examples
