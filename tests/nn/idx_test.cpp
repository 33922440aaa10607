// IDX files, MNIST's format, and everything that can be wrong with a pair of them.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "scratch_folder.hpp"

namespace ft = fusetape;
using ft::data::Dataset;
using fusetape::tests::contains;
using fusetape::tests::message_of;

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes words(const std::vector<std::uint32_t>& numbers) {
  Bytes bytes;
  for (const std::uint32_t number : numbers) {
    for (const int shift : {24, 16, 8, 0}) bytes.push_back(static_cast<std::uint8_t>(number >> shift));
  }
  return bytes;
}

Bytes joined(Bytes first, const Bytes& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

/// Two images of 2 rows and 3 columns, and their labels.
const Bytes pixels{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255};
const Bytes images = joined(words({0x803, 2, 2, 3}), pixels);
const Bytes labels = joined(words({0x801, 2}), {7, 0});

struct Files {
  fusetape::tests::ScratchFolder folder;
  Files() { std::filesystem::create_directories(folder.path()); }
  std::string file(const std::string& name, const Bytes& bytes) const {
    const std::string path = (folder.path() / name).string();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path;
  }
};

}  // namespace

TEST_CASE("a pair of IDX files becomes images of one channel") {
  const Files files;
  const Dataset set = ft::data::idx_files(files.file("images", images), files.file("labels", labels));
  CHECK(set.images == pixels);
  CHECK(set.labels == Bytes{7, 0});
  CHECK(set.height == 2);
  CHECK(set.width == 3);
  CHECK(set.channels == 1);
  CHECK(set.classes == 10);
  CHECK(set.mean.empty());

  ft::data::DataLoader loader(set, ft::data::DataLoaderOptions::evaluation(2));
  const ft::data::Batch& batch = *loader.begin();
  CHECK(batch.images.shape() == ft::Shape{2, 2, 3, 1});
  CHECK(batch.images.to_vector().back() == 1.0f);
  CHECK(batch.labels.to_vector<std::int64_t>() == std::vector<std::int64_t>{7, 0});
}

TEST_CASE("MNIST and Fashion-MNIST are read by their files' names, and bring their mean and deviation") {
  const Files files;
  const std::string folder = files.folder.path().string();
  for (const char* name : {"train-images-idx3-ubyte", "t10k-images-idx3-ubyte"}) files.file(name, images);
  for (const char* name : {"train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"}) files.file(name, labels);
  for (const ft::data::Split split : {ft::data::Split::train, ft::data::Split::test}) {
    const Dataset digits = ft::data::mnist(folder, split), clothes = ft::data::fashion_mnist(folder, split);
    CHECK(digits.images == pixels);
    CHECK(clothes.images == pixels);
    CHECK(digits.mean == std::vector<double>{0.1307});
    CHECK(digits.stddev == std::vector<double>{0.3081});
    CHECK(clothes.mean == std::vector<double>{0.2860});
    CHECK(clothes.stddev == std::vector<double>{0.3530});
  }
}

TEST_CASE("an error names the IDX file, what was expected and what came") {
  const Files files;
  const std::string good_images = files.file("images", images), good_labels = files.file("labels", labels);
  const auto of_images = [&](const Bytes& bytes) {
    const std::string path = files.file("wrong-images", bytes);
    return message_of([&] { ft::data::idx_files(path, good_labels); });
  };
  const auto of_labels = [&](const Bytes& bytes) {
    const std::string path = files.file("wrong-labels", bytes);
    return message_of([&] { ft::data::idx_files(good_images, path); });
  };
  Bytes longer = images;
  longer.push_back(0);
  const Bytes shorter(images.begin(), images.end() - 1), header(images.begin(), images.begin() + 10);
  constexpr std::uint32_t most = 0xffffffff;
  struct Row {
    std::string message;
    const char* says;
  };
  const Row rows[] = {
      {of_images({}), "wrong-images: expected a header of 16 bytes, got a file of 0"},
      {of_images(header), "wrong-images: expected a header of 16 bytes, got a file of 10"},
      {of_images(labels), "wrong-images: expected a header of 16 bytes, got a file of 10"},
      {of_labels(images), "wrong-labels: expected the magic number 0x00000801 of labels, got 0x00000803"},
      {of_images(joined(words({0x0d03, 2, 2, 3}), pixels)), "0x00000803 of images, got 0x00000d03"},
      {of_images(joined(words({0x1f8b0800, 2, 2, 3}), pixels)), "got gzip's: gunzip it"},
      {of_images(shorter), "expected 28 bytes (a header of 16 and 2x2x3), got 27: it is cut off"},
      {of_images(longer), "expected 28 bytes (a header of 16 and 2x2x3), got 29: it goes on after byte 28"},
      {of_images(words({0x803, 2, 0, 3})), "expected sizes ≥ 1, got 0 at byte 8"},
      {of_images(words({0x803, most, most, most})), "expected more than 2^63 bytes"},
      {of_images(words({0x803, most, most, 1})), "expected more than 2^63 bytes"},
      {of_images(words({0x803, most, 1u << 30, 1})),
       "expected 4611686017353646096 bytes (a header of 16 and 4294967295x1073741824x1), got 16"},
      {of_labels(joined(words({0x801, 3}), {1, 2, 3})), "got 2 images in "},
      {of_labels(joined(words({0x801, 3}), {1, 2, 3})), "wrong-labels"},
      {of_labels(joined(words({0x801, 2}), {1, 10})),
       "wrong-labels, byte 9 (label 1): expected a label from 0 to 9, got 10"},
      {message_of([&] { ft::data::idx_files(good_images, good_labels, 0); }), "from 1 to 256 classes, got 0"},
      {message_of([&] { ft::data::idx_files(good_images, good_labels, 7); }), "a label from 0 to 6, got 7"},
      {message_of([&] { ft::data::idx_files(good_images, files.folder.path().string()); }),
       "found no regular file"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.message);
    CAPTURE(row.says);
    CHECK(contains(row.message, row.says));
    CHECK(contains(row.message, "idx_test.cpp"));
  }

  const std::string folder = files.folder.path().string();
  const auto mnist = [&] { ft::data::mnist(folder); };
  CHECK(contains(message_of(mnist), "train-images-idx3-ubyte, found nothing"));
  files.file("train-images-idx3-ubyte.gz", {0x1f, 0x8b});
  CHECK(contains(message_of(mnist), "train-images-idx3-ubyte.gz: gunzip it"));
  CHECK(contains(message_of([&] { ft::data::mnist(folder, static_cast<ft::data::Split>(2)); }),
                 "Split::train"));
}
