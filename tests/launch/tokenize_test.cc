// `qat_dist tokenize`, as a user meets it.
#include <cstdint>
#include <cstring>

#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Tokenize : public Cli {
 protected:
  // In the test's own folder, which `before` fills. A command that waits for a pipe that nobody writes to would wait
  // for ever: 124 stands for that.
  Outcome tokenize(const std::string& arguments, const std::string& before = "true") const {
    return shell("cd " + quote(root_.string()) + " && " + before + " && timeout 60 " + program() + " tokenize " +
                 arguments);
  }
  std::vector<std::uint16_t> tokens(const std::string& name) const {
    const std::string bytes = content(root_ / name);
    std::vector<std::uint16_t> ids((bytes.size() - std::min<std::size_t>(bytes.size(), 1024)) / 2);
    if (!ids.empty()) std::memcpy(ids.data(), bytes.data() + 1024, ids.size() * 2);
    return ids;
  }
  // Byte tokens as text, with | for the end of a text.
  std::string text(const std::string& name) const {
    std::string out;
    for (const std::uint16_t id : tokens(name)) out += id == 256 ? '|' : static_cast<char>(id);
    return out;
  }
};

TEST_F(Tokenize, TheCommandOfTheReadmeWorksInAFreshFolder) {
  const Outcome made = tokenize("my_books/*.txt --output data/mine --tokenizer byte",
                                "mkdir my_books && printf 'a book of a few words' >my_books/a.txt && printf "
                                "'another book of a few words' >my_books/b.txt");
  EXPECT_EQ(made.exit_code, 0) << made.text;
  EXPECT_THAT(made.text, AllOf(HasSubstr("2 documents, 48 bytes"), HasSubstr("the last 10 % of each of 2 documents"),
                               HasSubstr("data/mine_val.bin")));
  EXPECT_EQ(text("data/mine_train_000.bin").substr(0, 15), "|a book of a fe");
}

// Also where a name has characters that patterns, or JSON, have a use for.
TEST_F(Tokenize, TheSettingsItPrintsNameWhatItHasWritten) {
  const std::string words = "for i in $(seq 2000); do printf 'word %d ' $i; done >a.txt";
  const Outcome made = tokenize("a.txt --output 'my \"data\" [1]/{a,b} set*'", words);
  ASSERT_EQ(made.exit_code, 0) << made.text;
  const std::string mark = "In a configuration: ";
  const std::string settings = made.text.substr(made.text.find(mark) + mark.size());
  write("run.json", "{\"run\": {\"dir\": \"run\"}, " + settings + ", \"train\": {\"steps\": 2}}");
  const Outcome run = shell("cd " + quote(root_.string()) + " && " + program() + " --config run.json" +
                            " --set model.preset=nano --set data.sequence_length=16 --set train.batch_size=4" +
                            " --set precision.kind=constant --set eval.max_tokens=64 --set compute.device=cpu");
  EXPECT_EQ(run.exit_code, 0) << settings << run.text;
}

TEST_F(Tokenize, ManyShortDocumentsAreHeldOutWhole) {
  const Outcome made =
      tokenize("'t/*.txt' -o many --tokenizer byte",
               "mkdir t && for i in $(seq 300); do printf \"Short note $i: it's fine.\" >t/$i.txt; done");
  ASSERT_EQ(made.exit_code, 0) << made.text;
  EXPECT_THAT(made.text, AllOf(HasSubstr("held out: 30 whole documents: "), HasSubstr("% of the bytes")));
  const std::string held = text("many_val.bin"), trained = text("many_train_000.bin");
  EXPECT_EQ(count(held, "|"), 30U);
  EXPECT_EQ(count(held, "|Short note "), 30U);
  EXPECT_EQ(count(held, ": it's fine."), 30U);
  EXPECT_EQ(count(trained, "|Short note "), 270U);
  EXPECT_EQ(count(trained, ": it's fine."), 270U);
}

// U+1C89 became a letter in Unicode 16: after it, 's is a contraction of its own, which this vocabulary has a token
// for.
TEST_F(Tokenize, IdsDoNotDependOnTheMachinesUnicode) {
  const Outcome made = tokenize("t.txt -o t --tokenizer gpt2 --merges m.txt --val-fraction 0",
                                "printf '%s\\n' \"' s\" >m.txt && printf \"\\341\\262\\211's\" >t.txt");
  ASSERT_EQ(made.exit_code, 0) << made.text;
  const std::vector<std::uint16_t> ids = tokens("t_train_000.bin");
  ASSERT_EQ(ids.size(), 5U);
  EXPECT_EQ(ids.back(), 256);
}

