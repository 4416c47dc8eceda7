// How fast one core turns text into GPT-2 tokens:
//
//   tokenize_bench MERGES VOCAB TEXT [SECONDS]      VOCAB may be "" (ids follow from the merges)
//
// Writes one JSON line, in MB (1e6 bytes) of text a second: the first pass (the cache of pieces is empty), the median
// of all passes by wall and by processor time, and the split into pieces alone.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "src/base/file.h"
#include "src/text/byte_pair_tokenizer.h"
#include "src/text/pre_tokenizer.h"

namespace {

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Processor time of this thread: what wall time would be on an idle machine.
double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

double split_seconds(const std::string& text) {
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) {
    const double begin = cpu_seconds();
    qat::PreTokenCursor cursor(text);
    for (std::string_view piece; cursor.next(piece);) {
    }
    times.push_back(cpu_seconds() - begin);
  }
  return median(times);
}

void run(const std::string& merges, const std::string& vocab, const std::string& path, double seconds) {
  const double load_begin = cpu_seconds();
  const qat::BytePairTokenizer tokenizer = qat::BytePairTokenizer::load(merges, vocab);
  const double load = cpu_seconds() - load_begin;
  const std::string text = qat::read_file(path);
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  std::vector<int> ids;
  std::vector<double> wall, cpu;
  for (const double begin = wall_seconds(); wall.size() < 3 || wall_seconds() - begin < seconds;) {
    ids.clear();
    const double wall_begin = wall_seconds(), cpu_begin = cpu_seconds();
    tokenizer.encode_to(text, ids);
    wall.push_back(wall_seconds() - wall_begin);
    cpu.push_back(cpu_seconds() - cpu_begin);
  }
  fmt::print(
      "{{\"bench\":\"tokenize\",\"text\":\"{}\",\"bytes\":{},\"tokens\":{},\"passes\":{},\"load_cpu_ms\":{:.1f},"
      "\"first_cpu_mb_s\":{:.1f},\"mb_s\":{:.1f},\"cpu_mb_s\":{:.1f},\"split_cpu_mb_s\":{:.1f}}}\n",
      path, text.size(), ids.size(), wall.size(), load * 1e3, megabytes / cpu.front(), megabytes / median(wall),
      megabytes / median(cpu), megabytes / split_seconds(text));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::fprintf(stderr, "usage: %s MERGES VOCAB TEXT [SECONDS]\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3], argc == 5 ? std::stod(argv[4]) : 2.0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
