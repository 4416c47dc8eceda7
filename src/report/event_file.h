// Event files as TensorBoard reads them: records of TFRecord with masked CRC-32C, that hold messages of protobuf.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/file.h"

namespace qat {

// CRC-32C (Castagnoli; reflected polynomial 0x82F63B78), and what a record has of it: rotated right by 15 bits, plus
// 0xa282ead8.
std::uint32_t crc32c(std::string_view bytes);
std::uint32_t masked_crc32c(std::string_view bytes);

// length (8 bytes, little-endian), its masked CRC (4), the data, their masked CRC (4).
std::string framed_record(std::string_view data);

// The records of a file's bytes, up to the first that is torn or damaged.
struct ReadRecords {
  std::vector<std::string_view> data;  // of each, in `bytes`
  std::size_t good_bytes = 0;          // that these take with their frames
};
ReadRecords read_records(std::string_view bytes);

// A histogram in TensorBoard's form: counts[i] values are above limits[i - 1] and at most limits[i].
struct HistogramSummary {
  double min = 0.0, max = 0.0, sum = 0.0, sum_squares = 0.0, count = 0.0;
  std::vector<double> limits, counts;
};

// What is shown at one step.
struct EventSummary {
  struct Scalar {
    std::string tag;
    double value = 0.0;
  };
  struct Histogram {
    std::string tag;
    HistogramSummary values;
  };
  std::vector<Scalar> scalars;
  std::vector<Histogram> histograms;

  void scalar(std::string tag, double value) { scalars.push_back({std::move(tag), value}); }
  bool empty() const { return scalars.empty() && histograms.empty(); }
};

// Messages of type tensorflow.Event, not framed. wall_time: seconds since 1970.
std::string version_event(double wall_time);                   // what a file begins with
std::string start_event(double wall_time, std::int64_t step);  // "begins again at step": what was there of it goes
std::string summary_event(double wall_time, std::int64_t step, const EventSummary& summary);
// The step of an Event; 0 where it has none, as in its first one. Nothing if it is no Event.
std::optional<std::int64_t> step_of_event(std::string_view event);

// The event files of a run, in a folder of theirs. A resumed run goes on in a new file; what an earlier one wrote of
// the step that it begins with, and of later ones, is taken out of the files that are there, with a torn end.
class EventFiles {
 public:
  // next_step: the first one that will be written; 0: the files that are there are removed. Throws Error(kConfig).
  EventFiles(const std::filesystem::path& dir, std::int64_t next_step);

  // In the kernel's hands when it returns; nothing for an empty summary. Throws Error(kConfig).
  void write(std::int64_t step, const EventSummary& summary);
  // The same in two halves, of which the first may be another process's. Empty for an empty summary.
  static std::string event_of(std::int64_t step, const EventSummary& summary);
  void write_event(std::string_view event);

 private:
  std::filesystem::path path_;
  FileDescriptor fd_;
};

}  // namespace qat
