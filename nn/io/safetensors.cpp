#include <algorithm>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <system_error>

#include "core/atomic_file.hpp"
#include "core/numerics/checked.hpp"
#include "fusetape/io.hpp"
#include "nn/io/foreign_dtypes.hpp"
#include "nn/io/raw_tensor.hpp"
#include "nn/within_memory.hpp"

/// The safetensors format: 8 bytes of header length (little-endian), the header in JSON, then the tensors'
/// bytes, without gaps.
namespace fusetape::io {
namespace {

using Json = nlohmann::json;
static_assert(std::endian::native == std::endian::little);

constexpr std::uint64_t header_limit = 100'000'000;  // the format's own
constexpr const char* metadata_key = "__metadata__";

constexpr std::int64_t most_elements = std::int64_t{1} << 56;  // of any tensor

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
  std::string name, dtype_name;
  std::vector<std::int64_t> extents{};
  std::optional<DType> dtype{};          ///< none: a foreign one
  const ForeignType* foreign = nullptr;  ///< may be none, too
  std::uint64_t begin = 0, end = 0;
};

/// What a parser would swallow on its way into a map: a name that stands twice. And nothing is nested more
/// deeply than the format needs.
class Strictness : public nlohmann::json_sax<Json> {
 public:
  std::string fault;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    const bool fresh = names_.back().insert(name).second;
    if (!fresh) fault = "the name '" + name + "' stands twice in the header";
    return fresh;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;  // the parser says it better
  }

 private:
  bool open() {
    names_.emplace_back();
    if (names_.size() > 3) fault = "the header is nested too deeply";
    return fault.empty();
  }
  bool close() {
    names_.pop_back();
    return true;
  }

  std::vector<std::set<std::string>> names_;  ///< of the objects that are open
};

