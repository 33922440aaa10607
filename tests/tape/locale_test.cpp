// Numbers in texts are the same in every process: neither C's locale nor C++'s changes them.
#include <doctest/doctest.h>

#include <cctype>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <locale>
#include <sstream>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "scratch_folder.hpp"

namespace ft = fusetape;
using ft::Tensor;
using fusetape::tests::contains;
using fusetape::tests::ConvBy;
using fusetape::tests::message_of;

namespace {

struct Commas : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

/// The process's locales write 1.234,5 while it lives. C's comes from a file made here: few machines have
/// one.
class CommaLocale {
 public:
  CommaLocale() : before_(std::locale::global(std::locale(std::locale::classic(), new Commas))) {
    const std::string numeric(
        "\x14\x11\x03\x20\x06\0\0\0\x20\0\0\0\x22\0\0\0\x23\0\0\0\x24\0\0\0\x28\0\0\0\x2c\0\0\0"
        ",\0\0\0,\0\0\0\0\0\0\0UTF-8",
        50);
    std::string folder = std::filesystem::temp_directory_path() / "fusetape_locale_test.XXXXXX";
    REQUIRE(::mkdtemp(folder.data()) != nullptr);
    std::filesystem::create_directory(folder + "/commas");
    std::ofstream(folder + "/commas/LC_NUMERIC", std::ios::binary) << numeric;
    ::setenv("LOCPATH", folder.c_str(), 1);
    has_c_locale = std::setlocale(LC_NUMERIC, "commas") != nullptr;
    std::filesystem::remove_all(folder);
    ::unsetenv("LOCPATH");
  }
  ~CommaLocale() {
    std::setlocale(LC_NUMERIC, "C");
    std::locale::global(before_);
  }
  CommaLocale(const CommaLocale&) = delete;
  CommaLocale& operator=(const CommaLocale&) = delete;

  bool has_c_locale = false;