TEST_F(Tokenize, WhatIsNoTextIsRefusedWithTheCommandThatMakesTextOfIt) {
  const Outcome refused = tokenize("*.* -o data/out",
                                   "printf 'plain words' >a.txt && printf 'packed words' | gzip -c >b.gz && printf "
                                   "'wide words' | iconv -t UTF-16 >'c d.txt'");
  EXPECT_EQ(refused.exit_code, 3);
  EXPECT_THAT(refused.text,
              AllOf(HasSubstr("2 of 3 inputs are not UTF-8 text"), HasSubstr("`zcat b.gz | qat_dist tokenize - ...`"),
                    HasSubstr("`iconv -f UTF-16 -t UTF-8 'c d.txt' | qat_dist tokenize - ...`")));
  EXPECT_FALSE(fs::exists(root_ / "data"));

  for (const char* share : {"0", "0.2"}) {
    const std::string options = std::string(" --overwrite --val-fraction ") + share;
    const Outcome piped = tokenize("- -o data/out" + options + " <b.gz");
    EXPECT_EQ(piped.exit_code, 3);
    EXPECT_THAT(piped.text, HasSubstr("standard input looks like gzip data: `... | zcat | qat_dist tokenize - ...`"));
    const Outcome mended =
        shell("cd " + quote(root_.string()) + " && zcat b.gz | " + program() + " tokenize - -o data/out" + options);
    EXPECT_EQ(mended.exit_code, 0) << mended.text;
    EXPECT_THAT(text("data/out_train_000.bin"), HasSubstr("|packed wo"));
  }
  const Outcome allowed = tokenize("b.gz -o data/out --overwrite --allow-binary --val-fraction 0");
  EXPECT_EQ(allowed.exit_code, 0) << allowed.text;
  EXPECT_EQ(text("data/out_train_000.bin"), "|" + content(root_ / "b.gz"));
}

// The input is a pipe without a writer: whoever starts to read it, before the fault is found, waits.
TEST_F(Tokenize, WhatCanFailIsFoundBeforeTheFirstDocumentIsRead) {
  const Outcome prepared = shell("cd " + quote(root_.string()) +
                                 " && mkfifo pipe && mkdir folder && : >file && printf x >old_train_000.bin && "
                                 "printf 'h e\\nh\\n' >bad.txt");
  ASSERT_EQ(prepared.exit_code, 0) << prepared.text;
  const auto fails = [&](const std::string& arguments, int exit_code, const std::string& message) {
    const Outcome run = tokenize("pipe " + arguments);
    EXPECT_EQ(run.exit_code, exit_code) << arguments << "\n" << run.text;
    EXPECT_THAT(run.text, HasSubstr(message)) << arguments;
  };
  fails("-o out --val-fraction 1.5", 2, "a held-out fraction of 1.5");
  fails("-o out --tokenizer gpt2", 2, "needs merges.txt");
  fails("-o out --tokenizer gpt2 --merges none.txt", 3, "cannot read none.txt: No such file");
  fails("-o out --tokenizer gpt2 --merges bad.txt", 3, "bad.txt: line 2");
  fails("none.txt 'no*.txt' folder -o out", 3, "3 of the inputs cannot be read");
  fails("./pipe -o out", 2, "pipe and ./pipe are the same file");
  fails("-o folder/", 2, "names no file");
  fails("-o file/out", 2, "is not a folder");
  fails("-o folder/" + std::string(250, 'n'), 3, "File name too long");
  fails("-o old", 3, "old_train_000.bin exists already");
  fails("old_train_000.bin -o old --overwrite", 2, "inputs that the output would replace");
  EXPECT_EQ(content(root_ / "old_train_000.bin"), "x");
  if (geteuid() != 0) {
    fs::permissions(root_ / "folder", fs::perms::owner_read | fs::perms::owner_exec);
    fails("-o folder/out", 2, "is not writable");
    fs::permissions(root_ / "folder", fs::perms::owner_all);
  }
  // Nothing may be written at all, as on a full disk.
  const Outcome full = tokenize("pipe -o new/out", "trap '' XFSZ && ulimit -f 0");
  EXPECT_EQ(full.exit_code, 3) << full.text;
  EXPECT_THAT(full.text, HasSubstr("bytes cannot be written to the output's folder new"));
  EXPECT_FALSE(fs::exists(root_ / "new"));
  EXPECT_TRUE(fs::is_empty(root_ / "folder"));
}

TEST_F(Tokenize, EmptyFilesAndByteOrderMarksAreMentioned) {
  const Outcome made =
      tokenize("1 2 3 -o out --val-fraction 0", ": >1 && printf '\\357\\273\\277marked' >2 && printf 'no line end' >3");
  ASSERT_EQ(made.exit_code, 0) << made.text;
  EXPECT_THAT(made.text, AllOf(HasSubstr("3 documents (1 empty), 20 bytes"), HasSubstr("held out: nothing"),
                               HasSubstr("1 document begins with a byte order mark (U+FEFF), which is kept")));
  EXPECT_EQ(text("out_train_000.bin"), "|\xEF\xBB\xBFmarked|no line end");
}

TEST_F(Tokenize, HelpSaysWhatIsHeldOutAndWhatIsRefused) {
  const Outcome help = tokenize("--help");
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.text, AllOf(HasSubstr("--allow-binary"), HasSubstr("whole documents"), HasSubstr("UTF-8")));
}

}  // namespace
}  // namespace qat::cli
