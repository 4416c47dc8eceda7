#include "src/report/status_file.h"

#include "src/base/clock.h"
#include "src/base/file.h"
#include "src/base/json.h"

namespace qat {
namespace {

Value text_or_null(const std::string& text) { return text.empty() ? Value() : Value(text); }

}  // namespace

bool write_status(const std::filesystem::path& path, const StatusRecord& record) {
  Value value = Value::object({{"state", record.state},
                               {"last_step", record.last_step ? Value(*record.last_step) : Value()},
                               {"checkpoint", text_or_null(record.checkpoint)},
                               {"section", record.section},
                               {"host", record.host},
                               {"pid", record.pid},
                               {"job", text_or_null(record.job)},
                               {"time", utc_time(std::chrono::system_clock::now())}});
  if (record.state == "stopped" || record.state == "failed") value.set("exit_code", record.exit_code);
  if (!record.what.empty()) value.set("what", record.what);
  value.set("next", text_or_null(record.next_command));
  return replace_file(path, to_json(value, 2) + "\n");
}

}  // namespace qat
