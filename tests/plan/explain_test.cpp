// explain(): what a report says of a plan, in each of its forms.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Tensor;
using fusetape::tests::contains;
using fusetape::tests::ConvBy;
using fusetape::tests::Fusion;
using fusetape::tests::message_of;
using fusetape::tests::OnBackend;

namespace {

constexpr std::int64_t batch = 2, size = 8, channels = 4;
constexpr ft::Conv2dOptions same{.padding = {1, 1}};

Tensor image() { return ft::variable(ft::ones({batch, size, size, channels})); }
Tensor channel_values(double value) { return ft::variable(ft::full({channels}, value)); }
Tensor filters() { return ft::variable(ft::full({channels, 3, 3, channels}, 0.1)); }

/// The report of one training step of ResNet-20 on the null backend.
ft::Report plan_resnet_step() {
  const OnBackend backend("null");
  auto model = ft::nn::resnet20({.classes = 10});
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9});
  const Tensor labels = ft::from_vector(std::vector<std::int64_t>{1, 2}, {2});
  const Tensor loss = ft::cross_entropy(model(ft::ones({2, 32, 32, 3})), labels);
  sgd.zero_grad();
  loss.backward();
  sgd.step();
  return ft::explain();
}

const ft::Report& resnet_step() {
  static const ft::Report report = plan_resnet_step();
  return report;
}

/// A report with names that every format has to escape.
ft::Report hostile_report() {
  const std::string name = "a<b> & \"c\" \\ 'd'\n\xff";
  ft::Report report;
  report.backend = name;
  report.groups.push_back({.name = name,
                           .rule = name,
                           .kernel = name,
                           .why = name,
                           .module_path = name,
                           .source = name,
                           .phase = "forward",
                           .bytes = 10,
                           .unfused_bytes = 20});
  report.groups.push_back(report.groups[0]);
  report.groups[1].reads_from = {0};
  report.refusals.push_back({name, name, name, name, name, name, name});
  report.ops.push_back({name, name, name, "forward", {0, 1}, 24, false});
  report.kept.push_back({.op = name, .module_path = name, .source = name, .shape = {2, 3}, .bytes = 24});
  report.arena.push_back({.bytes = 64, .op = name, .module_path = name});
  report.arena_bytes = 64;
  return report;
}

/// What is wrong with the page's tags; empty: nothing.
std::string html_fault(const std::string& html) {
  constexpr std::array<const char*, 2> without_end{"meta", "br"};
  std::vector<std::string> open;
  for (std::size_t i = html.find("<html"); i < html.size(); ++i) {
    if (html[i] == '>') return "a stray > at " + std::to_string(i);
    if (html[i] != '<') continue;
    std::size_t end = i + 1;
    for (bool quoted = false; end < html.size() && (quoted || html[end] != '>'); ++end) {
      if (html[end] == '"') quoted = !quoted;
      if (html[end] == '<') return "< inside a tag at " + std::to_string(end);
    }
    const std::string tag = html.substr(i + 1, end - i - 1);
    i = end;
    const std::string name = tag.substr(0, tag.find(' '));
    if (name.starts_with('/')) {
      if (open.empty() || open.back() != name.substr(1)) return "unexpected <" + name + ">";
      open.pop_back();
    } else if (std::find(without_end.begin(), without_end.end(), name) == without_end.end()) {
      if (name.empty() || std::isalpha(static_cast<unsigned char>(name[0])) == 0) return "no tag: " + tag;
      open.push_back(name);
    }
  }
  return open.empty() ? "" : "<" + open.back() + "> stays open";
}

/// What is wrong with the graph's quotes, braces and edges; empty: nothing.
std::string dot_fault(const std::string& dot, std::size_t groups) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < dot.size(); ++i) {
    if (quoted && dot[i] == '\\') {
      ++i;
    } else if (dot[i] == '"') {
      quoted = !quoted;
    } else if (quoted && dot[i] == '\n') {
      return "a line ends inside quotes";
    } else if (!quoted && (dot[i] == '{' || dot[i] == '}')) {
      depth += dot[i] == '{' ? 1 : -1;
    }
  }
  if (quoted || depth != 0) return "quotes or braces do not match";
  for (std::size_t g = 0; g < groups; ++g) {
    if (!contains(dot, "\n  g" + std::to_string(g) + " [label=")) return "no node " + std::to_string(g);
  }
  return "";
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// What a process with FUSETAPE_EXPLAIN=`value` says on stderr of two runs of one plan.
std::string stderr_of_child(const std::string& value) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::setenv("FUSETAPE_EXPLAIN", value.c_str(), 1);
    ft::set_backend("null");
    ft::clear_plan_cache();
    for (int run = 0; run < 2; ++run) ft::materialize({ft::exp(ft::ones({3}))});
    std::fflush(stderr);
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string text;
  std::array<char, 4096> part;
  for (ssize_t n = 0; (n = ::read(ends[0], part.data(), part.size())) > 0;)
    text.append(part.data(), static_cast<std::size_t>(n));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  REQUIRE(status == 0);
  return text;
}

