#include "src/generate/prompt_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/src/base/scratch_folder.h"
#include "tests/support/kernel_data.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PromptFile : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) const {
    const auto path = folder_.path() / name;
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }
  std::string error_of(const std::string& name, const std::string& text) const {
    const std::string path = write(name, text);
    return test::error_of(ErrorKind::kData, [&] { (void)read_prompts(path); });
  }

  ScratchFolder folder_;
};

TEST_F(PromptFile, HasAPromptALine) {
  EXPECT_THAT(read_prompts(write("a.txt", "one\n two \r\n\nlast")), ElementsAre("one", " two ", "", "last"));
  EXPECT_THAT(read_prompts(write("a.jsonl", "{\"prompt\": \"two\\nlines\", \"id\": 3}\n\n{\"prompt\":\"\"}\n")),
              ElementsAre("two\nlines", ""));
  // A byte order mark is an editor's.
  EXPECT_THAT(read_prompts(write("a.txt", "\xEF\xBB\xBFone\n\xEF\xBB\xBFtwo\n")),
              ElementsAre("one", "\xEF\xBB\xBFtwo"));
  EXPECT_THAT(read_prompts(write("a.jsonl", "\xEF\xBB\xBF{\"prompt\":\"one\"}\n")), ElementsAre("one"));
}

TEST_F(PromptFile, NamesTheLineThatIsNone) {
  EXPECT_THAT(error_of("b.jsonl", "{\"prompt\":\"x\"}\n{\"text\":\"y\"}\n"),
              AllOf(HasSubstr("b.jsonl, line 2"), HasSubstr("{\"text\":\"y\"}"), HasSubstr("{\"prompt\": \"text\"}")));
  EXPECT_THAT(error_of("b.jsonl", "{\"prompt\":7}"), HasSubstr("line 1"));
  EXPECT_THAT(error_of("b.jsonl", "{\"prompt\":\"x\"}\nnonsense\n"), HasSubstr("b.jsonl, line 2"));
  EXPECT_THAT(error_of("b.txt", ""), AllOf(HasSubstr("b.txt"), HasSubstr("no prompt")));
  EXPECT_THAT(test::error_of(ErrorKind::kData, [] { (void)read_prompts("/nowhere/x.txt"); }),
              HasSubstr("/nowhere/x.txt"));
}

}  // namespace
}  // namespace qat
