#include <algorithm>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "fusetape/io.hpp"
#include "nn/io/atomic_file.hpp"
#include "nn/io/raw_tensor.hpp"

/// The safetensors format: 8 bytes of header length (little-endian), the header in JSON, then the tensors'
/// bytes, without gaps.
namespace fusetape::io {
namespace {

using Json = nlohmann::json;
static_assert(std::endian::native == std::endian::little);

constexpr std::uint64_t header_limit = 100'000'000;  // the format's own
constexpr const char* metadata_key = "__metadata__";

constexpr std::pair<const char*, DType> dtype_names[] = {
    {"F64", DType::f64}, {"I64", DType::i64}, {"F32", DType::f32},      {"BF16", DType::bf16},
    {"F16", DType::f16}, {"U8", DType::u8},   {"BOOL", DType::boolean},
};

const char* format_name(DType dtype) {
  for (const auto& [name, known] : dtype_names) {
    if (known == dtype) return name;
  }
  return "";
}

std::optional<DType> dtype_named(const std::string& name) {
  for (const auto& [known, dtype] : dtype_names) {
    if (name == known) return dtype;
  }
  return std::nullopt;
}

struct Entry {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;
  std::uint64_t begin = 0, end = 0;
};

/// Reads and checks one file; every mistake becomes an Error that names it.
class Reader {
 public:
  Reader(const std::string& path, Location at) : path_(path), at_(at) {}

  TensorFile read() {
    open();
    const Json header = parse(read_header());
    TensorFile result;
    std::vector<Entry> entries;
    for (const auto& [name, value] : header.items()) {
      if (name == metadata_key) {
        result.metadata = metadata(value);
      } else {
        entries.push_back(entry(name, value));
      }
    }
    check_cover(entries);
    for (const Entry& each : entries) result.tensors.emplace(each.name, tensor(each));
    return result;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error("load", path_ + ": " + what, at_); }

  void open() {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path_, error)) {
      fail(std::filesystem::exists(path_, error) ? "expected a file, got something else"
                                                 : "there is no such file");
    }
    bytes_ = std::filesystem::file_size(path_, error);
    if (error) fail(error.message());
    file_.open(path_, std::ios::binary);
    if (!file_) fail("cannot be opened for reading");
  }

  void read_bytes(std::uint64_t offset, void* to, std::uint64_t count) {
    file_.seekg(static_cast<std::streamoff>(offset));
    if (!file_.read(static_cast<char*>(to), static_cast<std::streamsize>(count))) {
      fail("cannot read " + std::to_string(count) + " bytes at byte " + std::to_string(offset));
    }
  }

  std::string read_header() {
    if (bytes_ < 8) fail("not a safetensors file: expected at least 8 bytes, got " + std::to_string(bytes_));
    std::uint64_t length = 0;
    read_bytes(0, &length, 8);
    if (length > header_limit || length > bytes_ - 8) {
      fail("not a safetensors file, or cut off: its first 8 bytes announce a header of " +
           std::to_string(length) + " bytes, and " + std::to_string(bytes_ - 8) + " bytes follow");
    }
    std::string text(length, '\0');
    read_bytes(8, text.data(), length);
    if (text.empty() || text[0] != '{') fail("not a safetensors file: the header does not begin with '{'");
    data_begin_ = 8 + length;
    return text;
  }