int occurrences(const std::string& text, const std::string& part) {
  int n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

}  // namespace

TEST_CASE("the JSON says what the report says, and its sums agree with the totals") {
  const ft::Report& report = resnet_step();
  const nlohmann::json json = nlohmann::json::parse(report.to_json());
  const auto total = [&](const char* list, const char* field) {
    double sum = 0;
    for (const nlohmann::json& item : json.at(list)) sum += item.at(field).get<double>();
    return sum;
  };
  for (const char* field : {"tensor_passes", "unfused_passes", "bytes", "unfused_bytes", "kept_bytes"}) {
    CAPTURE(field);
    CHECK(total("groups", field) == json.at(field).get<double>());
    CHECK(json.at(field).get<double>() > 0);
  }
  CHECK(total("kept", "bytes") == json.at("kept_bytes").get<double>());
  CHECK(json.at("kernels") == json.at("groups").size());
  CHECK(json.at("groups").size() == report.groups.size());
  CHECK(json.at("kept")[0].at("shape").get<std::vector<std::int64_t>>().size() == 4);
  CHECK(json.at("retention") == "fastest");
  CHECK(json.at("cache_misses").get<int>() > 0);
}

TEST_CASE("what fusion saves: op by op costs what a plan without fusion does") {
  const OnBackend backend("null");
  const auto step = [] {
    const Tensor x = image(), w = filters(), gamma = channel_values(1), beta = channel_values(0);
    const Tensor y = ft::relu(ft::batch_norm(ft::conv2d(x, w, same), gamma, beta) + x);
    const std::vector<Tensor> gradients = ft::grad({y}, {x, w, gamma, beta}, {ft::ones(y.shape())});
    ft::materialize();
    return ft::explain();
  };
  const ft::Report fused = step();
  const Fusion off(false);
  const ft::Report unfused = step();
  CHECK(fused.tensor_passes < unfused.tensor_passes);
  CHECK(fused.unfused_passes == unfused.tensor_passes);
  CHECK(fused.unfused_bytes == unfused.bytes);
  CHECK(fused.unfused_kept_bytes == unfused.kept_bytes);
  CHECK(unfused.unfused_passes == unfused.tensor_passes);
  for (const ft::GroupReport& group : unfused.groups) CHECK(group.rule.empty());
  // bn+add+relu, as on the design page: 8 passes of 256 floats each, and 4 when fused.
  const auto& forward = *std::find_if(fused.groups.begin(), fused.groups.end(),
                                      [](const auto& g) { return g.name == "batch_norm+add+relu"; });
  CHECK(forward.rule == "batch_norm+add+relu");
  CHECK(forward.unfused_passes == 8);
  CHECK(forward.tensor_passes == 4);
  const std::int64_t tensor = 4 * batch * size * size * channels;
  CHECK(forward.bytes > 4 * tensor);
  CHECK(forward.bytes < 4 * tensor + 300);  // beside vectors of one number a channel
  CHECK(forward.reads_from == std::vector<int>{0});
}

TEST_CASE("masks and recomputations are no part of what a step costs unfused") {
  const ft::Report unfused = [] {
    const Fusion off(false);
    return plan_resnet_step();
  }();
  for (const ft::Retention retention : {ft::Retention::fastest, ft::Retention::smallest}) {
    ft::set_retention(retention);
    const ft::Report report = plan_resnet_step();
    ft::set_retention(ft::Retention::fastest);
    CAPTURE(report.retention);
    CHECK(report.kept_bytes < unfused.kept_bytes);
    CHECK(report.unfused_kept_bytes == unfused.kept_bytes);
    CHECK(report.unfused_passes == unfused.tensor_passes);
    CHECK(report.unfused_bytes == unfused.bytes);
    CHECK(report.bytes < unfused.bytes);
  }
}

