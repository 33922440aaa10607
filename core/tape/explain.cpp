#include "core/tape/explain.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>

#include "core/atomic_file.hpp"

namespace fusetape::core {
namespace {

using Form = std::string (Report::*)() const;

struct Extension {
  std::string_view ending;
  Form form;
};
constexpr Extension extensions[] = {{".html", &Report::to_html},
                                    {".json", &Report::to_json},
                                    {".dot", &Report::to_dot},
                                    {".txt", &Report::to_string}};

struct Request {
  std::string path;  ///< empty: stderr
  Form form = nullptr;
};

/// Complains once of a value that means nothing.
Request request_of_environment() {
  const char* set = std::getenv("FUSETAPE_EXPLAIN");
  const std::string text = set != nullptr ? set : "";
  if (text.empty() || text == "0") return {};
  if (text == "1") return {"", &Report::to_string};
  for (const Extension& extension : extensions) {
    if (text.ends_with(extension.ending)) return {text, extension.form};
  }
  static std::atomic<bool> complained{false};
  if (complained.exchange(true)) return {};
  std::fprintf(stderr,
               "fusetape: FUSETAPE_EXPLAIN: expected 1 or a path that ends in .html, .json, .dot or .txt, "
               "got '%s'\n",
               text.c_str());
  return {};
}

void write(const Request& request, const std::string& text) {
  if (request.path.empty()) {
    std::fwrite(text.data(), 1, text.size(), stderr);
    return;
  }
  try {
    replace_file(request.path, text);
  } catch (const std::exception& error) {
    throw std::runtime_error("cannot write " + request.path + ": " + error.what());
  }
}

}  // namespace

void explain_as_asked(const Report& report) {
  const Request request = request_of_environment();
  if (request.form == nullptr) return;
  try {
    const std::string text = (report.*request.form)();
    static std::mutex mutex;  // threads plan by themselves
    const std::lock_guard lock(mutex);
    write(request, text);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fusetape: FUSETAPE_EXPLAIN: %s\n", error.what());
  }
}

}  // namespace fusetape::core
