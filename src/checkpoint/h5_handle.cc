#include "src/checkpoint/h5_handle.h"

#include <fmt/format.h>
#include <hdf5.h>

#include <mutex>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kernels/common/error.h"

namespace qat {

static_assert(std::is_same_v<hid_t, H5Id>, "HDF5 1.10 or newer is needed");
static_assert(std::is_same_v<herr_t, int>);

namespace {

// HDF5 says of a failed system call "file write failed: time = ..., errno = 28, error message = 'No space left on
// device', buf = ...": the words before the colon and the quoted ones are what a person needs.
std::string cause_of(const std::string& description) {
  constexpr std::string_view kQuote = "error message = '";
  const std::size_t begin = description.find(kQuote);
  const std::size_t time = description.find(": time = ");
  if (begin == std::string::npos || time == std::string::npos) return description;
  const std::size_t end = description.find('\'', begin + kQuote.size());
  return description.substr(0, time + 2) + description.substr(begin + kQuote.size(), end - begin - kQuote.size());
}

}  // namespace

std::unique_lock<std::recursive_mutex> h5_lock() {
  static std::recursive_mutex mutex;
  return std::unique_lock(mutex);
}

void h5_prepare() {
  static std::once_flag once;
  std::call_once(once, [] { (void)H5dont_atexit(); });
  // Per call: a thread-safe HDF5 keeps one error stack, and its printer, per thread.
  (void)H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::int64_t h5_open_objects() {
  const auto lock = h5_lock();
  return H5Fget_obj_count(static_cast<hid_t>(H5F_OBJ_ALL), H5F_OBJ_ALL);
}

void throw_h5_error(const char* call, const std::filesystem::path& file, const char* source, int line) {
  std::vector<std::string> frames;
  const auto collect = [](unsigned, const H5E_error2_t* frame, void* out) -> herr_t {
    if (frame->desc != nullptr && *frame->desc != '\0') {
      static_cast<std::vector<std::string>*>(out)->emplace_back(frame->desc);
    }
    return 0;
  };
  (void)H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, collect, &frames);
  (void)H5Eclear2(H5E_DEFAULT);
  // The first frame is the call that failed, the last its cause (often with errno); those between are HDF5's inside.
  std::string text = "no reason given";
  if (!frames.empty()) text = frames.front();
  if (frames.size() > 1) text += ": " + cause_of(frames.back());
  throw Error(ErrorKind::kCheckpoint,
              fmt::format("{}: HDF5: {} (in `{}` at {}:{})", file.string(), text, call, source, line));
}

}  // namespace qat