/// Reads and checks one file; every mistake becomes an Error that names it.
class Reader {
 public:
  Reader(const std::string& path, const LoadTensorsOptions& options, Location at)
      : path_(path), options_(options), at_(at) {}

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
    for (const Entry& each : wanted(std::move(entries), result)) {
      result.tensors.emplace(each.name, tensor(each));
    }
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
    Strictness strictness;
    Json::sax_parse(text, &strictness);
    if (!strictness.fault.empty()) fail(strictness.fault);
    try {
      return Json::parse(text);
    } catch (const Json::exception& error) {
      fail(std::string("the header is no JSON: ") + error.what());
    }
  }

  Metadata metadata(const Json& value) const {
    Metadata result;
    if (value.is_null()) return result;
    if (!value.is_object()) fail(std::string(metadata_key) + " is not an object");
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

    if (offsets.size() != 2) fail(where + "expected two data_offsets, got " + std::to_string(offsets.size()));

    Entry result{.name = name, .dtype_name = value["dtype"].get<std::string>()};
    result.dtype = dtype_named(result.dtype_name);
    if (!result.dtype) result.foreign = foreign_type(result.dtype_name);
    result.begin = offsets[0].get<std::uint64_t>();
    result.end = offsets[1].get<std::uint64_t>();
    for (const Json& extent : shape) {
      const core::Checked checked(extent.get<std::uint64_t>());
      if (!checked.fits()) fail(where + "an extent of the shape is too large");
      result.extents.push_back(checked.value());
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
    if (!entry.dtype && entry.foreign == nullptr) return;  // nobody knows how many bytes it has
    core::Checked nonzero = 1;
    for (std::int64_t extent : entry.extents) nonzero = nonzero * (extent == 0 ? 1 : extent);
    if (!nonzero.within(1, most_elements)) fail(where + "the shape is larger than a tensor can be");
    const bool empty = std::count(entry.extents.begin(), entry.extents.end(), 0) > 0;
    const std::size_t element = entry.dtype ? size_of(*entry.dtype) : entry.foreign->bytes;
    const std::uint64_t bytes = empty ? 0 : static_cast<std::uint64_t>(nonzero.value()) * element;
    if (bytes != entry.end - entry.begin) {
      fail(where + "expected " + std::to_string(bytes) + " bytes for " + Json(entry.extents).dump() + " " +
           entry.dtype_name + ", got " + std::to_string(entry.end - entry.begin));
    }
  }

  /// The tensors cover the data without overlap or gap. Sorts them as their data lies.
  void check_cover(std::vector<Entry>& entries) const {
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

  /// Those to be made into tensors, in the order of their data.
  std::vector<Entry> wanted(std::vector<Entry> entries, TensorFile& file) const {
    std::set<std::string> missing(options_.names.begin(), options_.names.end());
    std::vector<Entry> result;
    for (Entry& entry : entries) {
      if (!options_.names.empty() && missing.erase(entry.name) == 0) continue;
      if (!entry.dtype && options_.foreign == ForeignDType::skip) {
        file.skipped.push_back(entry.name);
        continue;
      }
      check_ours(entry);
      result.push_back(std::move(entry));
    }
    if (!missing.empty()) fail("there is no tensor named '" + *missing.begin() + "' in it");
    return result;
  }

  void check_ours(const Entry& entry) const {
    const std::string where = "tensor '" + entry.name + "': ";
    const bool convert = options_.foreign == ForeignDType::convert && entry.foreign != nullptr;
    if (!entry.dtype && !convert) {
      fail(where + "expected a dtype of F32, F64, BF16, F16, I64, U8, BOOL, got " + entry.dtype_name +
           (entry.foreign != nullptr ? "; LoadTensorsOptions::foreign says whether to convert or to skip it"
                                     : "; LoadTensorsOptions::foreign says whether to skip it"));
    }
    if (entry.extents.size() > Shape::max_rank) {
      fail(where + "expected at most 8 axes, got " + std::to_string(entry.extents.size()));
    }
  }

  Tensor tensor(const Entry& entry) {
    const Shape shape{std::span<const std::int64_t>(entry.extents)};
    if (!entry.dtype) return converted(entry, shape);
    auto [result, data] = unwritten_tensor(shape, *entry.dtype, at_);
    const std::uint64_t count = entry.end - entry.begin;
    if (count > 0) read_bytes(data_begin_ + entry.begin, data, count);
    if (*entry.dtype == DType::boolean) {
      const auto bad = std::find_if(data, data + count, [](std::byte b) { return b > std::byte{1}; });
      if (bad != data + count) fail("tensor '" + entry.name + "': a BOOL is neither 0 nor 1");
    }
    return result;
  }

  Tensor converted(const Entry& entry, const Shape& shape) {
    std::vector<std::byte> raw(entry.end - entry.begin);
    if (!raw.empty()) read_bytes(data_begin_ + entry.begin, raw.data(), raw.size());
    const ForeignType& type = *entry.foreign;
    auto [result, data] = unwritten_tensor(shape, type.becomes, at_);
    for (std::size_t from = 0; from < raw.size(); from += type.bytes, data += size_of(type.becomes)) {
      if (!type.convert(raw.data() + from, data)) {
        fail("tensor '" + entry.name + "': element " + std::to_string(from / type.bytes) + " of " +
             entry.dtype_name + " is no " + std::string(name_of(type.becomes)));
      }
    }
    return result;
  }

  const std::string& path_;
  const LoadTensorsOptions& options_;
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

/// Put together by hand: an ordered object of the JSON library looks for every name among all before it.
std::string header_of(const std::vector<std::pair<std::string, Tensor>>& order, const Metadata& metadata) {
  std::string text = "{";
  const auto add = [&](const std::string& name, const nlohmann::ordered_json& value) {
    if (text.size() > 1) text += ',';
    text += nlohmann::json(name).dump() + ':' + value.dump();
  };
  if (!metadata.empty()) add(metadata_key, metadata);
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : order) {
    const std::uint64_t end = offset + byte_count(tensor);
    add(name, {{"dtype", format_name(tensor.dtype())},
               {"shape", std::vector<std::int64_t>(tensor.shape().begin(), tensor.shape().end())},
               {"data_offsets", {offset, end}}});
    offset = end;
  }
  return text + "}";
}

/// `replace`, whose failures become Errors with the file's name.
template <class Replace>
void replacing(const std::string& path, Location at, Replace&& replace) {
  try {
    replace();
  } catch (const std::system_error& error) {
    throw Error("save", path + ": " + error.what(), at);
  }
}

}  // namespace

TensorFile load_tensors(const std::string& path, const LoadTensorsOptions& options, Location at) {
  if (options.foreign > ForeignDType::convert) {
    throw Error("load",
                "expected a ForeignDType: refuse, skip or convert, got " +
                    std::to_string(static_cast<int>(options.foreign)),
                at);
  }
  return within_memory("load", "what " + path + " holds", at,
                       [&] { return Reader(path, options, at).read(); });
}

void save_tensors(const std::string& path, const TensorFile& file, Location at) {
  const auto order = in_file_order(path, file, at);
  std::vector<const std::byte*> data;
  data.reserve(order.size());
  for (const auto& [name, tensor] : order) data.push_back(bytes_of(tensor, at));

  std::string text;
  try {
    text = header_of(order, file.metadata);
  } catch (const nlohmann::json::exception& error) {
    throw Error("save", path + ": a name or a text of the metadata is no UTF-8: " + error.what(), at);
  }
  text.append((8 - text.size() % 8) % 8, ' ');

  replacing(path, at, [&] {
    core::AtomicFile out(path);
    const std::uint64_t length = text.size();
    out.write({reinterpret_cast<const char*>(&length), 8});
    out.write(text);
    for (std::size_t i = 0; i < order.size(); ++i)
      out.write({reinterpret_cast<const char*>(data[i]), byte_count(order[i].second)});
    out.commit();
  });
}

void replace_file(const std::string& path, std::string_view contents, Location at) {
  replacing(path, at, [&] { core::replace_file(path, contents); });
}

void remove_abandoned(const std::string& path) { core::remove_abandoned(path); }

}  // namespace fusetape::io
