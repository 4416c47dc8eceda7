#include "src/report/task_tables.h"

#include <gmock/gmock.h>

#include <cmath>

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TaskFigures figures(const std::string& task, std::int64_t right, std::int64_t items) {
  TaskFigures one{.task = task, .kind = "arc", .file = task + ".jsonl", .error = {}};
  one.right.fill({.right = right, .items = items});
  return one;
}

std::vector<WidthResult> two_widths() {
  WidthResult low{.weight_bits = 4,
                  .activation_bits = 8,
                  .map = {},
                  .wants_held_out = false,
                  .answers = {},
                  .tasks = {},
                  .texts = {},
                  .error = {},
                  .size = {}};
  WidthResult full = low;
  full.weight_bits = full.activation_bits = 32;
  low.tasks = {figures("easy", 25, 100), figures("odd_name", 0, 10)};
  full.tasks = {figures("easy", 50, 100), {.task = "odd_name", .kind = "arc", .file = "f", .error = "line 3 is bad"}};
  return {low, full};
}

TEST(TaskTable, HasAColumnATaskAndTheBestMeanFirst) {
  EXPECT_EQ(task_table(two_widths(), ChoiceRule::kSum).csv(),
            "Bits,W,A,KV,Size,easy,odd_name,Avg\n"
            "32,32,32,32,0 B,50.0 ±5.0,,50.0\n"
            "4,4,8,32,0 B,25.0 ±4.4,0.0 ±0.0,12.5\n");
}

TEST(TaskTable, IsTextMarkdownAndLatexAndSaysWhatIsMissing) {
  const auto widths = two_widths();
  EXPECT_THAT(task_tables_text(widths),
              AllOf(HasSubstr(" - | 50.0 |"), HasSubstr("no result of odd_name: line 3 is bad\n")));
  EXPECT_THAT(task_tables_markdown(widths), AllOf(HasSubstr("**50.0**"), HasSubstr("## Accuracy (%) by the log-lik")));
  EXPECT_THAT(task_tables_latex(widths),
              AllOf(HasSubstr("% Accuracy (\\%)"), HasSubstr("odd\\_name"), HasSubstr(" & - &"), Not(HasSubstr("**"))));
  EXPECT_EQ(task_tables_text({WidthResult{}}), "");
}

TEST(TaskTable, ValuesForProgramsHaveNoNumberForWhatIsMissing) {
  const std::string json = to_json(tasks_value(two_widths()[1].tasks));
  EXPECT_THAT(json, AllOf(HasSubstr(R"("easy":{"kind":"arc","file":"easy.jsonl","items":100,"accuracy":0.5,)"),
                          HasSubstr(R"("accuracy_per_byte":0.5)"),
                          HasSubstr(R"("odd_name":{"kind":"arc","file":"f","error":"line 3 is bad"})")));
}

TEST(FinalReport, OfTasksAloneHasNoTableOfPerplexities) {
  FinalReport report{.title = "Evaluation", .summary = {}, .widths = two_widths()};
  report.widths[0].size.effective_bits = 4.0;
  EXPECT_THAT(to_text(report), Not(HasSubstr("Perplexity")));
  EXPECT_THAT(to_markdown(report), Not(HasSubstr("Perplexity")));
  EXPECT_THAT(to_json(to_value(report)), AllOf(HasSubstr("\"zero_shot\""), HasSubstr("\"accuracy_per_bit\":0.03125"),
                                               Not(HasSubstr("no tokens were scored"))));
}

}  // namespace
}  // namespace qat