 private:
  std::locale before_;
};

/// "1,5" or "1.234,5"; "{1, 2}" is none.
bool has_comma_in_number(const std::string& text) {
  const auto digit = [&text](std::size_t i) {
    return std::isdigit(static_cast<unsigned char>(text[i])) != 0;
  };
  for (std::size_t i = 1; i + 1 < text.size(); ++i) {
    if (text[i] == ',' && digit(i - 1) && digit(i + 1)) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("the locale with commas is one") {
  const CommaLocale commas;
  std::ostringstream stream;
  stream << 1234.5;
  CHECK(stream.str() == "1.234,5");
  char text[16];
  std::snprintf(text, sizeof text, "%.1f", 1234.5);
  if (!commas.has_c_locale) MESSAGE("the C library did not take the locale made here");
  CHECK(std::string(text) == (commas.has_c_locale ? "1234,5" : "1234.5"));
}

TEST_CASE("no text with a number depends on the process's locale") {
  const ConvBy fast(ft::ConvAlgorithm::automatic);
  auto model = ft::nn::resnet_cifar({.depth = 8, .width = 4});
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.1});
  ft::set_profiling(true);
  ft::cross_entropy(model(ft::ones({40, 32, 32, 3})), ft::zeros({40}, ft::DType::i64)).backward();
  sgd.step();
  ft::set_profiling(false);
  ft::Report report = ft::explain();
  report.cache_misses = 12'345;
  report.threads = 1000;
  const Tensor big = ft::from_vector({1234567.5, 0.125}, {2});

  struct Text {
    const char* name;
    std::function<std::string()> make;
  };
  const auto printed = [](const auto& what) {
    std::ostringstream stream;
    stream << what;
    return stream.str();
  };
  const auto error = [](const char* name, std::function<void()> call) {
    return Text{name, [call = std::move(call)] {
                  const std::string said = message_of(call);
                  CHECK(!said.empty());
                  return said;
                }};
  };
  const Tensor x = ft::ones({2, 3});
  const std::vector<Text> texts = {
      {"text", [&] { return report.to_string(); }},
      {"json", [&] { return report.to_json(); }},
      {"dot", [&] { return report.to_dot(); }},
      {"html", [&] { return report.to_html(); }},
      {"printed report", [&] { return printed(report); }},
      {"printed tensor", [&] { return printed(big); }},
      {"printed shape",
       [&] {
         return ft::to_string(ft::Shape{1'000'000, 2});
       }},
      {"versions", [] { return ft::versions() + ft::cpu_name(); }},
      error("number", [&] { ft::matmul(1.5, x); }),
      error("whole number", [&] { ft::zeros({2}, ft::DType::i64) + 0.5; }),
      error("clamp", [&] { ft::clamp(x, 1.5, 0.5); }),
      error("dropout", [&] { ft::dropout(x, 1.5); }),
      error("label smoothing",
            [&] { ft::cross_entropy(x, ft::zeros({2}, ft::DType::i64), {.label_smoothing = 1.5}); }),
      error("Dropout", [] { ft::nn::Dropout(1.5); }),
      error("batch norm", [] { ft::nn::BatchNorm2d(2, {.momentum = 1.5}); }),
      error("batch norm's ε", [] { ft::nn::BatchNorm2d(2, {.eps = -0.5}); }),
      error("uniform", [] { ft::nn::uniform({2}, 0.5, -0.5); }),
      error("learning rate", [&] { ft::optim::SGD(model.parameters(), {.lr = -0.5}); }),
      error("momentum", [&] { ft::optim::SGD(model.parameters(), {.momentum = 1.5}); }),
      error("weight decay", [&] { ft::optim::SGD(model.parameters(), {.weight_decay = -0.5}); }),
      error("beta", [&] { ft::optim::Adam(model.parameters(), {.beta1 = 1.5}); }),
      error("loss scale", [] { ft::optim::LossScaler({.initial = -0.5}); }),
      error("clipping", [&] { ft::optim::clip_grad_norm(model.parameters(), -0.5); }),
      error("loader",
            [] {
              ft::data::DataLoader(ft::data::synthetic_images({.count = 2, .size = 8}),
                                   {.batch = 1, .stddev = {1.5, -0.5, 1}});
            }),
      error("gradcheck",
            [] {
              ft::gradcheck([](const std::vector<Tensor>& in) { return in[0] * 1.5 + in[0].detach(); },
                            {ft::full({2}, 0.5, ft::DType::f64)});
            }),
      error("a shape",
            [&] {
              ft::reshape(x, {100'000, 2});
            }),
  };
  for (const Text& text : texts) {
    CAPTURE(text.name);
    const std::string expected = text.make();
    const CommaLocale commas;
    CHECK(text.make() == expected);
  }
}

TEST_CASE("plans made under another locale say the same") {
  const CommaLocale commas;
  const ConvBy fast(ft::ConvAlgorithm::automatic);
  // Over this many channels Winograd's error is a reason, with its size.
  const Tensor x = ft::ones({1, 8, 8, 131072}), w = ft::ones({16, 3, 3, 131072});
  ft::materialize({ft::conv2d(x, w, {.padding = {1, 1}}) * 2.0});
  const std::string text = ft::explain().to_string();
  CHECK_MESSAGE(contains(text, "of the largest value"), text);
  CHECK_FALSE(has_comma_in_number(text));
  CHECK_FALSE(has_comma_in_number(ft::explain().to_dot()));
}

TEST_CASE("files written under one locale are read under another") {
  const fusetape::tests::ScratchFolder folder;
  std::filesystem::create_directory(folder.path());
  const auto write = [&](const std::string& name) {
    ft::manual_seed(1);
    ft::nn::Linear model(300, 40);
    ft::optim::Adam adam(model.parameters(), {.lr = 0.0125});
    ft::sum(model(ft::ones({2, 300}))).backward();
    adam.step();
    const std::string path = folder.path() / name;
    ft::io::save_checkpoint(path, {.model = &model, .optimizer = &adam});
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string plain = write("plain.safetensors");
  const CommaLocale commas;
  CHECK(write("commas.safetensors") == plain);
  ft::nn::Linear model(300, 40);
  ft::optim::Adam adam(model.parameters(), {.lr = 0.0125});
  adam.set_learning_rate(0.5);
  ft::io::load_checkpoint(folder.path() / "plain.safetensors", {.model = &model, .optimizer = &adam});
  CHECK(adam.learning_rate() == 0.0125);
}
