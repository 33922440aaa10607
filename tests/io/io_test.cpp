// Tensor files, the errors of foreign and damaged ones, and checkpoints that resume to the bit.
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace fs = std::filesystem;
using ft::DType;
using ft::Tensor;
using ft::io::TensorFile;

using fusetape::tests::contains;
using fusetape::tests::message_of;
using fusetape::tests::new_throws;

namespace {

struct Folder {
  fs::path path = fs::temp_directory_path() / ("fusetape_io_test." + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
  }
};

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

/// A safetensors file of this header and data.
std::string with_header(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

template <class T>
bool same_bits(const Tensor& a, const Tensor& b) {
  const auto x = a.span<T>(), y = b.span<T>();
  return a.shape() == b.shape() && std::memcmp(x.data(), y.data(), x.size_bytes()) == 0;
}

}  // namespace

TEST_CASE("tensors of every dtype come back to the bit") {
  const Folder folder;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::int64_t> large{std::numeric_limits<std::int64_t>::min(), (1LL << 53) + 1};
  TensorFile file;
  file.tensors["f32"] = ft::from_vector({1.5f, -0.0f, nan, 1e-42f, INFINITY, 3}, {2, 3});
  file.tensors["f64"] = ft::from_vector<double>({0.1, -1e300}, {2});
  file.tensors["bf16"] = ft::from_floats(std::vector<float>{1.5f, -2.f}, {2, 1}, DType::bf16);
  file.tensors["f16"] = ft::from_floats(std::vector<float>{0.5f, 6.1e-5f, -65504.f}, {3}, DType::f16);
  file.tensors["i64"] = ft::from_vector(large, {2});
  file.tensors["u8"] = ft::from_vector<std::uint8_t>({0, 7, 255}, {3});
  file.tensors["bool"] = ft::less(ft::from_vector({0, 2}, {2}), 1);
  file.tensors["scalar"] = ft::scalar(2.5);
  file.tensors["empty"] = ft::zeros({0, 4});
  file.metadata = {{"who", "a \"quoted\" ünïcode\n"}, {"empty", ""}};
  ft::io::save_tensors(folder / "all.safetensors", file);

  const TensorFile back = ft::io::load_tensors(folder / "all.safetensors");
  CHECK(back.metadata == file.metadata);
  REQUIRE(back.tensors.size() == file.tensors.size());
  for (const auto& row : file.tensors) {
    const auto& name = row.first;
    const auto& tensor = row.second;
    CAPTURE(name);
    CHECK(back.tensors.at(name).dtype() == tensor.dtype());
    CHECK(back.tensors.at(name).shape() == tensor.shape());
  }
  CHECK(same_bits<float>(back.tensors.at("f32"), file.tensors["f32"]));
  CHECK(same_bits<double>(back.tensors.at("f64"), file.tensors["f64"]));
  CHECK(same_bits<std::int64_t>(back.tensors.at("i64"), file.tensors["i64"]));
  CHECK(same_bits<std::uint8_t>(back.tensors.at("u8"), file.tensors["u8"]));
  CHECK(back.tensors.at("bool").to_vector<bool>() == std::vector<bool>{true, false});
  CHECK(back.tensors.at("scalar").item() == 2.5);
  for (const char* half : {"bf16", "f16"}) {
    CHECK(back.tensors.at(half).to_vector() == file.tensors[half].to_vector());
  }
  CHECK(folder.files() == 1);  // no temporary file stayed
}

TEST_CASE("a file that PyTorch's tools wrote is read") {
  const TensorFile file = ft::io::load_tensors(FUSETAPE_TESTS_DIR "/data/resnet8_step.safetensors");
  CHECK(file.tensors.at("param.conv1.weight").shape() == ft::Shape{4, 3, 3, 3});
  CHECK(file.tensors.at("labels").dtype() == DType::i64);
  CHECK(contains(file.metadata.at("options"), "\"lr\": 0.1"));
}

TEST_CASE("a foreign or damaged file is refused, by name and reason") {
  const Folder folder;
  const std::string path = folder / "bad.safetensors";
  const auto error = [&](const std::string& bytes) {
    write(path, bytes);
    const std::string message = message_of([&] { ft::io::load_tensors(path); });
    CHECK(contains(message, "bad.safetensors"));
    return message;
  };
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
  };
  const std::string eight(8, '\1');

