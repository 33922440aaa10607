#include <algorithm>
#include <sstream>

#include "core/plan/report/report_format.hpp"

/// Report::to_html: one page, no scripts, nothing from elsewhere.
namespace fusetape {
namespace {

using plan::counted;
using plan::fixed;
using plan::megabytes;

constexpr const char* style = R"(
body { font: 14px/1.45 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto; max-width: 1280px;
       padding: 0 1.5rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; color: #555; border-bottom: 2px solid #ddd; padding: .3rem .6rem; }
td { border-bottom: 1px solid #eee; padding: .25rem .6rem; vertical-align: top; }
td.figure, th.figure { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.faint { color: #777; font-size: .85em; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem; padding: 0; list-style: none; }
.facts li { border: 1px solid #e3e3e3; border-radius: 6px; padding: .5rem .8rem; }
.facts b { display: block; font-size: 1.15rem; font-weight: 600; }
.phase { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .4em; }
.forward { background: #6ea8dc; } .backward { background: #eda36f; } .update { background: #86c17c; }
td { overflow-wrap: anywhere; }
.bars { min-width: 180px; }
.bar { height: 6px; margin: 3px 0; border-radius: 2px; }
.unfused { background: #d9d9d9; }
svg { width: 100%; height: auto; background: #fafafa; border: 1px solid #e3e3e3; }
svg rect { stroke: #fff; stroke-width: .5; }
)";

const char* colour_of(const std::string& phase) {
  if (phase == "forward") return "#6ea8dc";
  return phase == "backward" ? "#eda36f" : "#86c17c";
}

/// As text or the inside of a quoted attribute. Control characters may not stand in a page.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

void write_fact(std::ostream& out, const std::string& value, const std::string& what) {
  out << "<li><b>" << escaped(value) << "</b>" << escaped(what) << "</li>\n";
}

void write_head(std::ostream& out, const Report& report) {
  out << "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>fusetape: the plan "
      << "of a step</title>\n<style>" << style << "</style>\n</head>\n<body>\n<h1>The plan of a step</h1>\n"
      << "<p class=\"faint\">backend " << escaped(report.backend) << ", "
      << counted(static_cast<std::size_t>(report.threads), "thread") << ", fusion "
      << (report.fusion ? "on" : "off") << ", retention " << escaped(report.retention) << ", deterministic "
      << (report.deterministic ? "on" : "off") << "; planned in " << fixed(report.planning_ms, 2) + " ms"
      << "; plan cache: " << counted(static_cast<std::size_t>(report.cache_hits), "hit") << ", "
      << report.cache_misses << (report.cache_misses == 1 ? " miss" : " misses")
      << (report.versions.empty() ? "" : "; by " + escaped(report.versions))
      << (report.instructions.empty() ? "" : "; instructions: " + escaped(report.instructions))
      << (report.tuning.empty() ? "" : "; tuning: " + escaped(report.tuning))
      << (report.replay.empty() ? "" : "; run as " + escaped(report.replay))
      << "</p>\n<ul class=\"facts\">\n";
  write_fact(out, std::to_string(report.kernels), "kernels");
  write_fact(out, fixed(report.tensor_passes, 0),
             "tensor passes (unfused " + fixed(report.unfused_passes, 0) + ")");
  write_fact(out, megabytes(report.bytes), "moved (unfused " + megabytes(report.unfused_bytes) + ")");
  write_fact(out, megabytes(report.kept_bytes),
             "kept for backward (unfused " + megabytes(report.unfused_kept_bytes) + ")");
  write_fact(out, megabytes(report.peak_bytes), "peak beside parameters");
  out << "</ul>\n";
}

/// Bytes moved, and below them what the ops would move by themselves.
void write_bars(std::ostream& out, const GroupReport& group, std::int64_t largest) {
  const auto bar = [&](const std::string& colour, std::int64_t bytes) {
    const double percent =
        100.0 * static_cast<double>(bytes) / static_cast<double>(std::max<std::int64_t>(largest, 1));
    out << "<div class=\"bar " << colour << "\" style=\"width:" << fixed(percent, 2) << "%\" title=\""
        << megabytes(bytes) << "\"></div>";
  };
  bar(group.phase, group.bytes);
  bar("unfused", group.unfused_bytes);
}

void write_groups(std::ostream& out, const Report& report) {
  std::int64_t largest = 0;
  for (const GroupReport& group : report.groups)
    largest = std::max({largest, group.bytes, group.unfused_bytes});
  out << "<h2>Kernels, in order</h2>\n<p class=\"faint\"><span class=\"phase forward\"></span>forward "
      << "<span class=\"phase backward\"></span>backward <span class=\"phase update\"></span>update; grey: "
         "the "
      << "same ops one by one</p>\n<table>\n<tr><th class=\"figure\">step</th><th>group</th><th>where</th>"
      << "<th>kernel</th><th class=\"figure\">passes</th><th class=\"figure\">moved</th><th></th>"
      << "<th class=\"figure\">kept</th></tr>\n";
  for (std::size_t g = 0; g < report.groups.size(); ++g) {
    const GroupReport& group = report.groups[g];
    out << "<tr><td class=\"figure\">" << g << "</td><td><span class=\"phase " << escaped(group.phase)
        << "\" title=\"" << escaped(group.phase) << "\"></span>" << escaped(plan::short_name(group))
        << "</td><td>" << escaped(group.module_path) << " <span class=\"faint\">" << escaped(group.source)
        << "</span></td><td>" << escaped(group.kernel);
    if (!group.why.empty()) out << " <span class=\"faint\">" << escaped(group.why) << "</span>";
    out << "</td><td class=\"figure\">" << fixed(group.tensor_passes, 0) << " <span class=\"faint\">of "
        << fixed(group.unfused_passes, 0) << "</span></td><td class=\"figure\">" << megabytes(group.bytes)
        << "<br><span class=\"faint\">" << megabytes(group.unfused_bytes)
        << "</span></td><td class=\"bars\">";
    write_bars(out, group, largest);
    out << "</td><td class=\"figure\">" << (group.kept_bytes > 0 ? megabytes(group.kept_bytes) : "")
        << "</td></tr>\n";
  }
  out << "</table>\n";
}

/// Folded up: a network has hundreds.
void write_ops(std::ostream& out, const Report& report) {
  const std::string unwritten = plan::unwritten_text(report);
  out << "<h2>Ops as they were recorded</h2>\n<p>"
      << (unwritten.empty() ? "All results are written." : "Never written: " + escaped(unwritten) + ".")
      << "</p>\n<details><summary>" << plan::counted(report.ops.size(), "op")
      << "</summary>\n<table>\n<tr><th>op</th><th>where</th><th>in kernels</th>"
      << "<th class=\"figure\">result</th></tr>\n";
  for (const OpReport& op : report.ops) {
    out << "<tr><td><span class=\"phase " << escaped(op.phase) << "\" title=\"" << escaped(op.phase)
        << "\"></span>" << escaped(op.op) << "</td><td>" << escaped(op.module_path)
        << " <span class=\"faint\">" << escaped(op.source) << "</span></td><td>";
    for (std::size_t i = 0; i < op.kernels.size(); ++i) out << (i > 0 ? ", " : "") << op.kernels[i];
    out << "</td><td class=\"figure\">" << megabytes(op.bytes) << (op.written ? "" : ", never written")
        << "</td></tr>\n";
  }
  out << "</table>\n</details>\n";
}

void write_kept(std::ostream& out, const Report& report) {
  out << "<h2>Kept for backward, by op</h2>\n<p>" << megabytes(report.kept_bytes) << "; unfused it would be "
      << megabytes(report.unfused_kept_bytes) << ".</p>\n";
  if (report.kept.empty()) return;
  out << "<table>\n<tr><th>op</th><th class=\"figure\">values</th><th class=\"figure\">bytes</th><th></th>"
      << "</tr>\n";
  for (const plan::KeptByOp& op : plan::kept_by_op(report)) {
    const double percent = 100.0 * static_cast<double>(op.bytes) /
                           static_cast<double>(std::max<std::int64_t>(report.kept_bytes, 1));
    out << "<tr><td>" << escaped(op.op) << "</td><td class=\"figure\">" << op.values
        << "</td><td class=\"figure\">" << megabytes(op.bytes)
        << "</td><td class=\"bars\"><div class=\"bar forward\" style=\"width:" << fixed(percent, 2)
        << "%\"></div></td></tr>\n";
  }
  out << "</table>\n";
}

/// Steps from left to right, offsets from the bottom up.
void write_arena(std::ostream& out, const Report& report) {
  constexpr double width = 1200, height = 360;
  const std::int64_t size = report.arena_bytes - report.scratch_bytes;
  out << "<h2>The arena, step by step</h2>\n<p>" << megabytes(size) << "; "
      << megabytes(report.arena_lower_bound)
      << " are in use at once, so no packing can need less. Scratch beside it: "
      << megabytes(report.scratch_bytes)
      << ". Steps run from left to right, offsets from the bottom up.</p>\n";
  if (size == 0) return;
  const double per_step = width / static_cast<double>(std::max<std::size_t>(report.groups.size(), 1));
  const double per_byte = height / static_cast<double>(size);
  out << "<svg viewBox=\"0 0 " << fixed(width, 0) << ' ' << fixed(height, 0)
      << "\" role=\"img\" aria-label=\"arena timeline\">\n";
  for (const ArenaBlockReport& block : report.arena) {
    const double top = height - static_cast<double>(block.offset + block.bytes) * per_byte;
    out << "<rect fill=\"" << colour_of(report.groups[static_cast<std::size_t>(block.first_step)].phase)
        << "\" x=\"" << fixed(block.first_step * per_step, 2) << "\" y=\"" << fixed(top, 2) << "\" width=\""
        << fixed((block.last_step - block.first_step + 1) * per_step, 2) << "\" height=\""
        << fixed(static_cast<double>(block.bytes) * per_byte, 2) << "\"><title>" << escaped(block.op) << ' '
        << escaped(block.module_path) << ", " << megabytes(block.bytes) << ", steps " << block.first_step
        << " to " << block.last_step << "</title></rect>\n";
  }
  out << "</svg>\n";
}

void write_refusals(std::ostream& out, const Report& report) {
  out << "<h2>Near misses</h2>\n";
  if (report.refusals.empty()) {
    out << "<p>None.</p>\n";
    return;
  }
  out << "<ul>\n";
  for (const plan::CountedRefusal& refusal : plan::count_refusals(report.refusals))
    out << "<li>not fused: " << escaped(plan::describe(refusal)) << "</li>\n";
  out << "</ul>\n";
}

}  // namespace

std::string Report::to_html() const {
  std::ostringstream out = plan::plain_stream();
  write_head(out, *this);
  write_groups(out, *this);
  write_ops(out, *this);
  write_kept(out, *this);
  write_arena(out, *this);
  write_refusals(out, *this);
  out << "</body>\n</html>\n";
  return out.str();
}

}  // namespace fusetape