  Json parse(const std::string& text) const {
    std::set<std::string> names;
    const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
      if (depth > 3) fail("the header is nested too deeply");
      if (depth == 1 && event == Json::parse_event_t::key && !names.insert(value.get<std::string>()).second) {
        fail("the name '" + value.get<std::string>() + "' stands twice in the header");
      }
      return true;
    };
    try {
      return Json::parse(text, check);
    } catch (const Json::exception& error) {
      fail(std::string("the header is no JSON: ") + error.what());
    }
  }

  Metadata metadata(const Json& value) const {
    if (!value.is_object()) fail(std::string(metadata_key) + " is not an object");
    Metadata result;
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) fail(std::string(metadata_key) + ": the value of '" + key + "' is not a string");
      result.emplace(key, text.get<std::string>());
    }
    return result;
  }

  Entry entry(const std::string& name, const Json& value) const {
    const std::string where = "tensor '" + name + "': ";
    const auto array_of_counts = [&](const char* key) -> const Json& {
      const auto found = value.is_object() ? value.find(key) : value.end();
      const bool good =
          value.is_object() && found != value.end() && found->is_array() &&
          std::all_of(found->begin(), found->end(), [](const Json& n) { return n.is_number_unsigned(); });
      if (!good) fail(where + "expected '" + key + "' to be a list of whole numbers ≥ 0");
      return *found;
    };
    const Json& shape = array_of_counts("shape");
    const Json& offsets = array_of_counts("data_offsets");
    if (!value.contains("dtype") || !value["dtype"].is_string()) fail(where + "expected a 'dtype'");

    const auto dtype = dtype_named(value["dtype"].get<std::string>());
    if (!dtype) {
      fail(where + "expected a dtype of F32, F64, BF16, F16, I64, U8, BOOL, got " +
           value["dtype"].get<std::string>());
    }
    if (shape.size() > Shape::max_rank)
      fail(where + "expected at most 8 axes, got " + std::to_string(shape.size()));
    if (offsets.size() != 2) fail(where + "expected two data_offsets, got " + std::to_string(offsets.size()));

    Entry result{name, {}, *dtype, offsets[0].get<std::uint64_t>(), offsets[1].get<std::uint64_t>()};
    for (const Json& extent : shape) {
      constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
      if (extent.get<std::uint64_t>() > most) fail(where + "an extent of the shape is too large");
      result.shape.push_back(extent.get<std::int64_t>());
    }
    check_bytes(result, where);
    return result;
  }

  void check_bytes(const Entry& entry, const std::string& where) const {
    const std::uint64_t available = bytes_ - data_begin_;
    if (entry.begin > entry.end || entry.end > available) {
      fail(where + "expected data_offsets within " + std::to_string(available) + " bytes of data, got [" +
           std::to_string(entry.begin) + ", " + std::to_string(entry.end) +
           "]: a wrong header, or a file cut off");
    }
    // Never multiplied out of range: the count of bytes is bounded by the file.
    std::uint64_t bytes = size_of(entry.dtype);
    for (std::int64_t extent : entry.shape) {
      if (extent == 0) bytes = 0;
    }
    for (std::int64_t extent : entry.shape) {
      if (bytes == 0) break;
      if (static_cast<std::uint64_t>(extent) > available / bytes)
        fail(where + "the shape is larger than the file");
      bytes *= static_cast<std::uint64_t>(extent);
    }
    if (bytes != entry.end - entry.begin) {
      fail(where + "expected " + std::to_string(bytes) + " bytes for " + to_string(entry.shape) + " " +
           format_name(entry.dtype) + ", got " + std::to_string(entry.end - entry.begin));
    }
  }

  /// The tensors cover the data without overlap or gap.
  void check_cover(std::vector<Entry> entries) const {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    std::uint64_t covered = 0;
    for (const Entry& entry : entries) {
      if (entry.begin != covered) {
        fail("tensor '" + entry.name + "': expected its data at offset " + std::to_string(covered) +
             ", got " + std::to_string(entry.begin) +
             (entry.begin < covered ? ": it overlaps another" : ": a gap before it"));
      }
      covered = entry.end;
    }
    if (covered != bytes_ - data_begin_) {
      fail("expected " + std::to_string(covered) + " bytes of data, got " +
           std::to_string(bytes_ - data_begin_));
    }
  }

  Tensor tensor(const Entry& entry) {
    auto [result, data] = unwritten_tensor(entry.shape, entry.dtype, at_);
    const std::uint64_t count = entry.end - entry.begin;
    if (count > 0) read_bytes(data_begin_ + entry.begin, data, count);
    if (entry.dtype == DType::boolean) {
      const auto bad = std::find_if(data, data + count, [](std::byte b) { return b > std::byte{1}; });
      if (bad != data + count) fail("tensor '" + entry.name + "': a BOOL is neither 0 nor 1");
    }
    return result;
  }

  const std::string& path_;
  Location at_;
  std::ifstream file_;
  std::uint64_t bytes_ = 0, data_begin_ = 0;
};

/// The larger dtypes first, so that every tensor is aligned; then by name.
std::vector<std::pair<std::string, Tensor>> in_file_order(const std::string& path, const TensorFile& file,
                                                          Location at) {
  std::vector<std::pair<std::string, Tensor>> order(file.tensors.begin(), file.tensors.end());
  for (const auto& [name, tensor] : order) {
    if (name == metadata_key) throw Error("save", path + ": a tensor cannot be named " + name, at);
    if (!tensor.defined()) throw Error("save", path + ": tensor '" + name + "' is undefined", at);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return size_of(a.second.dtype()) > size_of(b.second.dtype());
  });
  return order;
}

}  // namespace

TensorFile load_tensors(const std::string& path, Location at) { return Reader(path, at).read(); }

void save_tensors(const std::string& path, const TensorFile& file, Location at) {
  const auto order = in_file_order(path, file, at);
  std::vector<const std::byte*> data;
  data.reserve(order.size());
  for (const auto& [name, tensor] : order) data.push_back(bytes_of(tensor, at));

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!file.metadata.empty()) header[metadata_key] = file.metadata;
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : order) {
    const std::uint64_t end = offset + byte_count(tensor);
    header[name] = {{"dtype", format_name(tensor.dtype())},
                    {"shape", std::vector<std::int64_t>(tensor.shape().begin(), tensor.shape().end())},
                    {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    throw Error("save", path + ": a name or a text of the metadata is no UTF-8: " + error.what(), at);
  }
  text.append((8 - text.size() % 8) % 8, ' ');

  AtomicFile out(path, at);
  const std::uint64_t length = text.size();
  out.write(&length, 8);
  out.write(text.data(), text.size());
  for (std::size_t i = 0; i < order.size(); ++i) out.write(data[i], byte_count(order[i].second));
  out.commit();
}

}  // namespace fusetape::io