  CHECK(contains(message_of([&] { ft::io::load_tensors(folder / "none"); }), "no such file"));
  CHECK(contains(message_of([&] { ft::io::load_tensors(folder.path.string()); }), "expected a file"));
  CHECK(contains(error(""), "at least 8 bytes"));
  CHECK(contains(error("PK\3\4 a zip archive, as torch.save writes"), "not a safetensors file"));
  CHECK(contains(error(with_header("[1, 2]", "")), "does not begin with '{'"));
  CHECK(contains(error(with_header("{\"a\": ", "")), "no JSON"));
  CHECK(contains(error(with_header("{\"a\": 3}", "")), "tensor 'a'"));
  CHECK(contains(error(with_header("{\"__metadata__\": {\"a\": 3}}", "")), "not a string"));
  const std::string a = entry("F32", "[2]", "[0,8]");
  write(path, with_header("{\"a\":" + a + "}", eight));
  CHECK_NOTHROW(ft::io::load_tensors(path));

  CHECK(contains(error(with_header("{\"a\":" + a + ",\"a\":" + a + "}", eight)), "stands twice"));
  CHECK(contains(error(with_header("{\"a\":" + a + "}", eight.substr(1))), "file cut off"));
  CHECK(contains(error(with_header("{\"a\":" + a + "}", eight + "x")), "expected 8 bytes of data, got 9"));
  CHECK(contains(error(with_header("{\"a\":" + entry("F32", "[1]", "[0,8]") + "}", eight)),
                 "expected 4 bytes"));
  CHECK(contains(error(with_header("{\"a\":" + entry("F8_E4M3", "[8]", "[0,8]") + "}", eight)), "F8_E4M3"));
  CHECK(contains(error(with_header("{\"a\":" + entry("F32", "[-2]", "[0,8]") + "}", eight)), "'shape'"));
  CHECK(contains(error(with_header("{\"a\":" + entry("F32", "[2]", "[8,0]") + "}", eight)), "data_offsets"));
  CHECK(
      contains(error(with_header("{\"a\":" + entry("F32", "[2]", "[0]") + "}", eight)), "two data_offsets"));
  CHECK(contains(error(with_header("{\"a\":" + entry("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") + "}", eight)),
                 "8 axes"));
  const std::string huge = entry("F32", "[4611686018427387904,4,4]", "[0,0]");
  CHECK(contains(error(with_header("{\"a\":" + huge + "}", "")), "larger than a tensor can be"));
  const std::string wraps = entry("F32", "[4611686018427387904,4,0]", "[0,0]");
  CHECK(contains(error(with_header("{\"a\":" + wraps + "}", "")), "larger than a tensor can be"));
  const std::string beyond = entry("F32", "[18446744073709551615]", "[0,8]");
  CHECK(contains(error(with_header("{\"a\":" + beyond + "}", eight)), "too large"));
  const std::string long_one = entry("F32", "[1099511627776]", "[0,8]");
  CHECK(contains(error(with_header("{\"a\":" + long_one + "}", eight)), "expected 4398046511104 bytes"));
  CHECK(contains(error(with_header(R"({"__metadata__":{"a":"1","a":"2"}})", "")), "'a' stands twice"));
  CHECK(contains(error(with_header(R"({"a":{"shape":[[[1]]]}})", "")), "nested too deeply"));
  CHECK(contains(error(with_header(std::string(100'000, '[').replace(0, 1, "{\"a\":"), "")), "nested"));
  const std::string overlap = "{\"a\":" + a + ",\"b\":" + entry("U8", "[4]", "[4,8]") + "}";
  CHECK(contains(error(with_header(overlap, eight)), "overlaps"));
  const std::string gap =
      "{\"a\":" + entry("U8", "[2]", "[0,2]") + ",\"b\":" + entry("U8", "[4]", "[4,8]") + "}";
  CHECK(contains(error(with_header(gap, eight)), "a gap"));
  CHECK(contains(error(with_header("{\"a\":" + entry("BOOL", "[8]", "[0,8]") + "}", "\2" + eight.substr(1))),
                 "BOOL"));
}

TEST_CASE("a file of 100,000 tensors is written and read in seconds") {
  const Folder folder;
  const std::string path = folder / "many.safetensors";
  TensorFile file;
  const Tensor shared = ft::from_vector({1.0f, 2.0f}, {2});
  for (int i = 0; i < 100'000; ++i) file.tensors.emplace("layers." + std::to_string(i) + ".weight", shared);
  const auto seconds = [](const auto& body) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  // Without instruments and alone on a core: under a second each. What was quadratic took minutes.
  CHECK(seconds([&] { ft::io::save_tensors(path, file); }) < 20);
  TensorFile back;
  CHECK(seconds([&] { back = ft::io::load_tensors(path); }) < 20);
  CHECK(back.tensors.size() == 100'000);
  CHECK(back.tensors.at("layers.99999.weight").to_vector() == std::vector<float>{1, 2});
  TensorFile one;
  one = ft::io::load_tensors(path, {.names = {"layers.7.weight"}});
  CHECK(one.tensors.size() == 1);
}

TEST_CASE("a tensor of a dtype that is none of ours can be passed by, left out or converted") {
  const Folder folder;
  const std::string path = folder / "foreign.safetensors";
  const auto entry = [](const char* dtype, int count, int begin, int end) {
    return R"({"dtype":")" + std::string(dtype) + R"(","shape":[)" + std::to_string(count) +
           R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(end) + "]}";
  };
  write(path, with_header(R"({"__metadata__":null,"ours":)" + entry("F32", 1, 0, 4) + R"(,"int":)" +
                              entry("I32", 1, 4, 8) + R"(,"packed":)" + entry("F4", 3, 8, 10) + "}",
                          std::string("\0\0\x20\x40\xfe\xff\xff\xff\x11\x11", 10)));
  using ft::io::ForeignDType;
  using Names = std::vector<std::string>;
  struct Row {
    ft::io::LoadTensorsOptions options;
    Names loaded, skipped;
    const char* error;
  };
  const Row rows[] = {
      {{}, {}, {}, "tensor 'int': expected a dtype of F32, F64, BF16, F16, I64, U8, BOOL, got I32"},
      {{.names = {"ours"}}, {"ours"}, {}, ""},
      {{.names = {"int"}}, {}, {}, "to convert or to skip it"},
      {{.names = {"packed"}}, {}, {}, "says whether to skip it"},
      {{.names = {"theirs"}}, {}, {}, "no tensor named 'theirs'"},
      {{.foreign = ForeignDType::skip}, {"ours"}, {"int", "packed"}, ""},
      {{.foreign = ForeignDType::convert}, {}, {}, "tensor 'packed'"},
      {{.names = {"int", "ours"}, .foreign = ForeignDType::convert}, {"int", "ours"}, {}, ""},
      {{.names = {"int", "ours"}, .foreign = ForeignDType::skip}, {"ours"}, {"int"}, ""},
  };
  for (const Row& row : rows) {
    CAPTURE(&row - rows);
    TensorFile file;
    const std::string message = message_of([&] { file = ft::io::load_tensors(path, row.options); });
    CHECK(contains(message, row.error));
    CHECK(message.empty() == (row.error[0] == '\0'));
    Names loaded;
    for (const auto& [name, tensor] : file.tensors) loaded.push_back(name);
    CHECK(loaded == row.loaded);
    CHECK(file.skipped == row.skipped);
    CHECK(file.metadata.empty());
    if (file.tensors.count("ours") > 0) CHECK(file.tensors.at("ours").to_vector() == std::vector<float>{2.5});
  }
}

TEST_CASE("foreign numbers are converted exactly, or refused") {
  const Folder folder;
  const std::string path = folder / "numbers.safetensors";
  const auto load = [&](const std::string& dtype, std::size_t count, const std::string& data) {
    write(path, with_header(R"({"a":{"dtype":")" + dtype + R"(","shape":[)" + std::to_string(count) +
                                R"(],"data_offsets":[0,)" + std::to_string(data.size()) + "]}}",
                            data));
    return ft::io::load_tensors(path, {.foreign = ft::io::ForeignDType::convert}).tensors.at("a");
  };
  using Integers = std::vector<std::int64_t>;
  CHECK(load("I8", 3, "\x80\xff\x7f").to_vector<std::int64_t>() == Integers{-128, -1, 127});
  CHECK(load("I16", 2, "\x34\x12\xff\xff").to_vector<std::int64_t>() == Integers{0x1234, -1});
  CHECK(load("U16", 1, "\xff\xff").to_vector<std::int64_t>() == Integers{65535});
  CHECK(load("I32", 1, "\xff\xff\xff\x7f").to_vector<std::int64_t>() == Integers{2147483647});
  CHECK(load("U32", 1, "\xff\xff\xff\xff").to_vector<std::int64_t>() == Integers{4294967295});
  CHECK(load("U64", 1, std::string(7, '\xff') + "\x7f").to_vector<std::int64_t>() ==
        Integers{std::numeric_limits<std::int64_t>::max()});
  CHECK(contains(message_of([&] { load("U64", 2, std::string(8, '\0') + std::string(8, '\xff')); }),
                 "element 1 of U64 is no i64"));
  CHECK(contains(message_of([&] { load("I16", 2, "\1\1\1"); }), "expected 4 bytes for [2] I16, got 3"));
  CHECK(load("I8", 0, "").shape() == ft::Shape{0});

  // 1, −1.75, the largest, the smallest, zeros, not a number (and infinity, in E5M2 only).
  const std::vector<float> e4m3 =
      load("F8_E4M3", 8, std::string("\x38\xbe\x7e\x01\x00\x80\x7f\x78", 8)).to_vector();
  const float e4m3_expected[] = {1, -1.75f, 448, 0x1p-9f, 0, -0.0f, 0, 256};
  const std::vector<float> e5m2 =
      load("F8_E5M2", 8, std::string("\x3c\xbf\x7b\x01\x00\x80\x7f\xfc", 8)).to_vector();
  const float e5m2_expected[] = {1, -1.75f, 57344, 0x1p-16f, 0, -0.0f, 0, -INFINITY};
  for (std::size_t i = 0; i < 8; ++i) {
    CAPTURE(i);
    CHECK(std::isnan(e4m3[i]) == (i == 6));
    CHECK(std::isnan(e5m2[i]) == (i == 6));
    if (i == 6) continue;
    CHECK(e4m3[i] == e4m3_expected[i]);
    CHECK(e5m2[i] == e5m2_expected[i]);
    CHECK(std::signbit(e4m3[i]) == std::signbit(e4m3_expected[i]));
    CHECK(std::signbit(e5m2[i]) == std::signbit(e5m2_expected[i]));
  }
}

TEST_CASE("a file that no memory holds is an Error, whatever its dtype") {
  if (!new_throws) return;
  const Folder folder;
  const std::string path = folder / "huge.safetensors";
  for (const char* dtype : {"F32", "I32"}) {
    CAPTURE(dtype);
    write(path, with_header(R"({"a":{"dtype":")" + std::string(dtype) +
                                R"(","shape":[1099511627776],"data_offsets":[0,4398046511104]}})",
                            ""));
    std::error_code error;
    fs::resize_file(path, fs::file_size(path) + (std::uintmax_t{1} << 42), error);
    if (error) return;  // a file system without holes, or with a limit
    const std::string message =
        message_of([&] { ft::io::load_tensors(path, {.foreign = ft::io::ForeignDType::convert}); });
    CHECK(contains(message, dtype[0] == 'I' ? "there is no memory for what" : "memory"));
  }
}

TEST_CASE("a save that fails leaves the old file and nothing beside it") {
  const Folder folder;
  const std::string path = folder / "kept.safetensors";
  ft::io::save_tensors(path, {.tensors = {{"a", ft::scalar(1)}}, .metadata = {}});
  const std::string before = contents(path);
  CHECK_THROWS_AS(ft::io::save_tensors(path, {.tensors = {{"a", Tensor()}}, .metadata = {}}), ft::Error);
  CHECK_THROWS_AS(ft::io::save_tensors(path, {.tensors = {}, .metadata = {{"bad", "\xff"}}}), ft::Error);
  CHECK(contents(path) == before);
  CHECK(folder.files() == 1);
  const std::string nowhere = message_of([&] { ft::io::save_tensors(folder / "no/such/folder", {}); });
  CHECK(contains(nowhere, "no/such/folder"));
  CHECK(contains(nowhere, "No such file or directory"));
}

namespace {

/// A small training run: everything that a checkpoint has to bring back is in play.
struct Run {
  struct Net : ft::nn::Module {
    ft::nn::Conv2d conv{{.in = 3, .out = 4, .kernel = 3, .stride = 2, .padding = 1, .bias = false}};
    ft::nn::BatchNorm2d bn{4};
    ft::nn::Dropout dropout{0.25};
    ft::nn::Linear fc{4, 10};
    Net() {
      register_child("conv", conv);
      register_child("bn", bn);
      register_child("dropout", dropout);
      register_child("fc", fc);
    }
    Tensor forward(const Tensor& x) override {
      return fc(ft::global_avg_pool(dropout(ft::relu(bn(conv(x))))));
    }
  };

  explicit Run(std::uint64_t seed)
      : seeded((ft::manual_seed(seed), true)),
        optimizer(model.parameters(), {.lr = 0.01, .weight_decay = 1e-3}),
        schedule(optimizer, {.max_lr = 0.05, .total_steps = 40}),
        loader(ft::data::synthetic_images({.count = 48, .size = 8, .seed = 1}),
               {.batch = 8, .crop = 1, .flip = true, .seed = seed}) {}

  void train(int steps) {
    while (steps > 0) {
      for (const auto& [images, labels] : loader) {
        const Tensor loss = ft::cross_entropy(model(images), labels);
        optimizer.zero_grad();
        loss.backward();
        optimizer.step();
        schedule.step();
        if (--steps == 0) break;
      }
    }
  }

  ft::io::Training parts() { return {&model, &optimizer, &schedule, &loader, true}; }

  std::vector<float> numbers() {
    std::vector<float> all;
    for (auto& [name, cell] : model.named_parameters()) append(all, cell.value());
    for (auto& [name, cell] : model.named_buffers()) append(all, cell.value());
    for (auto& [name, cell] : optimizer.named_state()) append(all, cell.value());
    return all;
  }
  static void append(std::vector<float>& all, const Tensor& tensor) {
    const std::vector<float> values = tensor.to_vector();
    all.insert(all.end(), values.begin(), values.end());
  }

  bool seeded;  // before the model draws
  Net model;
  ft::optim::AdamW optimizer;
  ft::optim::OneCycleLR schedule;
  ft::data::DataLoader loader;
};

}  // namespace

TEST_CASE("a resumed run gives the same bits as one that was never stopped") {
  const Folder folder;
  const std::string path = folder / "run.safetensors";
  const std::uint64_t seed = 0xfedcba9876543211;  // more than a double holds
  std::vector<float> expected;
  {
    Run run(seed);
    run.train(4);
    ft::io::save_checkpoint(path, run.parts(), {{"note", "in the first epoch"}});
    run.train(5);
    expected = run.numbers();
  }
  Run resumed(3);
  resumed.train(1);
  const ft::io::Metadata extra = ft::io::load_checkpoint(path, resumed.parts());
  CHECK(extra == ft::io::Metadata{{"note", "in the first epoch"}});
  CHECK(ft::generator_state().seed == seed);
  CHECK(resumed.loader.state().seed == seed);
  CHECK(resumed.loader.state().position == 4);
  CHECK(resumed.schedule.index() == 4);
  resumed.train(5);
  CHECK(resumed.numbers() == expected);
  CHECK(folder.files() == 1);
}

TEST_CASE("a checkpoint that does not fit changes nothing") {
  const Folder folder;
  const std::string path = folder / "run.safetensors";
  Run run(1);
  run.train(2);
  ft::io::save_checkpoint(path, run.parts());

  struct Other : ft::nn::Module {
    ft::nn::Conv2d conv{{.in = 3, .out = 8, .kernel = 3}};
    ft::nn::Linear head{4, 10};
    Other() {
      register_child("conv", conv);
      register_child("head", head);
    }
  } other;
  const std::vector<float> before = other.head.weight().value().to_vector();
  const std::string message =
      message_of([&] { ft::io::load_checkpoint(path, {.model = &other, .generator = false}); });
  CHECK(contains(message, "run.safetensors"));
  CHECK(contains(message, "missing: model.conv.bias, model.head.weight, model.head.bias"));
  CHECK(contains(message, "unexpected: model.bn.bias"));
  CHECK(contains(message, "model.conv.weight (the file has {4, 3, 3, 3} f32, expected {8, 3, 3, 3} f32)"));
  CHECK(other.head.weight().value().to_vector() == before);

  // One fault in the counters: the tensors fit, and still nothing is loaded.
  Run fresh(2);
  const std::vector<float> numbers = fresh.numbers();
  TensorFile file = ft::io::load_tensors(path);
  const auto broken = [&](const std::string& key, const std::string& value) {
    TensorFile copy = file;
    copy.metadata[key] = value;
    ft::io::save_tensors(folder / "broken.safetensors", copy);
    const std::string text =
        message_of([&] { ft::io::load_checkpoint(folder / "broken.safetensors", fresh.parts()); });
    CHECK(fresh.numbers() == numbers);
    CHECK(fresh.schedule.index() == 0);
    return contains(text, key);
  };
  CHECK(broken("generator.seed", "18446744073709551616"));
  CHECK(broken("loader.position", "7"));
  CHECK(broken("schedule.index", "-1"));
  CHECK(broken("optimizer.learning_rate", "fast"));
  CHECK(broken("optimizer.name", "SGD"));
  CHECK(broken("format", "something else"));
  CHECK_NOTHROW(ft::io::load_checkpoint(path, {.model = &fresh.model, .generator = false}));
}