TEST_CASE("every recorded op is in the kernels that compute it, wherever its parts ride") {
  const ConvBy algorithm(ft::ConvAlgorithm::automatic);
  const ft::Report report = plan_resnet_step();
  const auto find = [&](std::string_view op, std::string_view module) -> const ft::OpReport& {
    const auto found = std::find_if(report.ops.begin(), report.ops.end(), [&](const ft::OpReport& other) {
      return other.op == op && other.module_path == module;
    });
    REQUIRE(found != report.ops.end());
    return *found;
  };
  const auto name_of = [&](int kernel) { return report.groups[static_cast<std::size_t>(kernel)].name; };
  // Its statistics are made behind one convolution, the norm itself before the next one.
  const ft::OpReport& norm = find("batch_norm", "stages.0.0.bn2");
  REQUIRE(norm.kernels.size() >= 2);
  CHECK(contains(name_of(norm.kernels[0]), "conv2d+batch_norm_statistics"));
  CHECK(contains(name_of(norm.kernels[1]), "batch_norm_apply+add+relu+conv2d"));
  CHECK_FALSE(norm.written);
  CHECK(norm.phase == "forward");
  CHECK(norm.bytes == 2 * 32 * 32 * 16 * 4);
  CHECK(find("add", "stages.0.0").kernels == std::vector<int>{norm.kernels[1]});
  CHECK_FALSE(find("add", "stages.0.0").written);
  CHECK(find("conv2d", "stages.0.0.conv1").written);
  REQUIRE(find("conv2d", "conv1").kernels.size() == 1);
  CHECK(name_of(find("conv2d", "conv1").kernels[0]) == "conv2d");
  int ops = 0;
  for (const ft::OpReport& op : report.ops)
    ops += op.op == "batch_norm" || op.op == "batch_norm_grad" ? 1 : 0;
  CHECK(ops == 2 * 21);
  CHECK(contains(report.to_string(), "  never written: batch_norm 21 of 21, "));
  CHECK(contains(report.to_html(), "Never written: batch_norm 21 of 21, "));
  const auto json = nlohmann::json::parse(report.to_json());
  CHECK(json["ops"].size() == report.ops.size());
  CHECK(json["ops"][0]["op"] == report.ops[0].op);
  CHECK(json["ops"][0]["kernels"] == report.ops[0].kernels);
}

TEST_CASE("kept for backward, op by op") {
  const ft::Report& report = resnet_step();
  std::int64_t bytes = 0;
  for (const ft::KeptReport& kept : report.kept) {
    CHECK(kept.bytes == kept.shape.elements() * static_cast<std::int64_t>(ft::size_of(kept.dtype)));
    CHECK(!kept.op.empty());
    bytes += kept.bytes;
  }
  CHECK(bytes == report.kept_bytes);
  CHECK(report.unfused_kept_bytes >= report.kept_bytes);
  CHECK(std::any_of(report.kept.begin(), report.kept.end(), [](const ft::KeptReport& kept) {
    return kept.op == "conv2d" && kept.module_path == "stages.0.0.conv1" &&
           kept.shape == ft::Shape{2, 32, 32, 16};
  }));
}

TEST_CASE(
    "the arena's blocks never overlap in time and place, and no packing could be smaller than the bound") {
  const ft::Report& report = resnet_step();
  REQUIRE(report.arena.size() > 20);
  for (std::size_t i = 0; i < report.arena.size(); ++i) {
    const ft::ArenaBlockReport& a = report.arena[i];
    CHECK(a.first_step <= a.last_step);
    CHECK(a.last_step < report.kernels);
    CHECK(a.offset + a.bytes <= report.arena_bytes - report.scratch_bytes);
    CHECK(!a.op.empty());
    for (std::size_t j = 0; j < i; ++j) {
      const ft::ArenaBlockReport& b = report.arena[j];
      const bool same_time = a.first_step <= b.last_step && b.first_step <= a.last_step;
      const bool same_place = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
      CHECK(!(same_time && same_place));
    }
  }
  CHECK(report.arena_lower_bound > 0);
  CHECK(report.arena_lower_bound <= report.arena_bytes - report.scratch_bytes);
  std::int64_t fullest = 0;
  for (int step = 0; step < report.kernels; ++step) {
    std::int64_t live = 0;
    for (const ft::ArenaBlockReport& block : report.arena)
      live += block.first_step <= step && step <= block.last_step ? block.bytes : 0;
    fullest = std::max(fullest, live);
  }
  CHECK(report.arena_lower_bound == fullest);
}

