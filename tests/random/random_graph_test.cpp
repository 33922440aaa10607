// Random programs: whatever is recorded, every mode of the library must come to the same.
//   FUSETAPE_SEEDS=N       so many seeds (default 500), from FUSETAPE_FIRST_SEED (default 1) on
//   FUSETAPE_SEED=N        this seed alone
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "backends.hpp"
#include "helpers.hpp"
#include "tests/random/random_numerics.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::Retention;

namespace {

struct Mode {
  std::string name;
  const char* backend = "cpu";
  bool fusion = true, eager = false, checkpointed = false;
  Retention retention = Retention::fastest;
  int threads = 1;
  bool anomaly = false;
  std::vector<std::string> rules = {"all"};
  ft::ConvAlgorithm conv = ft::ConvAlgorithm::direct;
};

/// A mode of the library for a scope.
class In {
 public:
  explicit In(const Mode& mode)
      : backend_(mode.backend),
        fusion_(mode.fusion),
        eager_(mode.eager),
        anomaly_(mode.anomaly),
        conv_(mode.conv) {
    ft::set_retention(mode.retention);
    ft::set_fusion_rules(mode.rules);
    if (ft::threads() != mode.threads) ft::set_threads(mode.threads);
  }
  ~In() {
    ft::set_retention(retention_);
    ft::set_fusion_rules({"all"});
  }
  In(const In&) = delete;
  In& operator=(const In&) = delete;

 private:
  OnBackend backend_;
  Fusion fusion_;
  Eager eager_;
  ft::DetectAnomaly anomaly_;
  ConvBy conv_;
  Retention retention_ = ft::retention();
};

struct Run {
  Outcome outcome;
  std::string error;  ///< what it threw
};

Run run(const Mode& mode, Recipe recipe) {
  const In scope(mode);
  recipe.checkpointed = mode.checkpointed;
  try {
    return {run_program(recipe), ""};
  } catch (const std::exception& error) {
    return {{}, error.what()};
  }
}

/// How far two tensors are apart, relative to the second (0.1 at least: a gradient that vanishes is a
/// difference of larger numbers): by their largest elements, or by their norms. Elements that are equal
/// count as well, so that runs of which other elements differ are measured by one scale.
double distance(const Numbers& a, const Numbers& b, bool by_norm) {
  if (a.size() != b.size()) return HUGE_VAL;
  double largest = 0.1, apart = 0, squares = 0, squares_apart = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) != std::isnan(b[i])) return HUGE_VAL;
    if (std::isfinite(b[i])) largest = std::max(largest, std::abs(b[i]));
    if (std::isnan(a[i]) || a[i] == b[i]) continue;
    apart = std::max(apart, std::abs(a[i] - b[i]));
    squares_apart += (a[i] - b[i]) * (a[i] - b[i]);
  }
  if (!by_norm) return apart / largest;
  for (const double element : b) squares += element * element;
  return std::sqrt(squares_apart) / std::max(0.1, std::sqrt(squares));
}

/// Of each result.
std::vector<double> distances(const Outcome& a, const Outcome& b, bool by_norm) {
  if (a.names != b.names) return std::vector<double>(a.names.size() + 1, HUGE_VAL);
  std::vector<double> apart;
  for (std::size_t i = 0; i < a.results.size(); ++i)
    apart.push_back(distance(a.results[i], b.results[i], by_norm));
  return apart;
}

struct Difference {
  double most = 0;
  std::string where;
};

/// A mode, the one that it must agree with, and how closely.
struct Comparison {
  Mode mode, expected;
  double tolerance = 0;
  double rounding = 0;  ///< of any op, and of a convolution's largest product; 0: the dtype's, of each number
};

/// Winograd's error, of the largest value.
constexpr double winograd_rounding = 1e-5;

const Mode winograd{.name = "Winograd", .conv = ft::ConvAlgorithm::winograd};
const Mode unfused{.name = "unfused", .fusion = false}, fused{.name = "fused"};

bool in_bf16(ProgramKind kind) { return kind == ProgramKind::mixed || kind == ProgramKind::integers_mixed; }

