#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/check.hpp"
#include "core/plan/passes/passes.hpp"
#include "fusetape/error.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape::plan {
namespace {

constexpr std::string_view optional_passes[] = {"merge equal nodes", "drop dead nodes",  "tune",
                                                "carry norms",       "decide retention", "fuse",
                                                "share in place"};

std::vector<std::string_view> skipped_by_environment() {
  const char* const set = std::getenv("FUSETAPE_SKIP_PASSES");
  std::vector<std::string_view> passes;
  for (std::string_view rest = set != nullptr ? set : ""; !rest.empty();) {
    const std::string_view pass = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), pass.size() + 1));
    if (std::find(std::begin(optional_passes), std::end(optional_passes), pass) ==
        std::end(optional_passes)) {
      std::string known;
      for (const std::string_view name : optional_passes)
        known += (known.empty() ? "" : ", ") + std::string(name);
      throw Error("FUSETAPE_SKIP_PASSES",
                  "expected passes among " + known + ", with commas, got '" + std::string(pass) + "'");
    }
    passes.push_back(pass);
  }
  return passes;
}

/// FUSETAPE_SKIP_PASSES="fuse,share in place" leaves optional passes out, to find the one at fault.
bool skipped(std::string_view pass) {
  static const std::vector<std::string_view> passes = skipped_by_environment();
  return std::find(passes.begin(), passes.end(), pass) != passes.end();
}

const char* name_of(Retention retention) {
  switch (retention) {
    case Retention::fastest:
      return "fastest";
    case Retention::balanced:
      return "balanced";
    case Retention::smallest:
      return "smallest";
  }
  return "?";
}

/// Every node reads what an earlier, living node wrote.
[[maybe_unused]] void check_graph(const Graph& graph) {
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    if (graph.nodes[n].dead) continue;
    for (int input : graph.nodes[n].inputs) {
      const int producer = graph.value(input).producer;
      FUSETAPE_ASSERT(producer < static_cast<int>(n));
      FUSETAPE_ASSERT(producer < 0 || !graph.node(producer).dead);
    }
  }
}

/// Runs a pass and notes its time under its name; debug builds check the graph after it.
class Passes {
 public:
  explicit Passes(Plan& plan) : plan_(plan) {}

  template <class Pass>
  void run(const char* name, Pass&& pass) {
    const auto start = std::chrono::steady_clock::now();
    pass();
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
    plan_.report->pass_ms.emplace_back(name, spent.count());
    plan_.report->planning_ms += spent.count();
#ifdef FUSETAPE_DEBUG_CHECKS
    check_graph(plan_.graph);
#endif
  }
  template <class Pass>
  void run_optional(const char* name, Pass&& pass) {
    if (!skipped(name)) run(name, pass);
  }

 private:
  Plan& plan_;
};

/// One kernel per group, in order; scratch and rooms are shared, as one kernel runs at a time.
void choose_kernels(Plan& plan, Backend& backend, int threads) {
  std::size_t room_bytes = 0;
  for (std::size_t i = 0; i < plan.groups.size(); ++i) {
    const Group& group = plan.groups[i];
    Step step;
    step.kernel = backend.compile(plan.graph, group);
    step.group = static_cast<int>(i);
    step.node = group.nodes.back();
    // In whole lines: on a device the run's scalars follow.
    plan.scratch_bytes = std::max(plan.scratch_bytes, (step.kernel->scratch_bytes() + 63) / 64 * 64);
    room_bytes = std::max(room_bytes, step.kernel->room_bytes());
    plan.steps.push_back(std::move(step));
  }
  if (room_bytes == 0) return;
  plan.room_stride = Rooms::stride_of(room_bytes);
  plan.rooms_at = plan.scratch_bytes + Rooms::apart;
  const int rooms = std::max(threads, backend.threads_of_kernels());
  plan.scratch_bytes = plan.rooms_at + static_cast<std::size_t>(rooms) * plan.room_stride;
}

