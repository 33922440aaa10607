#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "fusetape/data.hpp"
#include "nn/data/checks.hpp"
#include "nn/data/files.hpp"
#include "nn/data/normalisation.hpp"

/// IDX, the format of MNIST: a magic number whose last byte says how many sizes follow, the sizes, then the
/// bytes of a dense array. Magic number and sizes are big-endian words of 32 bits.
namespace fusetape::data {
namespace {

struct Kind {
  const char* what;
  std::uint32_t magic;
  std::size_t rank() const { return magic & 0xff; }
  std::int64_t header_bytes() const { return 4 + 4 * static_cast<std::int64_t>(rank()); }
};
constexpr Kind images_kind{"images", 0x00000803}, labels_kind{"labels", 0x00000801};

struct Array {
  std::vector<std::int64_t> sizes;
  std::vector<std::uint8_t> bytes;
};

std::uint32_t big_endian(const std::uint8_t* word) {
  return std::uint32_t{word[0]} << 24 | std::uint32_t{word[1]} << 16 | std::uint32_t{word[2]} << 8 | word[3];
}

std::string hex(std::uint32_t number) {
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "0x%08x", static_cast<unsigned>(number));
  return text.data();
}

class Reader {
 public:
  Reader(const char* op, const Kind& kind, const std::string& path, Location at)
      : op_(op),
        kind_(kind),
        path_(path),
        at_(at),
        file_bytes_(file_bytes(op, path, std::string("IDX ") + kind.what, at)),
        file_(path, std::ios::binary) {}

  Array read() {
    Array array{.sizes = read_header(), .bytes = {}};
    const std::int64_t count = checked_count(array.sizes);
    within_memory(op_, std::to_string(array.sizes[0]) + " " + kind_.what + " of " + path_, at_,
                  [&] { array.bytes = read_bytes(count); });
    return array;
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const { throw Error(op_, path_ + ": " + why, at_); }

  std::vector<std::uint8_t> read_bytes(std::int64_t count) {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count));
    if (!file_.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(count)))
      refuse("cannot read " + std::to_string(count) + " bytes");
    return bytes;
  }

  std::vector<std::int64_t> read_header() {
    if (file_bytes_ < kind_.header_bytes()) {
      refuse("expected a header of " + std::to_string(kind_.header_bytes()) + " bytes, got a file of " +
             std::to_string(file_bytes_));
    }
    const std::vector<std::uint8_t> header = read_bytes(kind_.header_bytes());
    if (header[0] == 0x1f && header[1] == 0x8b) refuse("expected plain bytes, got gzip's: gunzip it");
    if (const std::uint32_t magic = big_endian(header.data()); magic != kind_.magic) {
      refuse("expected the magic number " + hex(kind_.magic) + " of " + kind_.what + ", got " + hex(magic));
    }
    std::vector<std::int64_t> sizes;
    for (std::size_t i = 1; i <= kind_.rank(); ++i) {
      sizes.push_back(big_endian(header.data() + 4 * i));
      if (sizes.back() == 0) refuse("expected sizes ≥ 1, got 0 at byte " + std::to_string(4 * i));
    }
    return sizes;
  }

  /// Of the array's bytes, which are all that the file holds beside its header.
  std::int64_t checked_count(const std::vector<std::int64_t>& sizes) const {
    core::Checked count = 1;
    std::string shape;
    for (const std::int64_t size : sizes) {
      count = count * size;
      shape += (shape.empty() ? "" : "x") + std::to_string(size);
    }
    const core::Checked whole = count + kind_.header_bytes();
    const std::string expected = whole.fits() ? std::to_string(whole.value()) : "more than 2^63";
    if (!whole.fits() || whole.value() != file_bytes_) {
      const bool cut = !whole.fits() || file_bytes_ < whole.value();
      refuse("expected " + expected + " bytes (a header of " + std::to_string(kind_.header_bytes()) +
             " and " + shape + "), got " + std::to_string(file_bytes_) +
             (cut ? ": it is cut off" : ": it goes on after byte " + expected));
    }
    return count.value();
  }

  const char* op_;
  const Kind& kind_;
  const std::string& path_;
  Location at_;
  std::int64_t file_bytes_;
  std::ifstream file_;
};

void check_labels(const char* op, const std::string& path, const Dataset& dataset, Location at) {
  for (std::size_t i = 0; i < dataset.labels.size(); ++i) {
    if (dataset.labels[i] < dataset.classes) continue;
    throw Error(op,
                path + ", byte " + std::to_string(labels_kind.header_bytes() + static_cast<std::int64_t>(i)) +
                    " (label " + std::to_string(i) + "): expected a label from 0 to " +
                    std::to_string(dataset.classes - 1) + ", got " + std::to_string(dataset.labels[i]),
                at);
  }
}

Dataset read_pair(const char* op, const std::string& images, const std::string& labels, std::int64_t classes,
                  Normalisation by, Location at) {
  if (classes < 1 || classes > 256)
    throw Error(op, "expected from 1 to 256 classes, got " + std::to_string(classes), at);
  Array pixels = Reader(op, images_kind, images, at).read();
  Array numbers = Reader(op, labels_kind, labels, at).read();
  if (pixels.sizes[0] != numbers.sizes[0]) {
    throw Error(op,
                "expected a label for each image, got " + std::to_string(pixels.sizes[0]) + " images in " +
                    images + " and " + std::to_string(numbers.sizes[0]) + " labels in " + labels,
                at);
  }
  Dataset dataset{.images = std::move(pixels.bytes),
                  .labels = std::move(numbers.bytes),
                  .height = pixels.sizes[1],
                  .width = pixels.sizes[2],
                  .channels = 1,
                  .classes = classes,
                  .mean = std::move(by.mean),
                  .stddev = std::move(by.stddev)};
  check_labels(op, labels, dataset, at);
  return dataset;
}

/// MNIST's two files, under the names that it came with.
Dataset read_folder(const char* op, const std::string& folder, Split split, Normalisation by, Location at) {
  require_split(op, split, at);
  const std::string name = split == Split::train ? "train" : "t10k";
  const std::filesystem::path root = folder;
  return read_pair(op, (root / (name + "-images-idx3-ubyte")).string(),
                   (root / (name + "-labels-idx1-ubyte")).string(), 10, std::move(by), at);
}

}  // namespace

Dataset idx_files(const std::string& images, const std::string& labels, std::int64_t classes, Location at) {
  return read_pair("idx_files", images, labels, classes, {}, at);
}

Dataset mnist(const std::string& folder, Split split, Location at) {
  return read_folder("mnist", folder, split, {{0.1307}, {0.3081}}, at);
}

Dataset fashion_mnist(const std::string& folder, Split split, Location at) {
  return read_folder("fashion_mnist", folder, split, {{0.2860}, {0.3530}}, at);
}

}  // namespace fusetape::data