ProgramKind kind_of(std::uint64_t seed) {
  constexpr ProgramKind kinds[] = {ProgramKind::plain,          ProgramKind::integers, ProgramKind::plain,
                                   ProgramKind::mixed,          ProgramKind::plain,    ProgramKind::plain,
                                   ProgramKind::integers_mixed, ProgramKind::plain};
  return kinds[seed % std::size(kinds)];
}

/// Some rows of the fusion table.
std::vector<std::string> some_rules(std::uint64_t seed) {
  Dice dice(seed, 5, 5);
  const int percent = static_cast<int>(dice.pick({30, 60, 90}));
  std::vector<std::string> names;
  for (const ft::FusionRule& rule : ft::fusion_rules()) {
    if (dice.chance(percent)) names.push_back(rule.name);
  }
  return names.empty() ? std::vector<std::string>{"pointwise"} : names;
}

/// All rows but those that let parts of norms ride in convolutions: which kernel sums a statistic then
/// depends on where a recomputation stands.
std::vector<std::string> norms_apart() {
  std::vector<std::string> names;
  for (const ft::FusionRule& rule : ft::fusion_rules()) {
    if (rule.family != "transform") names.push_back(rule.name);
  }
  return names;
}

/// Those of a backend that is a device.
void add_device(std::vector<Comparison>& all, const char* backend, std::uint64_t seed, double far) {
  const std::string name = backend;
  all.push_back({{.name = name, .backend = backend}, unfused, far});
  all.push_back({{.name = name + ", unfused", .backend = backend, .fusion = false}, unfused, far});
  all.push_back({{.name = name + ", eager", .backend = backend, .eager = true}, unfused, far});
  all.push_back(
      {{.name = name + ", smallest", .backend = backend, .retention = Retention::smallest}, unfused, far});
  all.push_back(
      {{.name = name + ", some rules", .backend = backend, .rules = some_rules(seed)}, unfused, far});
}

/// Why no program can run on a device here; empty where they can.
const std::string& no_device() {
  static const std::string reason = why_no_cuda();
  return reason;
}

/// All modes, of a program whose arithmetic is exact or not. Where it is not, sums are added up in another
/// order, or not rounded in between.
std::vector<Comparison> comparisons(std::uint64_t seed, bool exact) {
  const bool rough = in_bf16(kind_of(seed));
  const double near = exact ? 0 : rough ? 0.06 : 2e-5, far = exact ? 0 : rough ? 0.06 : 1e-3;
  std::vector<Comparison> all = {
      {fused, unfused, near},
      {{.name = "fused again, by plans of the cache"}, fused, 0},
      {{.name = "reference", .backend = "reference"}, unfused, far},
      {{.name = "reference, unfused", .backend = "reference", .fusion = false}, unfused, far},
      {{.name = "eager", .eager = true}, unfused, 0},
      {{.name = "anomaly detection", .anomaly = true}, unfused, 0},
      {{.name = "balanced", .retention = Retention::balanced}, fused, near},
      {{.name = "smallest", .retention = Retention::smallest}, fused, near},
      {{.name = "smallest, norms apart", .retention = Retention::smallest, .rules = norms_apart()},
       {.name = "fused, norms apart", .rules = norms_apart()},
       0},
      {{.name = "some rules", .rules = some_rules(seed)}, unfused, near},
      {{.name = "checkpointed", .checkpointed = true}, unfused, near},
      {{.name = "checkpointed, smallest", .checkpointed = true, .retention = Retention::smallest},
       unfused,
       near},
      {{.name = "checkpointed, unfused", .fusion = false, .checkpointed = true}, unfused, 0},
      {{.name = "checkpointed, eager", .eager = true, .checkpointed = true}, unfused, 0},
  };
  // Its sums are never exact.
  if (!exact) {
    const double wide = rough ? 0.06 : 5e-3;
    all.push_back({winograd, unfused, wide, winograd_rounding});
    all.push_back({{.name = "Winograd, unfused", .fusion = false, .conv = winograd.conv},
                   unfused,
                   wide,
                   winograd_rounding});
    // Where a recomputation stands between, statistics are summed by another kernel.
    all.push_back({{.name = "Winograd, smallest", .retention = Retention::smallest, .conv = winograd.conv},
                   winograd,
                   wide,
                   winograd_rounding});
  }
  // A device that a host plays takes its time.
  if (seed % 5 == 1 && has_cuda_double()) add_device(all, "cuda double", seed, far);
  if (no_device().empty()) add_device(all, "cuda", seed, far);
  // Two threads wait for each other where other programs run: seldom.
  if (seed % 5 == 0) all.push_back({{.name = "two threads", .threads = most_threads}, unfused, near});
  return all;
}

