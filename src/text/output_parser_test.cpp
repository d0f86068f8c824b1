// Every recorded output, fed whole, cut in two at every byte, and in small pieces, must give the same message.
#include "text/output_parser.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "base/test_paths.h"
#include "base/utf8.h"

namespace nibble {
namespace {
using nlohmann::json;

struct Message {
  std::string content, reasoning;
  std::vector<ParsedCall> calls;
  std::vector<std::string> streamed_arguments;
};

Message parse(const std::vector<std::string>& pieces, const json& c) {
  OutputParser parser({.reasoning = c["reasoning"], .tools = c["tools"], .starts_thinking = c["start"] == "reasoning"});
  std::vector<OutputDelta> deltas;
  for (const std::string& piece : pieces) {
    std::vector<OutputDelta> step;
    parser.push_text(piece, step);
    deltas.insert(deltas.end(), step.begin(), step.end());
  }
  parser.finish(deltas);
  Message m;
  for (const OutputDelta& d : deltas) {
    EXPECT_TRUE(is_valid_utf8(d.text));
    if (d.kind == OutputDelta::Kind::content) m.content += d.text;
    if (d.kind == OutputDelta::Kind::reasoning) m.reasoning += d.text;
    if (d.kind == OutputDelta::Kind::call_begin) m.streamed_arguments.emplace_back();
    if (d.kind == OutputDelta::Kind::call_arguments) m.streamed_arguments.at(static_cast<size_t>(d.call)) += d.text;
  }
  m.calls = parser.calls();
  return m;
}

void check(const Message& m, const json& c, const std::string& how) {
  const json& expected = c["expected"];
  const std::string where = c["id"].get<std::string>() + ", " + how;
  ASSERT_EQ(m.content, expected["content"].is_null() ? "" : expected["content"].get<std::string>()) << where;
  ASSERT_EQ(m.reasoning, expected["reasoning_content"].is_null() ? "" : expected["reasoning_content"].get<std::string>()) << where;
  const json calls = expected["tool_calls"].is_null() ? json::array() : expected["tool_calls"];
  ASSERT_EQ(m.calls.size(), calls.size()) << where;
  for (size_t i = 0; i < calls.size(); ++i) {
    ASSERT_EQ(m.calls[i].name, calls[i]["name"].get<std::string>()) << where;
    ASSERT_EQ(m.calls[i].complete, !calls[i].value("incomplete", false)) << where;
    ASSERT_EQ(m.streamed_arguments[i], m.calls[i].arguments) << where;
    if (m.calls[i].complete) {
      ASSERT_EQ(json::parse(m.calls[i].arguments), json::parse(calls[i]["arguments"].get<std::string>())) << where << m.calls[i].arguments;
    } else {
      ASSERT_EQ(m.calls[i].arguments, calls[i]["arguments"].get<std::string>()) << where;
    }
  }
}

TEST(OutputParserGoldens, WholeAtEverySplitAndInSmallPieces) {
  const json goldens = json::parse(read_file(test_data("serving/parse.json")));
  ASSERT_GE(goldens["cases"].size(), 90u);
  for (const json& c : goldens["cases"]) {
    const std::string raw = c["raw"];
    check(parse({raw}, c), c, "whole");
    for (size_t i = 0; i <= raw.size(); ++i) check(parse({raw.substr(0, i), raw.substr(i)}, c), c, "split at byte " + std::to_string(i));
    for (const size_t size : {1, 2, 3, 5, 7}) {
      std::vector<std::string> pieces;
      for (size_t at = 0; at < raw.size(); at += size) pieces.push_back(raw.substr(at, size));
      check(parse(pieces, c), c, "pieces of " + std::to_string(size));
    }
  }
}

TEST(OutputParser, InTheTokenFrontEndTextThatSpellsAMarkerIsText) {
  OutputParser parser({});
  std::vector<OutputDelta> out;
  parser.push_plain("a <|tool_call>call:f{} b", out);
  parser.push_marker(OutputMarker::call_open, out);
  parser.push_plain("call:f{x:1}", out);
  parser.push_marker(OutputMarker::call_close, out);
  parser.finish(out);
  EXPECT_EQ(out[0].text, "a <|tool_call>call:f{} b");
  ASSERT_EQ(parser.calls().size(), 1u);
  EXPECT_EQ(parser.calls()[0].arguments, "{\"x\": 1}");
}
}  // namespace
}  // namespace nibble
