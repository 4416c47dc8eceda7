#include "src/report/event_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>
#include <utility>

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "events.out.tfevents.";
constexpr std::size_t kHead = 12, kTail = 4;  // of a record's frame

constexpr std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value & 1U) != 0 ? (value >> 1U) ^ 0x82F63B78U : value >> 1U;
    table[i] = value;
  }
  return table;
}

template <typename T>
void add_little_endian(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>((value >> (8 * i)) & 0xFFU));
}

template <typename T>
T little_endian(std::string_view bytes) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) value |= static_cast<T>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  return value;
}

// Fields of a protobuf message, by number and wire type.
enum class Wire : std::uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

class Message {
 public:
  Message& varint(int field, std::uint64_t value) {
    key(field, Wire::kVarint);
    raw_varint(value);
    return *this;
  }
  Message& number(int field, double value) {
    key(field, Wire::kFixed64);
    add_little_endian(bytes_, std::bit_cast<std::uint64_t>(value));
    return *this;
  }
  Message& number(int field, float value) {
    key(field, Wire::kFixed32);
    add_little_endian(bytes_, std::bit_cast<std::uint32_t>(value));
    return *this;
  }
  Message& text(int field, std::string_view bytes) {
    key(field, Wire::kBytes);
    raw_varint(bytes.size());
    bytes_.append(bytes);
    return *this;
  }
  Message& numbers(int field, const std::vector<double>& values) {  // packed
    key(field, Wire::kBytes);
    raw_varint(values.size() * sizeof(double));
    for (const double value : values) add_little_endian(bytes_, std::bit_cast<std::uint64_t>(value));
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void key(int field, Wire wire) { raw_varint(static_cast<std::uint64_t>(field) << 3U | static_cast<unsigned>(wire)); }
  void raw_varint(std::uint64_t value) {
    for (; value >= 0x80U; value >>= 7U) bytes_.push_back(static_cast<char>((value & 0x7FU) | 0x80U));
    bytes_.push_back(static_cast<char>(value));
  }
  std::string bytes_;
};

// The next varint, taken off; nothing where there is none.
std::optional<std::uint64_t> take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
    if ((byte & 0x80U) == 0) return value;
  }
  return std::nullopt;
}

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

// Event: wall_time 1, step 2, file_version 3, summary 5, session_log 7.
Message event(double wall_time, std::int64_t step) {
  Message message;
  message.number(1, wall_time);
  if (step != 0) message.varint(2, static_cast<std::uint64_t>(step));
  return message;
}

Message histogram_message(const HistogramSummary& values) {
  Message message;
  message.number(1, values.min).number(2, values.max).number(3, values.count);
  message.number(4, values.sum).number(5, values.sum_squares);
  message.numbers(6, values.limits).numbers(7, values.counts);
  return message;
}

std::vector<fs::path> files_of(const fs::path& dir) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(dir))
    if (entry.path().filename().string().starts_with(kPrefix)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

// Leaves the file with the events before next_step; removes it where there are none.
void cut(const fs::path& path, std::int64_t next_step) {
  const std::string bytes = read_file(path, ErrorKind::kConfig);
  const ReadRecords records = read_records(bytes);
  std::string kept;
  bool any = false;
  for (std::size_t i = 0; i < records.data.size(); ++i) {
    const std::optional<std::int64_t> step = step_of_event(records.data[i]);
    if (!step || *step >= next_step) continue;
    kept += framed_record(records.data[i]);
    any = any || i > 0;
  }
  if (!any)
    fs::remove(path);
  else if (kept.size() != bytes.size())
    write_file_atomic(path, kept);
}

// What came before the steps to come is kept; the new file's name sorts behind the others', which is the order that
// they are read in.
fs::path prepare_folder(const fs::path& dir, std::int64_t next_step) {
  create_directories_checked(dir, "run.dir's folder tensorboard");
  try {
    for (const fs::path& path : files_of(dir)) cut(path, next_step);
    const std::vector<fs::path> left = files_of(dir);
    std::array<char, 256> host{};
    if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '-';
    for (auto seconds = static_cast<std::int64_t>(now());; ++seconds) {
      fs::path path = dir / fmt::format("{}{:010}.{}.{}", kPrefix, seconds, host.data(), ::getpid());
      if (left.empty() || left.back() < path) return path;
    }
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorKind::kConfig, fmt::format("cannot keep event files in {}: {}", dir.string(), error.what()));
  }
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<std::uint32_t, 256> kTable = crc_table();
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : bytes) crc = kTable[(crc ^ static_cast<unsigned char>(c)) & 0xFFU] ^ (crc >> 8U);
  return crc ^ 0xFFFFFFFFU;
}