/// The runs of one program: what others are compared to runs once.
class Subject {
 public:
  explicit Subject(Recipe recipe) : recipe_(std::move(recipe)) {}

  const Run& expected(const Mode& mode) {
    const auto [found, is_new] = runs_.try_emplace(mode.name);
    if (is_new) found->second = run(mode, recipe_);
    return found->second;
  }

  /// What is farther apart than the comparison allows, and than the program's own rounding can bring it: a
  /// normalised value may lie on either side of a ReLU's kink, and a penalty on a gradient magnifies.
  std::optional<Difference> disagreement(const Comparison& comparison) {
    const Run& other = expected(comparison.expected);
    const Run got = run(comparison.mode, recipe_);
    if (!got.error.empty() || !other.error.empty()) return Difference{HUGE_VAL, got.error + other.error};
    const std::vector<double> apart = distances(got.outcome, other.outcome, by_norm());
    if (apart.size() != got.outcome.names.size()) return Difference{HUGE_VAL, "other results"};
    Difference worst;
    for (std::size_t i = 0; i < apart.size(); ++i) {
      if (apart[i] <= comparison.tolerance || apart[i] <= worst.most) continue;
      if (comparison.tolerance > 0 && rounding_explains(apart[i], got.outcome.names[i], comparison.rounding))
        continue;
      worst = {apart[i], got.outcome.names[i]};
    }
    if (worst.most == 0) return std::nullopt;
    return worst;
  }

  /// Whether a disagreement was put down to the program's own rounding.
  bool ill_conditioned() const { return ill_conditioned_; }

  /// Whether no number of the program, whoever computes it, has to be rounded.
  bool exact() {
    return recipe_.kind != ProgramKind::plain && recipe_.kind != ProgramKind::mixed && is_exact(recipe_);
  }

 private:
  bool by_norm() const { return in_bf16(recipe_.kind); }

  /// Measured in f64, with what every op reads and writes off by a rounding. The largest of a few random
  /// shifts is what one other run may come to; two runs that are both rounded, sums of many terms, and luck:
  /// four times that.
  bool rounding_explains(double apart, const std::string& result, double given_rounding) {
    constexpr int most_runs = 16;
    const double spacing = in_bf16(recipe_.kind) ? 0x1p-7 : 0x1p-23;
    const double rounding = std::max(spacing, given_rounding);
    const Disturbance disturbance{.relative = rounding, .of_largest = given_rounding};
    Moved& moved = moved_[disturbance];
    if (!undisturbed_) undisturbed_ = run_in_double(recipe_);
    if (undisturbed_->names != expected(unfused).outcome.names) return false;
    while (apart > 4 * moved.by_result[result] && moved.runs < most_runs) {
      const Outcome disturbed = run_in_double(recipe_, disturbance, static_cast<std::uint64_t>(++moved.runs));
      const std::vector<double> apart_now = distances(disturbed, *undisturbed_, by_norm());
      for (std::size_t i = 0; i < apart_now.size(); ++i) {
        double& most = moved.by_result[undisturbed_->names[i]];
        most = std::max(most, apart_now[i]);
      }
    }
    const bool explained = apart <= 4 * moved.by_result[result];
    // Of Winograd's larger one that is expected.
    ill_conditioned_ = ill_conditioned_ || (explained && given_rounding == 0);
    return explained;
  }

  Recipe recipe_;
  std::map<std::string, Run> runs_;
  std::optional<Outcome> undisturbed_;
  struct Moved {
    std::map<std::string, double> by_result;  ///< how far a disturbance brought it in any step
    int runs = 0;
  };
  std::map<Disturbance, Moved> moved_;
  bool ill_conditioned_ = false;
};

/// The recipe without what need not be there to fail.
Recipe smaller(const Comparison& comparison, Recipe recipe, int ops) {
  for (int op = ops - 1; op >= 0; --op) {
    recipe.without.insert(op);
    if (!Subject(recipe).disagreement(comparison)) recipe.without.erase(op);
  }
  return recipe;
}

