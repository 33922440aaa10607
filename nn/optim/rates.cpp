#include "nn/optim/rates.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/numerics/number_text.hpp"
#include "nn/optim/setting_reader.hpp"

namespace fusetape::optim {
namespace {

const std::string warmup_then = "LinearWarmup, then ", then_prefix = "then.";
const std::string sequence_begin = "SequentialLR(", sequence_end = ")", sequence_next = "; ";

void require(bool ok, const char* schedule, const char* expected, double got, Location at) {
  if (!ok) throw Error(schedule, std::string("expected ") + expected + ", got " + core::number_text(got), at);
}

void require_steps(const char* schedule, const char* what, std::int64_t steps, Location at) {
  if (steps < 1) {
    throw Error(schedule, std::string("expected ") + what + " ≥ 1, got " + std::to_string(steps), at);
  }
}

double number(std::int64_t count) { return static_cast<double>(count); }

/// From `start` to `end` on half a cosine; `part` in [0, 1].
double cosine(double start, double end, double part) {
  return end + (start - end) / 2 * (std::cos(std::numbers::pi * part) + 1);
}

void add_with_prefix(Settings& all, const std::string& prefix, const Settings& more) {
  for (const auto& [name, value] : more) all.emplace(prefix + name, value);
}
Settings without_prefix(const Settings& all, const std::string& prefix) {
  Settings some;
  for (const auto& [name, value] : all) {
    if (name.starts_with(prefix)) some.emplace(name.substr(prefix.size()), value);
  }
  return some;
}

/// "A; B(C; D)" as "A" and "B(C; D)".
std::vector<std::string> kinds_in(const std::string& text) {
  std::vector<std::string> kinds{""};
  int depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (depth == 0 && text.compare(i, sequence_next.size(), sequence_next) == 0) {
      kinds.emplace_back();
      i += sequence_next.size() - 1;
      continue;
    }
    depth += text[i] == '(' ? 1 : text[i] == ')' ? -1 : 0;
    kinds.back() += text[i];
  }
  return kinds;
}

std::vector<std::int64_t> milestones_of(const SettingReader& read) {
  std::vector<std::int64_t> milestones;
  for (std::int64_t i = 0; i < read.count("milestones"); ++i)
    milestones.push_back(read.count("milestone" + std::to_string(i)));
  return milestones;
}

Course sequence_of(const std::string& kind, const Settings& settings, Location at) {
  const std::size_t inner = kind.size() - sequence_begin.size() - sequence_end.size();
  const std::vector<std::string> kinds = kinds_in(kind.substr(sequence_begin.size(), inner));
  std::vector<CoursePart> parts;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    Settings own = without_prefix(settings, std::to_string(i) + ".");
    const std::int64_t steps = SettingReader{own, "SequentialLR", at}.count("steps_of_part");
    own.erase("steps_of_part");
    parts.push_back({course_of(kinds[i], own, at), steps});
  }
  return sequence_course(parts, at);
}

}  // namespace

Course step_course(double base, const StepLROptions& options, Location at) {
  require_steps("StepLR", "step_size", options.step_size, at);
  require(options.gamma > 0, "StepLR", "gamma > 0", options.gamma, at);
  return {
      .rate =
          [=](std::int64_t step) { return base * std::pow(options.gamma, number(step / options.step_size)); },
      .kind = "StepLR",
      .settings = {{"base", base}, {"step_size", number(options.step_size)}, {"gamma", options.gamma}}};
}

