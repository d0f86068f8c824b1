#include "app/markdown_view.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {
std::string shown(std::string_view text, size_t step) {
  MarkdownView view(true);
  std::string out;
  for (size_t at = 0; at < text.size(); at += step) out += view.push(text.substr(at, step));
  return out + view.finish();
}

// Styles as letters that one can read.
std::string named(std::string text) {
  for (const auto& [code, name] : {std::pair("\033[1m", "<b>"), {"\033[22m", "</b>"}, {"\033[3m", "<i>"}, {"\033[23m", "</i>"}, {"\033[36m", "<c>"}, {"\033[39m", "</c>"}, {"\033[2m", "<d>"}}) {
    for (size_t at; (at = text.find(code)) != std::string::npos;) text.replace(at, std::string(code).size(), name);
  }
  return text;
}

TEST(MarkdownView, MarksBecomeStyles) {
  EXPECT_EQ(named(shown("# A *big* title\nplain **strong** and *soft* and ***both*** `a*b*`\n", 1000)),
            "<b>A <i>big</i> title</b>\nplain <b>strong</b> and <i>soft</i> and <b><i>both</i></b> <c>a*b*</c>\n");
  EXPECT_EQ(named(shown("- one\n  * two\n> said\n1. first", 1000)), "• one\n  • two\n<d>│</b> said\n1. first");
  EXPECT_EQ(named(shown("**a `b` *c* d**", 1000)), "<b>a <c>b</c> <i>c</i> d</b>");
}

TEST(MarkdownView, CodeIsShownAsItIs) {
  EXPECT_EQ(named(shown("```py\nx = '**no**'\n  # no\n```\nyes **b**", 1000)), "<d>```py</b><c>\nx = '**no**'\n  # no\n</c><d>```</b>\nyes <b>b</b>");
  EXPECT_EQ(named(shown("~~~~\n```\n~~~~", 1000)), "<d>~~~~</b><c>\n```\n</c><d>~~~~</b>");
  EXPECT_EQ(named(shown("``a ` b``", 1000)), "<c>a ` b</c>");
}

TEST(MarkdownView, WhatHasNoPartnerStays) {
  for (const char* text : {"2*3*4 = 24", "snake_case_name", "5 * 3 * 2", "a ** b", "*open", "`open", "**open\nline", "#hash", "-5", "\\boxed{12}", "| a | b |\n|---|---|", "---", "****", "x_1 and x_2", ""}) {
    EXPECT_EQ(shown(text, 1000), text);
  }
}

TEST(MarkdownView, CutsDoNotMatter) {
  const std::string text = "## T `x`\n\n- **a *b* c**: _d_\n- e*\n```c\nint *p;\n``\n```\n> q **r\n\nä **ö** _ü_ * ` ** ``\n***\n1) *x";
  const std::string whole = shown(text, text.size());
  for (size_t step = 1; step < 20; ++step) EXPECT_EQ(shown(text, step), whole) << step;
}

TEST(MarkdownView, TextIsNotHeldBackWithoutNeed) {
  MarkdownView view(true);
  EXPECT_EQ(view.push("Hello"), "Hello");
  EXPECT_EQ(view.push(", wor"), ", wor");
  EXPECT_EQ(view.push("ld **"), "ld ");
  EXPECT_EQ(view.push("x"), "");
  EXPECT_EQ(named(view.push("** y")), "<b>x</b> y");
}

TEST(MarkdownView, WithoutStylesNothingChanges) {
  MarkdownView view(false);
  EXPECT_EQ(view.push("# a **b"), "# a **b");
  EXPECT_EQ(view.finish(), "");
}
}  // namespace
}  // namespace nibble
