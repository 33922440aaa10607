// CIFAR files and everything that can be wrong with one, the generated images, and the loader.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace fs = std::filesystem;
using ft::data::DataLoader;
using ft::data::Dataset;

using fusetape::tests::contains;
using fusetape::tests::message_of;
using fusetape::tests::new_throws;

namespace {

struct Folder {
  fs::path path = fs::temp_directory_path() / ("fusetape_data_test." + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  std::string file(const std::string& name, const std::vector<std::uint8_t>& bytes) const {
    std::ofstream(path / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return (path / name).string();
  }
};

/// CIFAR records whose pixel bytes tell record, channel and place apart.
std::vector<std::uint8_t> records(std::size_t count, std::size_t label_bytes) {
  std::vector<std::uint8_t> bytes;
  for (std::size_t r = 0; r < count; ++r) {
    for (std::size_t l = 0; l < label_bytes; ++l) bytes.push_back(static_cast<std::uint8_t>(r % 10));
    for (std::size_t i = 0; i < 3072; ++i) bytes.push_back(static_cast<std::uint8_t>((r * 7 + i * 13) % 251));
  }
  return bytes;
}

/// Images of 6x5 pixels in two channels; the first byte of image i is i.
Dataset numbered(std::int64_t count) {
  Dataset set;
  set.height = 6;
  set.width = 5;
  set.channels = 2;
  for (std::int64_t i = 0; i < count; ++i) {
    set.labels.push_back(static_cast<std::uint8_t>(i % 10));
    for (std::int64_t b = 0; b < set.image_bytes(); ++b) {
      set.images.push_back(static_cast<std::uint8_t>((i + b * 11) % 256));
    }
  }
  return set;
}

std::vector<float> numbers_of_epoch(DataLoader& loader) {
  std::vector<float> all;
  for (const auto& [images, labels] : loader) {
    const std::vector<float> pixels = images.to_vector();
    all.insert(all.end(), pixels.begin(), pixels.end());
    for (std::int64_t label : labels.to_vector<std::int64_t>()) all.push_back(static_cast<float>(label));
  }
  return all;
}

}  // namespace

TEST_CASE("CIFAR records become NHWC images") {
  const Folder folder;
  const std::vector<std::uint8_t> bytes = records(3, 1);
  const Dataset set = ft::data::cifar10_file(folder.file("three.bin", bytes), 3);
  CHECK(set.count() == 3);
  CHECK(set.classes == 10);
  CHECK(set.labels == std::vector<std::uint8_t>{0, 1, 2});
  for (std::size_t r : {0u, 2u}) {
    for (std::size_t c : {0u, 1u, 2u}) {
      for (std::size_t p : {0u, 33u, 1023u}) {
        CHECK(set.images[r * 3072 + p * 3 + c] == bytes[r * 3073 + 1 + c * 1024 + p]);
      }
    }
  }
  const Dataset fine = ft::data::cifar100_file(folder.file("hundred.bin", records(2, 2)));
  CHECK(fine.count() == 2);
  CHECK(fine.classes == 100);
}

TEST_CASE("a bad CIFAR file is named, with the place and what was expected") {
  const Folder folder;
  const auto error = [](const std::string& path, std::int64_t expected) {
    return message_of([&] { ft::data::cifar10_file(path, expected); });
  };
  std::vector<std::uint8_t> bytes = records(4, 1);

  const std::string none = error((folder.path / "none.bin").string(), 0);
  CHECK(contains(none, "none.bin"));
  CHECK(contains(none, "found nothing"));
  CHECK(contains(error(folder.path.string(), 0), "no regular file"));
  CHECK(contains(error(folder.file("empty.bin", {}), 0), "got 0 bytes"));

  const std::string four = folder.file("four.bin", bytes);
  const std::string shorter = error(four, 5);
  CHECK(contains(shorter, "expected 15365 bytes (5 records of 3073), got 12292"));
  CHECK(contains(shorter, "cut off at byte 12292, in record 4"));
  CHECK(contains(error(four, 3), "goes on after byte 9219"));

  bytes.resize(10'000);
  const std::string part = error(folder.file("part.bin", bytes), 0);
  CHECK(contains(part, "part.bin"));
  CHECK(contains(part, "record 3, at byte 9219, is cut off"));

  bytes = records(4, 1);
  bytes[2 * 3073] = 10;
  const std::string label = error(folder.file("label.bin", bytes), 4);
  CHECK(contains(label, "label.bin, byte 6146 (record 2): expected a label from 0 to 9, got 10"));

  bytes = records(2, 2);
  bytes[3074 + 1] = 100;
  const std::string fine = folder.file("fine.bin", bytes);
  CHECK(contains(message_of([&] { ft::data::cifar100_file(fine); }), "byte 3075 (record 1)"));

  CHECK(contains(message_of([&] { ft::data::cifar10(folder.path.string()); }), "data_batch_1.bin"));
  folder.file("test_batch.bin", records(2, 1));
  CHECK(contains(message_of([&] { ft::data::cifar10(folder.path.string(), ft::data::Split::test); }),
                 "expected 30730000 bytes"));
}

TEST_CASE("generated images: equal classes, the same for a seed, another for another") {
  const Dataset set = ft::data::synthetic_images({.count = 200, .size = 16, .seed = 5});
  CHECK(set.count() == 200);
  CHECK(set.images.size() == 200u * 16 * 16 * 3);
  for (int label = 0; label < 10; ++label)
    CHECK(std::count(set.labels.begin(), set.labels.end(), label) == 20);
  CHECK(ft::data::synthetic_images({.count = 200, .size = 16, .seed = 5}).images == set.images);
  CHECK(ft::data::synthetic_images({.count = 200, .size = 16, .seed = 6}).images != set.images);
  CHECK_THROWS_AS(ft::data::synthetic_images({.classes = 1}), ft::Error);
  CHECK_THROWS_AS(ft::data::synthetic_images({.count = 0}), ft::Error);
}

TEST_CASE("an epoch hands out every image once") {
  DataLoader loader(numbered(23),
                    {.batch = 5, .drop_last = false, .mean = {0, 0}, .stddev = {1, 1}, .seed = 3});
  CHECK(loader.batches() == 5);
  std::multiset<int> seen;
  std::vector<std::int64_t> sizes;
  for (const auto& [images, labels] : loader) {
    CHECK(images.dtype() == ft::DType::f32);
    CHECK(labels.dtype() == ft::DType::i64);
    sizes.push_back(images.size(0));
    const std::vector<float> pixels = images.to_vector();
    const std::vector<std::int64_t> classes = labels.to_vector<std::int64_t>();
    for (std::size_t i = 0; i < classes.size(); ++i) {
      const int number = static_cast<int>(pixels[i * 60] * 255 + 0.5f);
      seen.insert(number);
      CHECK(classes[i] == number % 10);
    }
  }
  CHECK(sizes == std::vector<std::int64_t>{5, 5, 5, 5, 3});
  CHECK(seen.size() == 23);
  CHECK(std::set<int>(seen.begin(), seen.end()).size() == 23);
  CHECK(loader.epoch() == 1);

  DataLoader full(numbered(23), {.batch = 5});
  CHECK(full.batches() == 4);
}

TEST_CASE("an evaluation loader hands out every image in order; images() counts what an epoch hands out") {
  using ft::data::DataLoaderOptions;
  struct Row {
    DataLoaderOptions options;
    std::int64_t images, batches;
  };
  const Row rows[] = {{DataLoaderOptions::evaluation(5), 23, 5},
                      {DataLoaderOptions::evaluation(), 23, 1},
                      {DataLoaderOptions::evaluation(std::numeric_limits<std::int64_t>::max()), 23, 1},
                      {{.batch = 5}, 20, 4},
                      {{.batch = 23}, 23, 1}};
  for (const Row& row : rows) {
    CAPTURE(row.options.batch);
    DataLoader loader(numbered(23), row.options);
    CHECK(loader.images() == row.images);
    CHECK(loader.batches() == row.batches);
    std::int64_t handed_out = 0;
    for (const auto& [images, labels] : loader) {
      if (!row.options.drop_last) {
        CHECK(labels.to_vector<std::int64_t>()[0] == handed_out % 10);
      }
      handed_out += images.size(0);
    }
    CHECK(handed_out == row.images);
  }
}

TEST_CASE("a second loop inside a loop over the same loader is an Error that names both lines") {
  const auto set = std::make_shared<const Dataset>(numbered(16));
  DataLoader loader(set, {.batch = 4}), other(set, {.batch = 4});
  int outer = 0;
  const auto nested = [&] {
    for ([[maybe_unused]] const auto& batch : loader) {  // the outer line
      ++outer;
      for ([[maybe_unused]] const auto& inner : loader) break;
    }
  };
  const std::string message = message_of(nested);
  CHECK(contains(message, "is still going on"));
  CHECK(contains(message, "in line " + std::to_string(__LINE__ - 7) + " of data_test.cpp"));
  CHECK(contains(message, "data_test.cpp:" + std::to_string(__LINE__ - 6)));
  CHECK(outer == 1);

  const auto batches_of = [](DataLoader& from) {
    int count = 0;
    for ([[maybe_unused]] const auto& batch : from) ++count;
    return count;
  };
  CHECK(batches_of(loader) == 3);  // after the Error, the rest of that epoch
  for ([[maybe_unused]] const auto& batch : loader) break;
  CHECK(batches_of(loader) == 3);  // after a break
  for ([[maybe_unused]] const auto& batch : loader) CHECK(batches_of(other) == 4);
  CHECK(loader.epoch() == 3);

  DataLoader::Iterator mine = loader.begin(), copy = mine;
  mine = {};
  CHECK_THROWS_AS(loader.begin(), ft::Error);  // the copy may still go on
  for (int i = 0; i < 4; ++i) ++copy;
  CHECK(copy == loader.end());
  CHECK(batches_of(loader) == 4);
}

TEST_CASE("order and augmentation depend on seed and epoch, not on threads") {
  const auto epochs = [](bool prefetch, std::uint64_t seed) {
    DataLoader loader(numbered(40),
                      {.batch = 8, .crop = 2, .flip = true, .prefetch = prefetch, .seed = seed});
    return std::pair(numbers_of_epoch(loader), numbers_of_epoch(loader));
  };
  const auto ahead = epochs(true, 1), direct = epochs(false, 1), other = epochs(true, 2);
  CHECK(ahead == direct);
  CHECK(ahead.first != ahead.second);
  CHECK(ahead.first != other.first);
}

TEST_CASE("a loader goes on where its state says") {
  const ft::data::DataLoaderOptions options{.batch = 8, .crop = 2, .flip = true, .seed = 9};
  DataLoader whole(numbered(50), options);
  numbers_of_epoch(whole);
  std::vector<std::vector<float>> batches;
  for (const auto& [images, labels] : whole) batches.push_back(images.to_vector());

  DataLoader first(numbered(50), options);
  numbers_of_epoch(first);
  int taken = 0;
  for ([[maybe_unused]] const auto& batch : first) {
    if (++taken == 2) break;
  }
  const DataLoader::State state = first.state();
  CHECK(state == DataLoader::State{9, 1, 2});

  DataLoader resumed(numbered(50), {.batch = 8, .crop = 2, .flip = true, .seed = 1});
  resumed.set_state(state);
  for (DataLoader* loader : {&first, &resumed}) {  // after a break, and from a state
    std::size_t next = 2;
    for (const auto& [images, labels] : *loader) CHECK(images.to_vector() == batches.at(next++));
    CHECK(next == batches.size());
    CHECK(loader->epoch() == 2);
  }

  resumed.set_state({9, 1, 6});  // saved in the last batch's turn
  CHECK(resumed.begin() == resumed.end());
  CHECK(resumed.epoch() == 2);
  CHECK_THROWS_AS(resumed.set_state({9, 1, 7}), ft::Error);
  CHECK_THROWS_AS(resumed.set_state({9, -1, 0}), ft::Error);
}

TEST_CASE("an augmented image is a shifted, perhaps mirrored window of its source") {
  bool reflect = false;
  SUBCASE("with a black border") {}
  SUBCASE("with a mirrored border") { reflect = true; }
  const Dataset set = numbered(30);
  DataLoader loader(set, {.batch = 30,
                          .shuffle = false,
                          .crop = 2,
                          .reflect = reflect,
                          .flip = true,
                          .mean = {0, 0},
                          .stddev = {1, 1}});
  const std::vector<float> pixels = (*loader.begin()).images.to_vector();
  const auto mirrored_at_ends = [](std::int64_t i, std::int64_t extent) {
    return i < 0 ? -i : i < extent ? i : 2 * extent - 2 - i;
  };
  const auto source = [&](std::int64_t n, std::int64_t y, std::int64_t x, std::int64_t c) {
    if (reflect) y = mirrored_at_ends(y, 6), x = mirrored_at_ends(x, 5);
    if (y < 0 || y >= 6 || x < 0 || x >= 5) return 0;
    return static_cast<int>(set.images[static_cast<std::size_t>(n * 60 + (y * 5 + x) * 2 + c)]);
  };
  std::set<std::array<std::int64_t, 3>> variants;
  for (std::int64_t n = 0; n < 30; ++n) {
    int matches = 0;
    for (std::int64_t dy = -2; dy <= 2; ++dy) {
      for (std::int64_t dx = -2; dx <= 2; ++dx) {
        for (std::int64_t mirror : {0, 1}) {
          bool same = true;
          for (std::int64_t i = 0; i < 60 && same; ++i) {
            const std::int64_t y = i / 10, x = i / 2 % 5, c = i % 2;
            const int got = static_cast<int>(pixels[static_cast<std::size_t>(n * 60 + i)] * 255 + 0.5f);
            same = got == source(n, y + dy, (mirror != 0 ? 4 - x : x) + dx, c);
          }
          if (same) variants.insert({dy, dx, mirror});
          matches += same ? 1 : 0;
        }
      }
    }
    // A row of five that was shifted by two is its own mirror image where the border is one.
    CHECK(matches >= 1);
    CHECK(matches <= (reflect ? 2 : 1));
  }
  CHECK(variants.size() > 10);
}

TEST_CASE("alternate flips mirror an image in every other epoch, half of all in the first") {
  const Dataset set = numbered(64);
  DataLoader loader(
      set,
      {.batch = 64, .shuffle = false, .flip = true, .alternate = true, .mean = {0, 0}, .stddev = {1, 1}});
  const auto epoch = [&] {
    std::vector<float> pixels;
    for (const auto& [images, labels] : loader) pixels = images.to_vector();
    return pixels;
  };
  const auto as_it_is = [&](const std::vector<float>& pixels, std::size_t n) {
    return static_cast<int>(pixels[n * 60] * 255 + 0.5f) == set.images[n * 60];
  };
  const std::vector<float> first = epoch(), second = epoch(), third = epoch();
  int plain = 0;
  for (std::size_t n = 0; n < 64; ++n) {
    CHECK(as_it_is(first, n) != as_it_is(second, n));
    plain += as_it_is(first, n) ? 1 : 0;
  }
  CHECK(first == third);
  loader.set_state({.seed = 0, .epoch = 7, .position = 0});
  CHECK(epoch() == second);
  CHECK(plain > 16);
  CHECK(plain < 48);
}

TEST_CASE("mirrored exchanges left and right, and nothing else") {
  Dataset set{.images = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
              .labels = {4},
              .height = 2,
              .width = 3,
              .channels = 2};
  const Dataset mirror = ft::data::mirrored(set);
  CHECK(mirror.images == std::vector<std::uint8_t>{5, 6, 3, 4, 1, 2, 11, 12, 9, 10, 7, 8});
  CHECK(mirror.labels == set.labels);
  CHECK(ft::data::mirrored(mirror).images == set.images);
  CHECK(ft::data::mirrored({}).images.empty());
  set.images.pop_back();
  CHECK(contains(message_of([&] { ft::data::mirrored(set); }),
                 "expected 12 bytes of images for 1 labels and images of {2, 3, 2}, got 11"));
}

TEST_CASE("cutout blanks one square of the augmented image, wherever it lies") {
  const Dataset set = numbered(200);
  const auto pixels = [&](std::int64_t cutout) {
    DataLoader loader(set, {.batch = 200, .shuffle = false, .crop = 1, .flip = true, .cutout = cutout});
    return (*loader.begin()).images.to_vector();
  };
  const std::vector<float> whole = pixels(0), holed = pixels(3), empty = pixels(20);
  std::set<std::array<std::int64_t, 2>> middles;
  for (std::int64_t n = 0; n < 200; ++n) {
    const auto is_holed = [&](std::int64_t middle_y, std::int64_t middle_x) {
      for (std::int64_t i = 0; i < 60; ++i) {
        const bool hole = std::abs(i / 10 - middle_y) <= 1 && std::abs(i / 2 % 5 - middle_x) <= 1;
        const auto at = static_cast<std::size_t>(n * 60 + i);
        if (holed[at] != (hole ? 0 : whole[at])) return false;
      }
      return true;
    };
    int matches = 0;
    for (std::int64_t middle = 0; middle < 30; ++middle) {
      if (!is_holed(middle / 5, middle % 5)) continue;
      middles.insert({middle / 5, middle % 5});
      ++matches;
    }
    CHECK(matches >= 1);  // a black border may hide where the square lies
  }
  CHECK(middles.size() == 30);
  CHECK(std::count(empty.begin(), empty.end(), 0.0f) == 200 * 60);
}

TEST_CASE("pixels are normalised per channel") {
  Dataset set;
  set.height = set.width = 1;
  set.images = {0, 255, 51};
  set.labels = {3};
  DataLoader loader(set, {.batch = 1, .mean = {0.5, 0.25, 0}, .stddev = {0.5, 0.25, 2}});
  const std::vector<float> pixels = (*loader.begin()).images.to_vector();
  CHECK(pixels[0] == doctest::Approx(-1));
  CHECK(pixels[1] == doctest::Approx(3));
  CHECK(pixels[2] == doctest::Approx(0.1));
}

TEST_CASE("a loader normalises by the data set's mean and deviation, unless told") {
  using Numbers = std::vector<double>;
  const Folder folder;
  const std::string ten = folder.file("ten.bin", records(2, 1)),
                    hundred = folder.file("fine.bin", records(2, 2));
  const Dataset generated = ft::data::synthetic_images({.count = 2, .size = 8});
  const Dataset mine{.images = {51}, .labels = {0}, .height = 1, .width = 1, .channels = 1};
  const Dataset mine_too{
      .images = {51}, .labels = {0}, .height = 1, .width = 1, .channels = 1, .mean = {0.4}, .stddev = {0.5}};
  struct Row {
    const char* what;
    Dataset set;
    Numbers mean, stddev;  // of pixels in [0, 1]
  };
  const Numbers cifar10_mean{0.4914, 0.4822, 0.4465}, cifar10_stddev{0.2470, 0.2435, 0.2616};
  const Row rows[] = {
      {"CIFAR-10", ft::data::cifar10_file(ten), cifar10_mean, cifar10_stddev},
      {"CIFAR-100", ft::data::cifar100_file(hundred), {0.5071, 0.4865, 0.4409}, {0.2673, 0.2564, 0.2762}},
      {"generated", generated, cifar10_mean, cifar10_stddev},
      {"mirrored", ft::data::mirrored(generated), cifar10_mean, cifar10_stddev},
      {"without", mine, {0}, {1}},
      {"with", mine_too, {0.4}, {0.5}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    const std::size_t channels = row.mean.size();
    const std::map<std::string, double> settings = DataLoader(row.set, {.batch = 1}).settings();
    DataLoader loader(row.set, {.batch = 1, .shuffle = false});
    const std::vector<float> pixels = (*loader.begin()).images.to_vector();
    for (std::size_t c = 0; c < channels; ++c) {
      CHECK(settings.at("mean." + std::to_string(c)) == row.mean[c]);
      CHECK(settings.at("stddev." + std::to_string(c)) == row.stddev[c]);
      CHECK(pixels[c] == doctest::Approx((row.set.images[c] / 255.0 - row.mean[c]) / row.stddev[c]));
    }
    DataLoader told(
        row.set,
        {.batch = 1, .shuffle = false, .mean = Numbers(channels, 0), .stddev = Numbers(channels, 1)});
    CHECK((*told.begin()).images.to_vector()[0] == doctest::Approx(row.set.images[0] / 255.0));
  }
}

TEST_CASE("a loader refuses what it cannot load") {
  const auto error = [](Dataset set, ft::data::DataLoaderOptions options) {
    return message_of([&] { DataLoader(std::move(set), options); });
  };
  CHECK(contains(error(Dataset{}, {}), "at least one image"));
  CHECK(contains(error(numbered(5), {.batch = 0}), "batch ≥ 1"));
  CHECK(contains(error(numbered(5), {.batch = 6}), "drop_last"));
  CHECK(contains(error(numbered(5), {.batch = 5, .crop = -1}), "crop"));
  CHECK(contains(error(numbered(5), {.batch = 5, .cutout = -1}), "cutout ≥ 0"));
  CHECK(contains(error(numbered(5), {.batch = 5, .mean = {1}}), "mean for 2 channels"));
  CHECK(contains(error(numbered(5), {.batch = 5, .stddev = {1, 0}}), "stddev > 0"));
  Dataset set = numbered(5);
  set.mean = {0.5};
  CHECK(contains(error(set, {.batch = 5}), "mean for 2 channels"));
  set.mean = {}, set.stddev = {1, -1};
  CHECK(contains(error(set, {.batch = 5}), "stddev > 0"));
  set.stddev = {};
  set.labels[3] = 10;
  CHECK(contains(error(set, {.batch = 5}), "10 at image 3"));
  set.labels.pop_back();
  CHECK(contains(error(set, {.batch = 2}), "240 bytes of images"));
  CHECK_THROWS_AS(DataLoader(std::shared_ptr<const Dataset>(), {}), ft::Error);
}

TEST_CASE("numbers too large for what is counted with them are refused, by the caller's line") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const Folder folder;
  const std::string two = folder.file("two.bin", records(2, 1));
  const auto with_extents = [](std::int64_t height, std::int64_t width, std::int64_t channels) {
    Dataset set = numbered(5);
    set.height = height, set.width = width, set.channels = channels;
    return set;
  };
  const auto loader = [](ft::data::DataLoaderOptions options) { DataLoader(numbered(5), options); };
  struct Row {
    const char* says;
    std::function<void()> call;
  };
  const Row rows[] = {
      {"expected a number of records", [&] { ft::data::cifar10_file(two, -1); }},
      {"expected a number of records", [&] { ft::data::cifar10_file(two, most); }},
      {"expected a number of records", [&] { ft::data::cifar100_file(two, most / 3000); }},
      {"(1000000000000 records of 3073), got 6146", [&] { ft::data::cifar10_file(two, 1'000'000'000'000); }},
      {"there is no memory", [] { ft::data::synthetic_images({.count = most}); }},
      {"there is no memory", [] { ft::data::synthetic_images({.count = 1, .size = most}); }},
      {"there is no memory", [] { ft::data::synthetic_images({.count = std::int64_t{1} << 50, .size = 8}); }},
      {"more than 2^63 bytes", [&] { ft::data::mirrored(with_extents(most, 4, 1)); }},
      {"height, width, channels ≥ 1", [&] { ft::data::mirrored(with_extents(-6, -5, 2)); }},
      // 2^63 + 2^63 + 60: what wraps to the number of bytes that are there
      {"more than 2^63 bytes", [&] { DataLoader(with_extents(std::int64_t{1} << 62, 8, 1)); }},
      {"height, width, channels ≥ 1", [&] { DataLoader(with_extents(6, 5, 0)); }},
      {"crop ≥ 0", [&] { loader({.batch = 5, .crop = most}); }},
      {"crop ≥ 0", [&] { loader({.batch = 5, .crop = std::int64_t{1} << 31}); }},
      {"cutout ≥ 0", [&] { loader({.batch = 5, .cutout = most}); }},
      {"with reflect, crop < 5, got 5", [&] { loader({.batch = 5, .crop = 5, .reflect = true}); }},
      {"expected flip where alternate is on", [&] { loader({.batch = 5, .alternate = true}); }},
      {"a finite mean",
       [&] {
         loader({.batch = 5, .mean = {0, std::nan("")}});
       }},
      {"a finite stddev",
       [&] {
         loader({.batch = 5, .stddev = {1, HUGE_VAL}});
       }},
      {"epoch from 0",
       [&] {
         DataLoader(numbered(5), {.batch = 5}).set_state({0, most, 0});
       }},
      {"position from 0",
       [&] {
         DataLoader(numbered(5), {.batch = 5}).set_state({0, 0, most});
       }},
  };
  for (const Row& row : rows) {
    CAPTURE(row.says);
    if (!new_throws && contains(row.says, "no memory")) continue;
    const std::string message = message_of(row.call);
    CHECK(contains(message, row.says));
    CHECK(contains(message, "data_test.cpp"));
  }
  DataLoader whole(numbered(5), {.batch = most, .drop_last = false});
  CHECK(whole.batches() == 1);
  CHECK((*whole.begin()).images.size(0) == 5);
}

TEST_CASE("a loader may go away in the middle of an epoch") {
  const auto set = std::make_shared<const Dataset>(numbered(64));
  for (int round = 0; round < 20; ++round) {
    DataLoader loader(set, {.batch = 2});
    int taken = 0;
    for ([[maybe_unused]] const auto& batch : loader) {
      if (++taken > round) break;
    }
  }
}
