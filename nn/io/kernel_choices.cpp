#include "nn/io/kernel_choices.hpp"

#include <map>
#include <nlohmann/json.hpp>

namespace fusetape::io {

using Json = nlohmann::ordered_json;

std::string text_of(const std::vector<KernelChoice>& choices) {
  Json json = Json::array();
  for (const KernelChoice& choice : choices) {
    json.push_back({{"work", choice.work},
                    {"kernel", choice.kernel},
                    {"blocking", choice.blocking},
                    {"why", choice.why}});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<std::vector<KernelChoice>> parse_kernel_choices(const std::string& text) try {
  std::vector<KernelChoice> choices;
  for (const Json& json : Json::parse(text)) {
    choices.push_back({.work = json.at("work").get<std::string>(),
                       .kernel = json.at("kernel").get<std::string>(),
                       .blocking = json.at("blocking").get<std::vector<std::int64_t>>(),
                       .why = json.at("why").get<std::string>()});
  }
  return choices;
} catch (const Json::exception&) {
  return std::nullopt;
}

void restore_kernel_choices(const std::vector<KernelChoice>& choices) {
  std::map<std::string, KernelChoice> all;
  for (const KernelChoice& choice : choices) all.emplace(choice.work, choice);
  for (KernelChoice& choice : kernel_choices()) all.emplace(choice.work, std::move(choice));
  std::vector<KernelChoice> merged;
  merged.reserve(all.size());
  for (auto& [work, choice] : all) merged.push_back(std::move(choice));
  set_kernel_choices(merged);
}

}  // namespace fusetape::io