Course multi_step_course(double base, const MultiStepLROptions& options, Location at) {
  require(!options.milestones.empty(), "MultiStepLR", "at least one milestone", 0, at);
  Settings settings{
      {"base", base}, {"gamma", options.gamma}, {"milestones", number(std::ssize(options.milestones))}};
  std::int64_t before = 0;
  for (std::size_t i = 0; i < options.milestones.size(); ++i) {
    require(options.milestones[i] > before, "MultiStepLR", "rising milestones ≥ 1",
            number(options.milestones[i]), at);
    before = options.milestones[i];
    settings.emplace("milestone" + std::to_string(i), number(before));
  }
  require(options.gamma > 0, "MultiStepLR", "gamma > 0", options.gamma, at);
  return {.rate =
              [=](std::int64_t step) {
                const auto& all = options.milestones;
                return base * std::pow(options.gamma,
                                       number(std::upper_bound(all.begin(), all.end(), step) - all.begin()));
              },
          .kind = "MultiStepLR",
          .settings = std::move(settings)};
}

Course exponential_course(double base, const ExponentialLROptions& options, Location at) {
  require(options.gamma > 0, "ExponentialLR", "gamma > 0", options.gamma, at);
  return {.rate = [=](std::int64_t step) { return base * std::pow(options.gamma, number(step)); },
          .kind = "ExponentialLR",
          .settings = {{"base", base}, {"gamma", options.gamma}}};
}

Course polynomial_course(double base, const PolynomialLROptions& options, Location at) {
  require_steps("PolynomialLR", "total_steps", options.total_steps, at);
  require(options.power > 0, "PolynomialLR", "power > 0", options.power, at);
  return {
      .rate =
          [=](std::int64_t step) {
            const double left = 1 - number(std::min(step, options.total_steps)) / number(options.total_steps);
            return base * std::pow(left, options.power);
          },
      .kind = "PolynomialLR",
      .settings = {{"base", base}, {"total_steps", number(options.total_steps)}, {"power", options.power}}};
}

Course cosine_course(double base, const CosineLROptions& options, Location at) {
  require_steps("CosineLR", "total_steps", options.total_steps, at);
  require(options.min_lr >= 0, "CosineLR", "min_lr ≥ 0", options.min_lr, at);
  return {
      .rate =
          [=](std::int64_t step) {
            const double done = number(std::min(step, options.total_steps));
            return cosine(base, options.min_lr, done / number(options.total_steps));
          },
      .kind = "CosineLR",
      .settings = {{"base", base}, {"total_steps", number(options.total_steps)}, {"min_lr", options.min_lr}}};
}

Course restarts_course(double base, const CosineRestartsLROptions& options, Location at) {
  require_steps("CosineRestartsLR", "period", options.period, at);
  require_steps("CosineRestartsLR", "growth", options.growth, at);
  require(options.min_lr >= 0, "CosineRestartsLR", "min_lr ≥ 0", options.min_lr, at);
  return {.rate =
              [=](std::int64_t step) {
                // In doubles: a period that grows outgrows whole numbers.
                double period = number(options.period), left = number(step);
                if (options.growth == 1) {
                  left = number(step % options.period);
                } else {
                  for (; left >= period; period *= number(options.growth)) left -= period;
                }
                return cosine(base, options.min_lr, left / period);
              },
          .kind = "CosineRestartsLR",
          .settings = {{"base", base},
                       {"period", number(options.period)},
                       {"growth", number(options.growth)},
                       {"min_lr", options.min_lr}}};
}

Course cyclic_course(const CyclicLROptions& options, Location at) {
  require_steps("CyclicLR", "rise", options.rise, at);
  require(options.fall >= 0, "CyclicLR", "fall ≥ 0", number(options.fall), at);
  require(options.min_lr >= 0, "CyclicLR", "min_lr ≥ 0", options.min_lr, at);
  require(options.max_lr > options.min_lr, "CyclicLR", "max_lr > min_lr", options.max_lr, at);
  const std::int64_t fall = options.fall > 0 ? options.fall : options.rise;
  return {.rate =
              [=](std::int64_t step) {
                const std::int64_t cycle = step / (options.rise + fall), now = step % (options.rise + fall);
                const double height = now <= options.rise ? number(now) / number(options.rise)
                                                          : number(options.rise + fall - now) / number(fall);
                const double reach = (options.max_lr - options.min_lr) * height;
                return options.min_lr + (options.halving ? reach * std::pow(0.5, number(cycle)) : reach);
              },
          .kind = "CyclicLR",
          .settings = {{"min_lr", options.min_lr},
                       {"max_lr", options.max_lr},
                       {"rise", number(options.rise)},
                       {"fall", number(options.fall)},
                       {"halving", options.halving ? 1 : 0}}};
}

