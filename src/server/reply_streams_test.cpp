// Replies' token streams: what is streamed is what the whole gives.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/reply.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

struct Message {
  std::string content, reasoning;
  std::vector<std::string> names, arguments;
  std::vector<bool> complete;
  bool operator==(const Message&) const = default;
};

void add(Message& m, const std::vector<OutputDelta>& deltas) {
  for (const OutputDelta& d : deltas) {
    if (d.kind == OutputDelta::Kind::content) m.content += d.text;
    if (d.kind == OutputDelta::Kind::reasoning) m.reasoning += d.text;
    if (d.kind == OutputDelta::Kind::call_begin) {
      ASSERT_EQ(d.call, static_cast<int>(m.names.size()));
      m.names.push_back(d.text);
      m.arguments.emplace_back();
    }
    if (d.kind == OutputDelta::Kind::call_arguments) {
      ASSERT_LT(static_cast<size_t>(d.call), m.arguments.size());
      m.arguments[static_cast<size_t>(d.call)] += d.text;
    }
  }
}

TEST(ReplyStreams, TenThousandTokenStreamsGiveTheMessageOfTheWhole) {
  static const Tokenizer tokenizer = Tokenizer::load(std::filesystem::path(NIBBLE_REPO_DIR) / "models/demo");
  const OutputMarkers markers(tokenizer);
  std::vector<int32_t> controls, texts;
  for (const char* control : {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|\"|>", "<turn|>", "<|tool_response>", "<eos>", "<pad>"}) controls.push_back(*tokenizer.id_of(control));
  // No text that could spell a marker.
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_special(id) && tokenizer.token_bytes(id).find_first_of("<|>") == std::string::npos) texts.push_back(id);
  }
  const std::vector<std::string> pieces{"call:", "call:add{", "a:1", ",b:", "}", "{", "]", "[1,2", "thought\n", "thought", " ", "\n", "true", "nul", "1e5", "x:y", "\"", "\\", "call: f {k:v}"};
  std::mt19937 random(11);
  int complete = 0, reasoned = 0;
  for (int stream = 0; stream < 10000; ++stream) {
    std::vector<int32_t> ids;
    for (int n = static_cast<int>(random() % 24); n >= 0; --n) {
      const uint32_t kind = random() % 10;
      const auto append = [&](const std::string& text) {
        for (const int32_t id : tokenizer.encode(text, false)) ids.push_back(id);
      };
      if (kind < 1) {  // what most streams of controls and pieces would never hit upon
        ids.push_back(*tokenizer.id_of("<|tool_call>"));
        append("call:f{k:");
      } else if (kind < 4) {
        ids.push_back(controls[random() % controls.size()]);
      } else if (kind < 8) {
        append(pieces[random() % pieces.size()]);
      } else {
        ids.push_back(texts[random() % texts.size()]);
      }
    }
    const OutputParser::Options options{.reasoning = true, .tools = true, .starts_thinking = random() % 4 == 0};
    Reply reply(tokenizer, markers, {.parser = options});
    Message streamed;
    for (const int32_t id : ids) {
      std::vector<OutputDelta> deltas;
      ASSERT_FALSE(reply.push(id, deltas));
      add(streamed, deltas);
    }
    std::vector<OutputDelta> last;
    reply.finish(last);
    add(streamed, last);
    // The whole: runs of text at once.
    OutputParser parser(options);
    std::vector<OutputDelta> deltas;
    std::vector<int32_t> run;
    const auto flush = [&] {
      Detokenizer detokenizer(tokenizer, /*skip_special=*/true);
      std::string text;
      for (const int32_t id : run) text += detokenizer.push(id);
      text += detokenizer.finish();
      if (!text.empty()) parser.push_plain(text, deltas);
      run.clear();
    };
    for (const int32_t id : ids) {
      if (const auto marker = markers.find(id)) {
        flush();
        parser.push_marker(*marker, deltas);
      } else {
        run.push_back(id);
      }
    }
    flush();
    parser.finish(deltas);
    Message whole;
    add(whole, deltas);
    ASSERT_EQ(streamed.content, whole.content) << tokenizer.decode(ids, false);
    ASSERT_EQ(streamed, whole) << tokenizer.decode(ids, false);
    ASSERT_EQ(reply.parser().calls().size(), streamed.names.size());
    // A <|tool_call> that begins no call, and a string delimiter outside of calls, are text. No other marker is.
    for (const char* marker : {"<|channel>", "<channel|>", "<turn|>", "<|tool_response>", "<eos>", "<pad>"}) {
      ASSERT_EQ(streamed.content.find(marker), std::string::npos) << tokenizer.decode(ids, false);
    }
    for (size_t i = 0; i < streamed.names.size(); ++i) {
      const ParsedCall& call = reply.parser().calls()[i];
      ASSERT_EQ(call.name, streamed.names[i]);
      ASSERT_EQ(call.arguments, streamed.arguments[i]);
      if (!call.complete) continue;
      ++complete;
      ASSERT_TRUE(Json::parse(call.arguments, nullptr, false).is_object()) << call.arguments;
    }
    reasoned += !streamed.reasoning.empty();
  }
  EXPECT_GT(complete, 1000);
  EXPECT_GT(reasoned, 1000);
}
}  // namespace
}  // namespace nibble