TEST_CASE("every form is well-formed, whatever the names") {
  CHECK(html_fault("<html><p title=\"a>b\">x</p></html>").empty());
  CHECK(!html_fault("<html><p>x</html>").empty());
  for (const ft::Report& report : {resnet_step(), hostile_report(), ft::Report()}) {
    CHECK(html_fault(report.to_html()) == "");
    CHECK(dot_fault(report.to_dot(), report.groups.size()) == "");
    CHECK(nlohmann::json::accept(report.to_json()));
  }
  const std::string html = hostile_report().to_html();
  CHECK(contains(html, "a&lt;b&gt; &amp; &quot;c&quot;"));
  CHECK(!contains(html, "a<b>"));
  for (const char* outside : {"http:", "https:", "src=", "href=", "<script", "@import", "url("})
    CHECK(!contains(resnet_step().to_html(), outside));
  CHECK(contains(hostile_report().to_dot(), "a<b> & \\\"c\\\" \\\\ 'd' "));
  CHECK(contains(resnet_step().to_dot(), "  g0 -> g1;"));
}

TEST_CASE("near misses: a live handle, another reader, a broadcast; with both lines, and no noise") {
  const OnBackend backend("null");
  const Tensor x = image(), w = filters(), gamma = channel_values(1), beta = channel_values(0);
  struct Case {
    std::string what;
    const char* rule;
    const char* reason;
    std::function<std::vector<Tensor>()> record;  ///< what stays alive
  };
  const Case cases[] = {
      {"conv2d kept", "conv2d+bias", "kept by a live handle",
       [&] {
         const Tensor y = ft::conv2d(x, w, same);
         return std::vector<Tensor>{y, ft::bias_add(y, beta)};
       }},
      {"conv2d read twice", "conv2d+bias", "another reader",
       [&] {
         const Tensor y = ft::conv2d(x, w, same);
         return std::vector<Tensor>{ft::bias_add(y, beta), ft::sum(y)};
       }},
      {"matmul read twice", "matmul+bias", "another reader: bias_add, sum read it",
       [&] {
         const Tensor a = ft::ones({2, 3}), y = ft::matmul(a, ft::ones({3, 2}));
         return std::vector<Tensor>{ft::bias_add(y, ft::ones({2})), ft::sum(y)};
       }},
      {"a ReLU read beside its pooling", "batch_norm+relu+max_pool2d", "relu has another reader",
       [&] {
         const Tensor y = ft::relu(ft::batch_norm(x, gamma, beta));
         return std::vector<Tensor>{ft::max_pool2d(y), ft::sum(y)};
       }},
      {"the sum of a fork's gradients kept", "relu_grad+batch_norm_grad, mask from x",
       "fused without the sum of its two gradients: the output of add is kept by a live handle",
       [&] {
         const Tensor trunk = ft::relu(ft::batch_norm(x, gamma, beta));
         const Tensor y = ft::exp(ft::conv2d(trunk, w, same)) * trunk;
         return ft::grad({y}, {trunk, x}, {ft::ones(y.shape())});
       }},
      {"a broadcast summand", "batch_norm+add+relu", "broadcast",
       [&] { return std::vector<Tensor>{ft::relu(ft::batch_norm(x, gamma, beta) + beta)}; }},
      {"a broadcast summand without ReLU", "batch_norm+add", "broadcast",
       [&] { return std::vector<Tensor>{ft::batch_norm(x, gamma, beta) + beta}; }},
  };
  for (const Case& c : cases) {
    CAPTURE(c.what);
    const std::vector<Tensor> alive = c.record();
    ft::materialize();
    const std::vector<ft::RefusalReport>& refusals = ft::explain().refusals;
    REQUIRE(refusals.size() == 1);
    CHECK(refusals[0].rule == c.rule);
    CHECK(contains(refusals[0].reason, c.reason));
    CHECK(refusals[0].source.starts_with("explain_test.cpp:"));
    CHECK(contains(ft::explain().to_string(), std::string("not fused: ") + c.rule + " at explain_test.cpp:"));
  }
  // Right ops around the anchor, but no pattern of the table.
  const Tensor sum = x + image(), product = ft::matmul(ft::ones({2, 3}), ft::ones({3, 2}));
  const Tensor others[] = {ft::relu(sum), ft::relu(ft::bias_add(sum, beta)), product};
  ft::materialize();
  CHECK(ft::explain().refusals.empty());
}

