// Plans and runs one training step, or an evaluation, and tells what became of it: kernels with their passes
// and bytes, what is kept for backward, the arena, and what nearly fused.
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <iostream>
#include <map>
#include <string>

#include "benchmarks/subjects.hpp"
#include "command_line.hpp"
#include "files.hpp"

namespace ft = fusetape;

namespace {

struct Options {
  std::string model = "resnet20";
  std::int64_t batch = 128;
  std::string precision = "f32";
  ft::Retention retention = ft::Retention::fastest;
  std::string backend = "cpu";
  int threads = 0;  // 0: all cores
  bool evaluate = false, ops = false;
  std::string json, dot, html;
};

/// Every op of the model, and which kernels compute it.
void print_ops(const ft::Report& report) {
  for (const ft::OpReport& op : report.ops) {
    std::cout << "  " << op.phase << "  " << op.op << "  " << op.module_path << "  " << op.source << "  in";
    for (const int kernel : op.kernels)
      std::cout << "  " << kernel << ": " << report.groups[static_cast<std::size_t>(kernel)].kernel;
    std::cout << (op.written ? "\n" : "  never written\n");
  }
}

void explain(const Options& options) {
  for (const std::string& path : {options.json, options.dot, options.html}) {
    if (!path.empty()) examples::require_writable(path);
  }
  ft::set_backend(options.backend);
  ft::set_retention(options.retention);
  if (options.threads > 0) ft::set_threads(options.threads);
  benchmarks::SubjectFactory(options.model, examples::dtype_of(options.precision), options.batch, 1,
                             options.evaluate)
      .make()
      ->step(0);

  const ft::Report& report = ft::explain();
  std::cout << report;
  if (options.ops) print_ops(report);
  if (!options.json.empty()) ft::io::replace_file(options.json, report.to_json());
  if (!options.dot.empty()) ft::io::replace_file(options.dot, report.to_dot());
  if (!options.html.empty()) ft::io::replace_file(options.html, report.to_html());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  const std::map<std::string, ft::Retention> retentions{{"fastest", ft::Retention::fastest},
                                                        {"balanced", ft::Retention::balanced},
                                                        {"smallest", ft::Retention::smallest}};
  CLI::App app("Shows the plan of one training step.", "explain_plan");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.add_option("--model", options.model, "What to train")
      ->check(CLI::IsMember(benchmarks::subject_names))
      ->capture_default_str();
  app.add_option("--batch", options.batch, "Images in a batch")
      ->check(CLI::Range(1, 65'536))
      ->capture_default_str();
  examples::add_precision(app, options.precision);
  app.add_option("--retention", options.retention,
                 "How backward gets forward's values: fastest (the default), balanced or smallest")
      ->transform(CLI::CheckedTransformer(retentions).description(""));
  app.add_option("--backend", options.backend, "cpu, or null: plan and run nothing")
      ->check(CLI::IsMember({"cpu", "null"}))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; all cores if not given")
      ->check(CLI::Range(1, 1'024));
  app.add_flag("--evaluate", options.evaluate, "Forward only, in evaluation mode (batch norms fold)");
  app.add_flag("--ops", options.ops, "Print for each op which kernels compute it, and whether it is written");
  app.add_option("--json", options.json, "Write the report to this file as JSON");
  app.add_option("--dot", options.dot, "Write the graph of kernels to this file for Graphviz");
  app.add_option("--html", options.html, "Write the report to this file as a page");
  return examples::run(app, argc, argv, [&] { explain(options); });
}