std::string failure(const Comparison& comparison, const Recipe& recipe) {
  const Run whole = run(comparison.expected, recipe);
  const Recipe least = smaller(comparison, recipe, whole.outcome.ops);
  const Difference apart = Subject(least).disagreement(comparison).value_or(Difference{});
  std::ostringstream text;
  text << "FUSETAPE_SEED=" << recipe.seed << ": " << comparison.mode.name << " is " << apart.most
       << " away from " << comparison.expected.name << " in " << apart.where << ", of\n";
  if (comparison.mode.rules != fused.rules) {
    text << "rules:";
    for (const std::string& rule : comparison.mode.rules) text << " " << rule << ";";
    text << '\n';
  }
  const Outcome expected = run(comparison.expected, least).outcome, got = run(comparison.mode, least).outcome;
  text << expected.listing << "groups of " << comparison.mode.name << " alone:";
  for (const std::string& group : got.groups)
    text << (expected.groups.contains(group) ? "" : " " + group + ";");
  text << "\ngroups of " << comparison.expected.name << " alone:";
  for (const std::string& group : expected.groups)
    text << (got.groups.contains(group) ? "" : " " + group + ";");
  return text.str();
}

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace

TEST_CASE("random programs: how far tensors are apart") {
  struct Row {
    std::string of;
    Numbers a, b;
    double expected;
  };
  const Row rows[] = {
      {"equal ones", {1, -2}, {1, -2}, 0},
      {"relative to the largest", {1.5, 4}, {1, -4}, 2},
      {"which may be an equal one", {1.5, -4}, {1, -4}, 0.125},
      {"small ones", {0.0625, 0}, {0.03125, 0}, 0.3125},
      {"equal infinities give no scale", {HUGE_VAL, 1.5}, {HUGE_VAL, 1}, 0.5},
      {"an infinity", {1, 1}, {HUGE_VAL, 1}, HUGE_VAL},
      {"equal NaNs", {NAN, 1.5}, {NAN, 1}, 0.5},
      {"a NaN", {NAN, 1}, {1, 1}, HUGE_VAL},
      {"other sizes", {1}, {1, 1}, HUGE_VAL},
  };
  for (const Row& row : rows) {
    CAPTURE(row.of);
    CHECK(distance(row.a, row.b, false) == row.expected);
  }
}

TEST_CASE("random programs: every mode agrees") {
  const std::uint64_t only = setting("FUSETAPE_SEED", 0);
  const std::uint64_t first = only != 0 ? only : setting("FUSETAPE_FIRST_SEED", 1);
  const std::uint64_t count = only != 0 ? 1 : setting("FUSETAPE_SEEDS", 500);
  const int threads = ft::threads();
  std::uint64_t of_integers = 0, exact_ones = 0;
  std::vector<std::uint64_t> ill_conditioned;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const Recipe recipe{.seed = seed, .data_seed = seed, .kind = kind_of(seed)};
    Subject subject(recipe);
    const bool exact = subject.exact();
    if (recipe.kind == ProgramKind::integers) ++of_integers, exact_ones += exact;
    if (exact) CHECK(subject.expected(unfused).outcome.results == run_in_double(recipe).results);
    for (const Comparison& comparison : comparisons(seed, exact)) {
      const bool agrees = !subject.disagreement(comparison);
      CHECK_MESSAGE(agrees, failure(comparison, recipe));
    }
    if (subject.ill_conditioned()) ill_conditioned.push_back(seed);
  }
  if (!ill_conditioned.empty()) {
    std::ostringstream text;
    for (const std::uint64_t seed : ill_conditioned) text << ' ' << seed;
    MESSAGE("of " << count
                  << " programs, rounding alone moves so many results further than modes may differ: "
                  << ill_conditioned.size() << ", of seeds" << text.str());
  }
  if (!no_device().empty()) MESSAGE("skipped " << count << " programs on a device: " << no_device());
  CHECK(ill_conditioned.size() <= 2 + count / 200);
  if (of_integers >= 10) CHECK(2 * exact_ones >= of_integers);
  ft::set_threads(threads);
}
