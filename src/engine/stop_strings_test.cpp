#include "engine/stop_strings.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {
std::string stream(std::vector<std::string> stops, const std::vector<std::string>& pieces, bool keep = false) {
  StopStrings matcher(std::move(stops), keep);
  std::string out;
  for (const std::string& piece : pieces) {
    if (matcher.push(piece, out)) return out + "|" + matcher.matched();
  }
  matcher.flush(out);
  return out;
}

TEST(StopStrings, CutBeforeTheFirstMatchHoweverTheTextArrives) {
  EXPECT_EQ(stream({"STOP"}, {"one STOP two"}), "one |STOP");
  EXPECT_EQ(stream({"STOP"}, {"one S", "T", "OP two"}), "one |STOP");
  EXPECT_EQ(stream({"b", "abc"}, {"xabc"}), "x|abc");
  EXPECT_EQ(stream({"STOP"}, {"one STO"}), "one STO");
  EXPECT_EQ(stream({"aab"}, {"a", "a", "a", "b", "c"}), "a|aab");
  EXPECT_EQ(stream({"STOP"}, {"x STOP y"}, true), "x STOP|STOP");
  EXPECT_EQ(stream({""}, {"text"}), "text");
}

TEST(StopStrings, TextThatMayBeginAMatchWaits) {
  StopStrings matcher({"\n\n"}, false);
  std::string out;
  EXPECT_FALSE(matcher.push("line\n", out));
  EXPECT_EQ(out, "line");
  EXPECT_FALSE(matcher.push("next", out));
  EXPECT_EQ(out, "line\nnext");
}
}  // namespace
}  // namespace nibble
