#include <sstream>

#include "core/plan/report/report_format.hpp"

/// Report::to_dot: for Graphviz.
namespace fusetape {
namespace {

/// As the inside of a quoted string.
std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '\n' || c == '\r') c = ' ';
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

const char* colour_of(const std::string& phase) {
  if (phase == "forward") return "#cfe3f7";
  if (phase == "backward") return "#fbdcc4";
  return "#d5ecd0";
}

}  // namespace

std::string Report::to_dot() const {
  std::ostringstream out = plan::plain_stream();
  out << "digraph plan {\n"
      << "  node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", fontsize=10];\n"
      << "  edge [color=\"#888888\"];\n";
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const GroupReport& group = groups[g];
    out << "  g" << g << " [label=\"" << escaped(plan::short_name(group)) << "\\n";
    if (!group.module_path.empty()) out << escaped(group.module_path) << "\\n";
    out << escaped(group.kernel) << "\\n"
        << plan::fixed(group.tensor_passes, 0) << " passes, " << plan::megabytes(group.bytes)
        << "\", tooltip=\"" << escaped(group.source) << "\", fillcolor=\"" << colour_of(group.phase)
        << "\"];\n";
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (int from : groups[g].reads_from) out << "  g" << from << " -> g" << g << ";\n";
  }
  out << "}\n";
  return out.str();
}

}  // namespace fusetape