Course one_cycle_course(const OneCycleLROptions& options, Location at) {
  require_steps("OneCycleLR", "total_steps", options.total_steps, at);
  require(options.max_lr > 0, "OneCycleLR", "max_lr > 0", options.max_lr, at);
  require(options.pct_start >= 0 && options.pct_start <= 1, "OneCycleLR", "pct_start in [0, 1]",
          options.pct_start, at);
  require(options.div_factor > 0, "OneCycleLR", "div_factor > 0", options.div_factor, at);
  require(options.final_div_factor > 0, "OneCycleLR", "final_div_factor > 0", options.final_div_factor, at);
  const bool moves = options.base_momentum != 0 || options.max_momentum != 0;
  require(!moves || (options.base_momentum > 0 && options.base_momentum <= options.max_momentum),
          "OneCycleLR", "0 < base_momentum ≤ max_momentum", options.base_momentum, at);
  require(options.max_momentum < 1, "OneCycleLR", "max_momentum < 1", options.max_momentum, at);
  const double end = number(options.total_steps) - 1;
  const double top = options.pct_start * number(options.total_steps) - 1;
  /// Of values at the beginning, at the top and at the end.
  const auto between = [end, top](double first, double highest, double last, std::int64_t step) {
    const double now = std::min(number(step), end);  // the last value stays
    if (now <= top) return cosine(first, highest, top > 0 ? now / top : 1);
    return cosine(highest, last, end > top ? (now - top) / (end - top) : 1);
  };
  const double first = options.max_lr / options.div_factor;
  Course course{.rate =
                    [=](std::int64_t step) {
                      return between(first, options.max_lr, first / options.final_div_factor, step);
                    },
                .kind = "OneCycleLR",
                .settings = {{"max_lr", options.max_lr},
                             {"total_steps", number(options.total_steps)},
                             {"pct_start", options.pct_start},
                             {"div_factor", options.div_factor},
                             {"final_div_factor", options.final_div_factor}}};
  if (!moves) return course;
  course.settings.insert({{"base_momentum", options.base_momentum}, {"max_momentum", options.max_momentum}});
  course.momentum = [=](std::int64_t step) {
    return between(options.max_momentum, options.base_momentum, options.max_momentum, step);
  };
  return course;
}

Course warmup_course(const Course& then, const LinearWarmupOptions& options, Location at) {
  require_steps("LinearWarmup", "steps", options.steps, at);
  require(options.start_factor >= 0 && options.start_factor <= 1, "LinearWarmup", "start_factor in [0, 1]",
          options.start_factor, at);
  Course course{.rate =
                    [=, rate = then.rate](std::int64_t step) {
                      if (step >= options.steps) return rate(step - options.steps);
                      const double part = number(step) / number(options.steps);
                      return rate(0) * (options.start_factor + (1 - options.start_factor) * part);
                    },
                .kind = warmup_then + then.kind,
                .settings = {{"steps", number(options.steps)}, {"start_factor", options.start_factor}}};
  add_with_prefix(course.settings, then_prefix, then.settings);
  if (then.momentum) {
    course.momentum = [=, momentum = then.momentum](std::int64_t step) {
      return momentum(std::max<std::int64_t>(0, step - options.steps));
    };
  }
  return course;
}

