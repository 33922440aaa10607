#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "core/settings.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/error.hpp"
#include "fusetape/runtime.hpp"

/// What the rows of core/settings.hpp stand for.
namespace fusetape {
namespace core {
namespace {

constexpr bool keyed = true, not_keyed = false;

template <class T>
using Words = std::vector<std::pair<std::string_view, T>>;

Words<bool> words_of(bool) {
  return {{"on", true}, {"off", false}, {"1", true}, {"0", false}, {"true", true}, {"false", false}};
}
Words<Retention> words_of(Retention) {
  return {
      {"fastest", Retention::fastest}, {"balanced", Retention::balanced}, {"smallest", Retention::smallest}};
}
Words<ConvAlgorithm> words_of(ConvAlgorithm) {
  return {{"automatic", ConvAlgorithm::automatic},
          {"direct", ConvAlgorithm::direct},
          {"winograd", ConvAlgorithm::winograd}};
}

[[noreturn]] void fail(const char* variable, const std::string& expected, std::string_view got) {
  throw Error(variable, "expected " + expected + ", got '" + std::string(got) + "'");
}

template <class T>
void parse(const char* variable, std::string_view text, T& value) {
  std::string known;
  const Words<T> words = words_of(value);
  for (const auto& [word, meaning] : words) {
    if (word == text) {
      value = meaning;
      return;
    }
    known += known.empty() ? "" : &word == &words.back().first ? " or " : ", ";
    known += word;
  }
  fail(variable, known, text);
}

void parse(const char* variable, std::string_view text, std::int64_t& value) {
  const char* const end = text.data() + text.size();
  const auto [last, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || last != end || value < 0) fail(variable, "bytes, at least 0", text);
}

template <class T>
void read(const char* variable, T& value) {
  const char* const set = std::getenv(variable);
  if (set != nullptr && *set != '\0') parse(variable, set, value);
}

}  // namespace

Settings settings_of_environment() {
  Settings settings;
#define FUSETAPE_READ(field, otherwise, key, variable, ...) read(variable, settings.field);
  FUSETAPE_ON_OFF_SWITCHES(FUSETAPE_READ)
#undef FUSETAPE_READ
#define FUSETAPE_READ(type, field, otherwise, key, variable) read(variable, settings.field);
  FUSETAPE_OTHER_SWITCHES(FUSETAPE_READ)
#undef FUSETAPE_READ
  return settings;
}

std::uint64_t Settings::key() const {
  constexpr int bits = 4;  // of an enum
  std::uint64_t word = 0;
#define FUSETAPE_ADD(field, otherwise, key, ...) \
  if (key) word = word << bits | static_cast<std::uint64_t>(field);
  FUSETAPE_ON_OFF_SWITCHES(FUSETAPE_ADD)
#undef FUSETAPE_ADD
#define FUSETAPE_ADD(type, field, otherwise, key, ...) \
  if (key) word = word << bits | static_cast<std::uint64_t>(field);
  FUSETAPE_OTHER_SWITCHES(FUSETAPE_ADD)
#undef FUSETAPE_ADD
  return word;
}

}  // namespace core

#define FUSETAPE_DEFINE(field, otherwise, key, variable, setter, getter) \
  void setter(bool on) { core::Tape::current().settings.field = on; }    \
  bool getter() { return core::Tape::current().settings.field; }
FUSETAPE_ON_OFF_SWITCHES(FUSETAPE_DEFINE)
#undef FUSETAPE_DEFINE

}  // namespace fusetape