std::uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8U; }

std::string framed_record(std::string_view data) {
  std::string record;
  record.reserve(data.size() + kHead + kTail);
  add_little_endian(record, static_cast<std::uint64_t>(data.size()));
  add_little_endian(record, masked_crc32c(record));
  record.append(data);
  add_little_endian(record, masked_crc32c(data));
  return record;
}

ReadRecords read_records(std::string_view bytes) {
  ReadRecords records;
  while (bytes.size() >= kHead + kTail) {
    const auto length = little_endian<std::uint64_t>(bytes);
    if (little_endian<std::uint32_t>(bytes.substr(8)) != masked_crc32c(bytes.substr(0, 8))) break;
    if (length > bytes.size() - kHead - kTail) break;
    const std::string_view data = bytes.substr(kHead, length);
    if (little_endian<std::uint32_t>(bytes.substr(kHead + length)) != masked_crc32c(data)) break;
    records.data.push_back(data);
    records.good_bytes += kHead + length + kTail;
    bytes.remove_prefix(kHead + length + kTail);
  }
  return records;
}

std::string version_event(double wall_time) { return event(wall_time, 0).text(3, "brain.Event:2").bytes(); }

std::string start_event(double wall_time, std::int64_t step) {
  return event(wall_time, step).text(7, Message().varint(1, 1).bytes()).bytes();  // SessionLog: status 1, START
}

// Summary: value 1; of a value: tag 1, simple_value 2, histo 5.
std::string summary_event(double wall_time, std::int64_t step, const EventSummary& summary) {
  Message all;
  for (const EventSummary::Scalar& scalar : summary.scalars)
    all.text(1, Message().text(1, scalar.tag).number(2, static_cast<float>(scalar.value)).bytes());
  for (const EventSummary::Histogram& one : summary.histograms)
    all.text(1, Message().text(1, one.tag).text(5, histogram_message(one.values).bytes()).bytes());
  return event(wall_time, step).text(5, all.bytes()).bytes();
}

std::optional<std::int64_t> step_of_event(std::string_view event) {
  std::int64_t step = 0;
  while (!event.empty()) {
    const std::optional<std::uint64_t> key = take_varint(event);
    if (!key) return std::nullopt;
    std::uint64_t skipped = 0;
    switch (static_cast<Wire>(*key & 7U)) {
      case Wire::kVarint: {
        const std::optional<std::uint64_t> value = take_varint(event);
        if (!value) return std::nullopt;
        if (*key >> 3U == 2) step = static_cast<std::int64_t>(*value);
        break;
      }
      case Wire::kFixed64:
        skipped = sizeof(std::uint64_t);
        break;
      case Wire::kFixed32:
        skipped = sizeof(std::uint32_t);
        break;
      case Wire::kBytes: {
        const std::optional<std::uint64_t> length = take_varint(event);
        if (!length) return std::nullopt;
        skipped = *length;
        break;
      }
      default:
        return std::nullopt;
    }
    if (skipped > event.size()) return std::nullopt;
    event.remove_prefix(skipped);
  }
  return step;
}

EventFiles::EventFiles(const fs::path& dir, std::int64_t next_step)
    : path_(prepare_folder(dir, next_step)),
      fd_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  const double time = now();
  write_event(version_event(time));
  if (next_step > 0) write_event(start_event(time, next_step));
}

std::string EventFiles::event_of(std::int64_t step, const EventSummary& summary) {
  return summary.empty() ? "" : summary_event(now(), step, summary);
}

void EventFiles::write(std::int64_t step, const EventSummary& summary) { write_event(event_of(step, summary)); }

void EventFiles::write_event(std::string_view event) {
  if (event.empty() || write_all(fd_.get(), framed_record(event))) return;
  throw Error(ErrorKind::kConfig,
              fmt::format("cannot write {}: {}", path_.string(), std::generic_category().message(errno)));
}

}  // namespace qat