TEST_CASE("a near miss names the value in the way, by line and module") {
  const OnBackend backend("null");
  struct Net : ft::nn::Module {
    ft::nn::Conv2d conv{{.in = channels, .out = channels, .kernel = 3, .padding = 1, .bias = false}};
    Net() { register_child("conv", conv); }
  } net;
  const Tensor y = net.conv(image());
  const Tensor z = ft::bias_add(y, channel_values(1));
  ft::materialize();
  REQUIRE(ft::explain().refusals.size() == 1);
  const ft::RefusalReport& refusal = ft::explain().refusals[0];
  CHECK(refusal.value_module_path == "conv");
  CHECK(refusal.value_source.starts_with("explain_test.cpp:"));
  CHECK(refusal.value_source != refusal.source);
  CHECK(contains(ft::explain().to_string(), "(" + refusal.value_source + ", conv)"));
}

TEST_CASE("equal near misses are counted, and one that a later rule made good is none") {
  const OnBackend backend("null");
  const Tensor x = image(), w = filters(), beta = channel_values(0);
  std::vector<Tensor> alive;
  for (int i = 0; i < 3; ++i) {
    alive.push_back(ft::conv2d(image(), ft::variable(ft::ones(w.shape())), same));
    alive.push_back(ft::bias_add(alive.back(), beta));
  }
  ft::materialize();
  CHECK(ft::explain().refusals.size() == 3);
  const std::string text = ft::explain().to_string();
  CHECK(occurrences(text, "not fused: conv2d+bias") == 1);
  CHECK(contains(text, ", 3 times"));

  // On the reference, "mask from x" is refused and "mask from y" takes the same nodes.
  const OnBackend reference("reference");
  const Tensor gamma = channel_values(1);
  const Tensor y = ft::relu(ft::batch_norm(x, gamma, beta));
  const std::vector<Tensor> gradients = ft::grad({y}, {x, gamma}, {ft::ones(y.shape())});
  ft::materialize();
  CHECK_NOTHROW(ft::explain().require_fused("relu_grad+batch_norm_grad"));
  CHECK(ft::explain().refusals.empty());
}

TEST_CASE("require_fused: a plan as an expectation") {
  const OnBackend backend("null");
  const Tensor x = image(), w = filters(), beta = channel_values(0);
  const Tensor fused = ft::bias_add(ft::conv2d(x, w, same), beta);
  const Tensor conv = ft::conv2d(fused, w, same), kept = ft::bias_add(conv, beta);
  ft::materialize();
  const ft::Report report = ft::explain();
  CHECK_NOTHROW(report.require_fused("conv2d+bias", 1));
  CHECK_NOTHROW(report.require_fused("conv2d+bias"));

  const std::string near = message_of([&] { report.require_fused("conv2d+bias", 2); });
  CHECK(contains(near, "[require_fused] expected at least 2 × conv2d+bias, got 1"));
  CHECK(contains(near, "not fused: conv2d+bias at explain_test.cpp:"));
  CHECK(contains(near, "the output of conv2d is kept by a live handle (explain_test.cpp:"));

  const std::string far = message_of([&] { report.require_fused("adam_update", 1); });
  CHECK(contains(far, "nothing came near"));
  CHECK(contains(far, "1 × conv2d+bias"));
  CHECK(contains(message_of([&] { report.require_fused("conv2d"); }), "got 0"));  // it runs, alone
}

TEST_CASE("a long chain is named by its first ops") {
  const OnBackend backend("null");
  Tensor y = ft::ones({4});
  for (int i = 0; i < 20; ++i) y = ft::exp(y);
  ft::materialize({y});
  REQUIRE(ft::explain().kernels == 1);
  CHECK(contains(ft::explain().to_string(), "exp+exp+... (20 ops)  "));
  CHECK(ft::explain().groups[0].name.size() == 20 * 4 - 1);
}

TEST_CASE("FUSETAPE_EXPLAIN tells each new plan once, and never fails a run") {
  const std::string printed = stderr_of_child("1");
  CHECK(occurrences(printed, "plan on null") == 1);
  CHECK(contains(printed, "exp"));
  CHECK(stderr_of_child("0").empty());
  CHECK(contains(stderr_of_child("plan.pdf"), "expected 1 or a path that ends in"));

  const auto folder =
      std::filesystem::temp_directory_path() / ("fusetape_explain_" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  for (const char* file : {"plan.html", "plan.json", "plan.dot", "plan.txt"}) {
    CAPTURE(std::string(file));
    CHECK(stderr_of_child((folder / file).string()).empty());
    CHECK(contains(text_of(folder / file), "exp"));
  }
  CHECK(contains(stderr_of_child((folder / "none" / "plan.html").string()), "cannot write"));
  std::filesystem::remove_all(folder);
}
