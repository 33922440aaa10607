// What the planner makes of whole networks, line by line: plans/*.txt. FUSETAPE_UPDATE_PLANS=1 writes them
// anew. They are made by the null backend, which runs nothing. A golden says what depends on no machine and
// on no number of threads: how many kernels there are and what each computes, but not what a device calls
// them (names of the CPU's tell its instructions, and null calls all of them null), nor how large scratch is.
#include <doctest/doctest.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "benchmarks/subjects.hpp"
#include "core/numerics/number_text.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;

namespace {

using Lines = std::vector<std::string>;

struct Golden {
  const char* name;
  const char* model;
  DType precision = DType::f32;
  bool evaluate = false;
};
constexpr Golden goldens[] = {
    {"resnet20", "resnet20"},
    {"resnet20_bf16", "resnet20", DType::bf16},
    {"resnet20_evaluation", "resnet20", DType::f32, true},
    {"bottleneck_small", "bottleneck_small"},
    {"mobilenet_v2_small", "mobilenet_v2_small"},
    {"mlp", "mlp"},
    {"gan_discriminator", "gan_discriminator"},
    {"gan_generator", "gan_generator"},
};

ft::Report plan_of(const Golden& golden, const char* backend, std::int64_t batch) {
  const OnBackend on(backend);
  const ConvBy automatic(ft::ConvAlgorithm::automatic);
  benchmarks::SubjectFactory(golden.model, golden.precision, batch, 1, golden.evaluate).make()->step(0);
  return ft::explain();
}

std::string whole(double number) { return ft::core::number_text(number, std::chars_format::fixed, 0); }

std::string line_of(const ft::GroupReport& group) {
  std::string line = group.name + ": passes " + whole(group.tensor_passes);
  if (group.kept_bytes > 0) line += ", keeps " + std::to_string(group.kept_bytes);
  return line;
}

/// Equal kernels one after the other are one line.
Lines lines_of(const ft::Report& report) {
  Lines lines{"kernels " + std::to_string(report.kernels) + ", passes " + whole(report.tensor_passes) +
              ", keeps " + std::to_string(report.kept_bytes)};
  std::string phase;
  for (std::size_t i = 0, next = 0; i < report.groups.size(); i = next) {
    const ft::GroupReport& group = report.groups[i];
    if (group.phase != phase) lines.push_back(phase = group.phase);
    const std::string line = line_of(group);
    while (next < report.groups.size() && report.groups[next].phase == phase &&
           line_of(report.groups[next]) == line)
      ++next;
    lines.push_back("  " + (next - i > 1 ? std::to_string(next - i) + " × " : "") + line);
  }
  return lines;
}

std::filesystem::path folder() { return std::filesystem::path(FUSETAPE_TESTS_DIR) / "plans"; }
std::filesystem::path file_of(const Golden& golden) { return folder() / (std::string(golden.name) + ".txt"); }

Lines read(const std::filesystem::path& path) {
  std::ifstream file(path);
  Lines lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

void write(const std::filesystem::path& path, const Lines& lines) {
  std::ofstream file(path);
  for (const std::string& line : lines) file << line << '\n';
  REQUIRE(file.flush());
}

/// The lines of both, with − before what only `a` has and + before what only `b` has; equal lines are left
/// out. By their longest common subsequence.
std::string difference(const Lines& a, const Lines& b) {
  std::vector<std::vector<int>> common(a.size() + 1, std::vector<int>(b.size() + 1, 0));  // behind i and j
  for (std::size_t i = a.size(); i-- > 0;) {
    for (std::size_t j = b.size(); j-- > 0;) {
      common[i][j] = a[i] == b[j] ? common[i + 1][j + 1] + 1 : std::max(common[i + 1][j], common[i][j + 1]);
    }
  }
  std::ostringstream text;
  std::size_t i = 0, j = 0;
  while (i < a.size() || j < b.size()) {
    if (i < a.size() && j < b.size() && a[i] == b[j]) {
      ++i, ++j;
    } else if (j == b.size() || (i < a.size() && common[i + 1][j] >= common[i][j + 1])) {
      text << "\n- " << a[i++];
    } else {
      text << "\n+ " << b[j++];
    }
  }
  return text.str();
}

std::multiset<std::string> names_of(const ft::Report& report) {
  std::multiset<std::string> names;
  for (const ft::GroupReport& group : report.groups) names.insert(group.phase + " " + group.name);
  return names;
}

}  // namespace

TEST_CASE("the plans of whole networks are those of tests/plans") {
  const bool update = std::getenv("FUSETAPE_UPDATE_PLANS") != nullptr;
  for (const Golden& golden : goldens) {
    const Lines lines = lines_of(plan_of(golden, "null", 128));
    if (update) write(file_of(golden), lines);
    const std::string differs = difference(read(file_of(golden)), lines);
    CHECK_MESSAGE(differs.empty(),
                  golden.name << ".txt (FUSETAPE_UPDATE_PLANS=1 writes it anew):" << differs);
  }
}

TEST_CASE("every file in tests/plans is a golden of the table") {
  std::set<std::string> known;
  for (const Golden& golden : goldens) known.insert(file_of(golden).filename());
  for (const auto& entry : std::filesystem::directory_iterator(folder())) {
    const std::string name = entry.path().filename();
    CHECK_MESSAGE(known.contains(name), name);
  }
}

TEST_CASE("the null backend makes the CPU's groups, norms carried") {
  for (const Golden& golden : goldens) {
    if (golden.precision != DType::f32) continue;  // what oneDNN fuses in bf16 depends on the CPU
    CAPTURE(golden.name);
    CHECK(names_of(plan_of(golden, "null", 2)) == names_of(plan_of(golden, "cpu", 2)));
  }
}
