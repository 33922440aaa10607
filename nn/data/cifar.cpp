#include <filesystem>
#include <fstream>
#include <string>

#include "fusetape/data.hpp"
#include "nn/data/checks.hpp"
#include "nn/data/files.hpp"
#include "nn/data/normalisation.hpp"

/// The binary archives of CIFAR: records of label bytes and 32x32 pixels as planes of red, green and blue.
namespace fusetape::data {
namespace {

constexpr std::int64_t side = 32, channels = 3, pixels = side * side;

struct Format {
  const char* name;
  std::int64_t label_bytes;  ///< the last one is the label
  std::int64_t label_limit[2];
  Normalisation (*normalisation)();
  std::int64_t record() const { return label_bytes + channels * pixels; }
};
constexpr Format cifar10_format{"cifar10", 1, {10, 0}, cifar10_normalisation};
constexpr Format cifar100_format{"cifar100", 2, {20, 100}, cifar100_normalisation};  // coarse, fine

std::int64_t checked_records(const Format& format, const std::string& path, std::int64_t expected,
                             Location at) {
  const core::Checked wanted = core::Checked(expected) * format.record();
  if (expected < 0 || !wanted.fits()) {
    throw Error(format.name, "expected a number of records, or 0 for any, got " + std::to_string(expected),
                at);
  }
  const std::int64_t bytes =
      file_bytes(format.name, path, std::to_string(format.record()) + "-byte records", at);
  if (expected > 0 && bytes != wanted.value()) {
    throw Error(format.name,
                path + ": expected " + std::to_string(wanted.value()) + " bytes (" +
                    std::to_string(expected) + " records of " + std::to_string(format.record()) + "), got " +
                    std::to_string(bytes) +
                    (bytes < wanted.value() ? ": it is cut off at byte " + std::to_string(bytes) +
                                                  ", in record " + std::to_string(bytes / format.record())
                                            : ": it goes on after byte " + std::to_string(wanted.value())),
                at);
  }
  if (bytes == 0 || bytes % format.record() != 0) {
    const std::int64_t whole = bytes / format.record();
    throw Error(format.name,
                path + ": expected a whole number of " + std::to_string(format.record()) +
                    "-byte records, got " + std::to_string(bytes) + " bytes: record " +
                    std::to_string(whole) + ", at byte " + std::to_string(whole * format.record()) +
                    ", is cut off",
                at);
  }
  return bytes / format.record();
}

std::uint8_t checked_label(const Format& format, const std::string& path, std::int64_t offset,
                           const std::uint8_t* record, Location at) {
  for (std::int64_t i = 0; i < format.label_bytes; ++i) {
    if (record[i] < format.label_limit[i]) continue;
    throw Error(format.name,
                path + ", byte " + std::to_string(offset + i) + " (record " +
                    std::to_string(offset / format.record()) + "): expected a label from 0 to " +
                    std::to_string(format.label_limit[i] - 1) + ", got " + std::to_string(record[i]),
                at);
  }
  return record[format.label_bytes - 1];
}

void append_records(const Format& format, const std::string& path, std::int64_t count, Dataset& dataset,
                    Location at) {
  dataset.labels.reserve(dataset.labels.size() + static_cast<std::size_t>(count));
  dataset.images.reserve(dataset.images.size() + static_cast<std::size_t>(count * dataset.image_bytes()));
  std::ifstream file(path, std::ios::binary);
  std::vector<std::uint8_t> record(static_cast<std::size_t>(format.record()));
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t offset = r * format.record();
    if (!file.read(reinterpret_cast<char*>(record.data()), static_cast<std::streamsize>(record.size()))) {
      throw Error(format.name,
                  path + ": cannot read record " + std::to_string(r) + " at byte " + std::to_string(offset),
                  at);
    }
    dataset.labels.push_back(checked_label(format, path, offset, record.data(), at));
    const std::uint8_t* planes = record.data() + format.label_bytes;
    const std::size_t first = dataset.images.size();
    dataset.images.resize(first + static_cast<std::size_t>(channels * pixels));
    std::uint8_t* image = dataset.images.data() + first;
    for (std::int64_t p = 0; p < pixels; ++p) {
      for (std::int64_t c = 0; c < channels; ++c) image[p * channels + c] = planes[c * pixels + p];
    }
  }
}

void append_file(const Format& format, const std::string& path, std::int64_t expected, Dataset& dataset,
                 Location at) {
  const std::int64_t count = checked_records(format, path, expected, at);
  within_memory(format.name, std::to_string(count) + " images of " + path, at,
                [&] { append_records(format, path, count, dataset, at); });
}

Dataset empty_dataset(const Format& format) {
  const Normalisation by = format.normalisation();
  return {.images = {},
          .labels = {},
          .height = side,
          .width = side,
          .channels = channels,
          .classes = format.label_limit[format.label_bytes - 1],
          .mean = by.mean,
          .stddev = by.stddev};
}

/// The folder itself, or the one that the archive unpacks to.
std::filesystem::path folder_with(const std::string& folder, const char* unpacked, const std::string& file) {
  const std::filesystem::path inside = std::filesystem::path(folder) / unpacked;
  std::error_code error;
  const bool here = std::filesystem::exists(std::filesystem::path(folder) / file, error);
  return !here && std::filesystem::is_directory(inside, error) ? inside : std::filesystem::path(folder);
}

}  // namespace

Dataset cifar10_file(const std::string& path, std::int64_t expected, Location at) {
  Dataset dataset = empty_dataset(cifar10_format);
  append_file(cifar10_format, path, expected, dataset, at);
  return dataset;
}

Dataset cifar100_file(const std::string& path, std::int64_t expected, Location at) {
  Dataset dataset = empty_dataset(cifar100_format);
  append_file(cifar100_format, path, expected, dataset, at);
  return dataset;
}

Dataset cifar10(const std::string& folder, Split split, Location at) {
  require_split("cifar10", split, at);
  constexpr std::int64_t per_file = 10'000;
  std::vector<std::string> names{"test_batch.bin"};
  if (split == Split::train) {
    names = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
             "data_batch_5.bin"};
  }
  const std::filesystem::path root = folder_with(folder, "cifar-10-batches-bin", names[0]);
  Dataset dataset = empty_dataset(cifar10_format);
  for (const std::string& name : names)
    append_file(cifar10_format, (root / name).string(), per_file, dataset, at);
  return dataset;
}

Dataset cifar100(const std::string& folder, Split split, Location at) {
  require_split("cifar100", split, at);
  const std::string name = split == Split::train ? "train.bin" : "test.bin";
  const std::int64_t count = split == Split::train ? 50'000 : 10'000;
  const std::filesystem::path root = folder_with(folder, "cifar-100-binary", name);
  return cifar100_file((root / name).string(), count, at);
}

}  // namespace fusetape::data
