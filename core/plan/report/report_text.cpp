#include <algorithm>
#include <array>
#include <ostream>
#include <sstream>

#include "core/plan/report/report_format.hpp"

/// Report::to_string: for a terminal.
namespace fusetape {
namespace {

using plan::counted;
using plan::fixed;
using plan::megabytes;

constexpr std::size_t columns = 9;
using Row = std::array<std::string, columns>;

Row row_of(const GroupReport& group) {
  std::string place = group.module_path;
  if (!place.empty()) place += "  ";
  place += group.source;
  if (!group.why.empty()) place += "  (" + group.why + ")";
  return {group.phase,
          plan::short_name(group),
          group.kernel,
          fixed(group.tensor_passes, 0),
          fixed(group.unfused_passes, 0),
          megabytes(group.bytes),
          megabytes(group.unfused_bytes),
          group.kept_bytes > 0 ? megabytes(group.kept_bytes) : "",
          (group.milliseconds > 0 ? fixed(group.milliseconds, 3) + " ms" + "  " : "") + place};
}

/// Words to the left, figures to the right, the last column as long as it likes.
void print_table(std::ostream& out, const std::vector<Row>& rows) {
  constexpr std::size_t first_figure = 3;
  std::array<std::size_t, columns> width{};
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < columns; ++c) width[c] = std::max(width[c], row[c].size());
  }
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < columns; ++c) {
      const std::string padding(c + 1 < columns ? width[c] - row[c].size() : 0, ' ');
      out << "  " << (c < first_figure || c + 1 == columns ? row[c] + padding : padding + row[c]);
    }
    out << '\n';
  }
}

void print_totals(std::ostream& out, const Report& report) {
  out << "plan on " << report.backend << ", fusion " << (report.fusion ? "on" : "off") << ": "
      << report.kernels << " kernels, " << fixed(report.tensor_passes, 0) << " tensor passes, kept "
      << megabytes(report.kept_bytes) << ", peak " << megabytes(report.peak_bytes) << '\n'
      << "  unfused: " << fixed(report.unfused_passes, 0) << " tensor passes, "
      << megabytes(report.unfused_bytes) << " moved (here " << megabytes(report.bytes) << "), kept "
      << megabytes(report.unfused_kept_bytes) << '\n'
      << "  arena: " << megabytes(report.arena_bytes - report.scratch_bytes) << " (at least "
      << megabytes(report.arena_lower_bound) << " live at once) and " << megabytes(report.scratch_bytes)
      << " of scratch\n"
      << "  settings: retention " << report.retention << ", deterministic "
      << (report.deterministic ? "on" : "off") << ", "
      << counted(static_cast<std::size_t>(report.threads), "thread") << "; planned in "
      << fixed(report.planning_ms, 2) + " ms"
      << "; plan cache: " << counted(static_cast<std::size_t>(report.cache_hits), "hit") << ", "
      << report.cache_misses << (report.cache_misses == 1 ? " miss\n" : " misses\n");
  if (!report.versions.empty()) out << "  by " << report.versions << '\n';
  if (!report.instructions.empty()) out << "  instructions: " << report.instructions << '\n';
  if (!report.tuning.empty()) out << "  tuning: " << report.tuning << '\n';
  if (!report.replay.empty()) out << "  run as " << report.replay << '\n';
}

void print_kept(std::ostream& out, const Report& report) {
  if (report.kept.empty()) return;
  out << "  kept for backward:\n";
  for (const plan::KeptByOp& op : plan::kept_by_op(report)) {
    out << "    " << op.op << ": " << counted(op.values, "value") << ", " << megabytes(op.bytes) << '\n';
  }
}

}  // namespace

std::string Report::to_string() const {
  std::ostringstream out = plan::plain_stream();
  print_totals(out, *this);
  std::vector<Row> rows{
      {"phase", "group", "kernel", "passes", "unfused", "moved", "unfused", "kept", "where"}};
  for (const GroupReport& group : groups) rows.push_back(row_of(group));
  print_table(out, rows);
  if (const std::string unwritten = plan::unwritten_text(*this); !unwritten.empty())
    out << "  never written: " << unwritten << '\n';
  print_kept(out, *this);
  for (const plan::CountedRefusal& refusal : plan::count_refusals(refusals)) {
    out << "  not fused: " << plan::describe(refusal) << '\n';
  }
  return out.str();
}

std::ostream& operator<<(std::ostream& out, const Report& report) { return out << report.to_string(); }

}  // namespace fusetape
