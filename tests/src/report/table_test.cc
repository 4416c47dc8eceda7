#include "src/report/table.h"

#include <gtest/gtest.h>

namespace qat {
namespace {

Table sample() {
  Table table;
  table.add_row({{"Method", "CPT \xC3\xA4"}, {"Bits", "8"}});
  table.add_row({{"Method", "static | a_b"}, {"PPL", "12.5"}});
  return table;
}

TEST(Table, ColumnsComeFromTheRowsAndMissingValuesShowAsADash) {
  EXPECT_EQ(sample().ascii(),
            "+--------------+------+------+\n"
            "| Method       | Bits |  PPL |\n"
            "+--------------+------+------+\n"
            "| CPT \xC3\xA4        |    8 |    - |\n"  // one character of two bytes
            "| static | a_b |    - | 12.5 |\n"
            "+--------------+------+------+\n");
}

TEST(Table, MarkdownEscapesBarsAndAlignsNumbers) {
  EXPECT_EQ(sample().markdown(),
            "| Method        | Bits |  PPL |\n"
            "| ------------- | ---: | ---: |\n"
            "| CPT \xC3\xA4         |    8 |    - |\n"
            "| static \\| a_b |    - | 12.5 |\n");
}

TEST(Table, LatexEscapesItsSpecialCharacters) {
  EXPECT_EQ(sample().latex(),
            "\\begin{tabular}{lrr}\n\\hline\n"
            "Method & Bits & PPL \\\\\n\\hline\n"
            "CPT \xC3\xA4 & 8 & - \\\\\n"
            "static | a\\_b & - & 12.5 \\\\\n"
            "\\hline\n\\end{tabular}\n");
  Table table;
  table.add_row({{"50 %", "a\\b ~ {x} & $1 #2 ^"}});
  EXPECT_NE(table.latex().find("50 \\%"), std::string::npos);
  EXPECT_NE(table.latex().find("a\\textbackslash{}b \\textasciitilde{} \\{x\\} \\& \\$1 \\#2 \\textasciicircum{}"),
            std::string::npos);
}

TEST(Table, CsvQuotesWhatNeedsIt) {
  Table table({"a", "b", "c"});
  table.add_row({{"a", "x,y"}, {"c", "say \"no\"\nnow"}});
  EXPECT_EQ(table.csv(), "a,b,c\n\"x,y\",,\"say \"\"no\"\"\nnow\"\n");
}

TEST(Table, WithoutRowsItStillHasItsHeadings) {
  const Table table({"Bits", "PPL"});
  EXPECT_EQ(table.ascii(), "+------+-----+\n| Bits | PPL |\n+------+-----+\n");
  EXPECT_EQ(table.markdown(), "| Bits | PPL |\n| ---- | --- |\n");
  EXPECT_EQ(table.csv(), "Bits,PPL\n");
}

TEST(Table, AColumnWithAWordIsFlushLeft) {
  Table table;
  table.add_row({{"Value", "1"}});
  table.add_row({{"Value", "many"}});
  EXPECT_NE(table.ascii().find("| 1     |"), std::string::npos);
}

}  // namespace
}  // namespace qat