Course sequence_course(const std::vector<CoursePart>& parts, Location at) {
  if (parts.empty()) throw Error("SequentialLR", "expected at least one schedule, got none", at);
  Course course{.kind = sequence_begin};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i + 1 < parts.size()) require_steps("SequentialLR", "steps", parts[i].steps, at);
    course.kind += (i > 0 ? sequence_next : "") + parts[i].course.kind;
    const std::string prefix = std::to_string(i) + ".";
    course.settings.emplace(prefix + "steps_of_part", number(parts[i].steps));
    add_with_prefix(course.settings, prefix, parts[i].course.settings);
  }
  course.kind += sequence_end;
  // The part that a step is in, and where in it.
  const auto place = [parts](std::int64_t step) {
    std::size_t i = 0;
    for (; i + 1 < parts.size() && step >= parts[i].steps; ++i) step -= parts[i].steps;
    return std::pair(i, step);
  };
  course.rate = [=](std::int64_t step) {
    const auto [i, index] = place(step);
    return parts[i].course.rate(index);
  };
  const bool moves = std::any_of(parts.begin(), parts.end(),
                                 [](const CoursePart& part) { return part.course.momentum != nullptr; });
  if (!moves) return course;
  course.momentum = [=](std::int64_t step) -> std::optional<double> {
    const auto [i, index] = place(step);
    return parts[i].course.momentum ? parts[i].course.momentum(index) : std::nullopt;
  };
  return course;
}

Course course_of(const std::string& kind, const Settings& settings, Location at) {
  const SettingReader read{settings, kind, at};
  if (kind == "StepLR") {
    return step_course(read.number("base"),
                       {.step_size = read.count("step_size"), .gamma = read.number("gamma")}, at);
  }
  if (kind == "MultiStepLR") {
    return multi_step_course(read.number("base"),
                             {.milestones = milestones_of(read), .gamma = read.number("gamma")}, at);
  }
  if (kind == "ExponentialLR")
    return exponential_course(read.number("base"), {.gamma = read.number("gamma")}, at);
  if (kind == "PolynomialLR") {
    return polynomial_course(read.number("base"),
                             {.total_steps = read.count("total_steps"), .power = read.number("power")}, at);
  }
  if (kind == "CosineLR") {
    return cosine_course(read.number("base"),
                         {.total_steps = read.count("total_steps"), .min_lr = read.number("min_lr")}, at);
  }
  if (kind == "CosineRestartsLR") {
    return restarts_course(
        read.number("base"),
        {.period = read.count("period"), .growth = read.count("growth"), .min_lr = read.number("min_lr")},
        at);
  }
  if (kind == "CyclicLR") {
    return cyclic_course({.min_lr = read.number("min_lr"),
                          .max_lr = read.number("max_lr"),
                          .rise = read.count("rise"),
                          .fall = read.count("fall"),
                          .halving = read.number("halving") != 0},
                         at);
  }
  if (kind == "OneCycleLR") {
    const bool moves = settings.count("max_momentum") > 0;
    return one_cycle_course({.max_lr = read.number("max_lr"),
                             .total_steps = read.count("total_steps"),
                             .pct_start = read.number("pct_start"),
                             .div_factor = read.number("div_factor"),
                             .final_div_factor = read.number("final_div_factor"),
                             .base_momentum = moves ? read.number("base_momentum") : 0,
                             .max_momentum = moves ? read.number("max_momentum") : 0},
                            at);
  }
  if (kind.starts_with(warmup_then)) {
    // First what it has of its own: a name alone leads no deeper.
    const LinearWarmupOptions options{.steps = read.count("steps"),
                                      .start_factor = read.number("start_factor")};
    return warmup_course(
        course_of(kind.substr(warmup_then.size()), without_prefix(settings, then_prefix), at), options, at);
  }
  if (kind.starts_with(sequence_begin) && kind.ends_with(sequence_end))
    return sequence_of(kind, settings, at);
  throw Error("Schedule", "expected one of this library's schedules, got '" + kind + "'", at);
}

}  // namespace fusetape::optim