/// What stands around the steps of a device's run.
void complete_run(Plan& plan, Backend& backend) {
  std::vector<Kernel*> kernels;
  kernels.reserve(plan.steps.size() + 1);
  for (const Step& step : plan.steps) kernels.push_back(step.kernel.get());
  if (!plan.commits.empty()) {
    plan.commit = backend.compile_commits(plan.graph, plan.commits);
    kernels.push_back(plan.commit.get());
  }
  plan.replay = backend.make_replay(kernels, plan.graph.values.size());
}

std::shared_ptr<Report> begin_report(const Options& options) {
  auto report = std::make_shared<Report>();
  report->backend = options.backend->name();
  report->fusion = (options.rules & ~in_place_only()) != 0;
  report->retention = name_of(options.retention);
  report->deterministic = options.deterministic;
  report->threads = options.threads;
  report->versions = versions();
  report->instructions = options.backend->instructions();
  return report;
}

void carry_and_fuse(Plan& plan, const Options& options, Passes& passes) {
  if (has_rule(options.rules, "carry"))
    passes.run_optional("carry norms", [&] { carry_norms(plan.graph, options); });
  passes.run_optional("decide retention", [&] { decide_retention(plan.graph, options); });
  passes.run("fuse", [&] {
    plan.report->refusals.clear();
    plan.groups = fuse(plan.graph, *options.backend, options.rules, plan.report->refusals);
    leave_unread_unwritten(plan.graph, plan.groups);
  });
}

/// Once, and again where convolutions turn out to be faster without the norms that they were given.
void form_groups(Plan& plan, const Options& options, Passes& passes) {
  const bool may_change = options.tuning && has_rule(options.rules, "carry");
  Graph before = may_change ? plan.graph : Graph();
  carry_and_fuse(plan, options, passes);
  if (!may_change) return;
  Backend::Apart apart;
  passes.run_optional("tune", [&] {
    apart = options.backend->tune_carried(plan.graph, plan.groups, *options.taken);
    plan.report->tuning += apart.told;
  });
  if (apart.convolutions.empty()) return;
  plan.graph = std::move(before);
  for (GraphNode& node : plan.graph.nodes)
    node.apart = std::binary_search(apart.convolutions.begin(), apart.convolutions.end(), node.recorded);
  carry_and_fuse(plan, options, passes);
}

}  // namespace

std::unique_ptr<Plan> make_plan(Graph graph, const Options& options) {
  auto plan = std::make_unique<Plan>();
  plan->graph = std::move(graph);
  plan->report = begin_report(options);

  Options chosen = options;
  if (skipped("fuse")) chosen.rules &= in_place_only();
  Passes passes(*plan);
  passes.run_optional("merge equal nodes", [&] { merge_equal_nodes(plan->graph); });
  passes.run_optional("drop dead nodes", [&] { drop_dead_nodes(plan->graph); });
  passes.run("find consumers", [&] { find_consumers(plan->graph); });
  plan->report->unfused_kept_bytes = kept_unfused(plan->graph);  // before a pass decides what to recompute
  if (options.tuning) {
    passes.run_optional("tune",
                        [&] { plan->report->tuning = options.backend->tune(plan->graph, *options.taken); });
  }
  form_groups(*plan, chosen, passes);
  passes.run("schedule", [&] { schedule(plan->graph, plan->groups); });
  passes.run("choose kernels", [&] { choose_kernels(*plan, *options.backend, options.threads); });
  passes.run("place memory", [&] {
    place_memory(*plan, has_rule(chosen.rules, "share in place") && !skipped("share in place"),
                 !options.backend->on_host());
  });
  complete_run(*plan, *options.backend);
  passes.run("describe", [&] { describe(*plan); });
  passes.run("verify", [&] { verify(*plan); });
  return plan;
}

}  // namespace fusetape::plan
