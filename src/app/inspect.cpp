#include "app/inspect.h"

#include <condition_variable>
#include <iostream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engine/engine.h"
#include "engine/reply.h"
#include "formats/safetensors.h"
#include "text/chat_messages.h"
#include "text/chat_template.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

// Every line of stdin through `answer`; a bad line gives {"error"} and the next goes on.
int for_each_line(const std::function<Json(const Json&, int64_t)>& answer) {
  std::string line;
  int64_t number = 0;
  bool all_good = true;
  while (std::getline(std::cin, line)) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    Json out;
    try {
      const Json in = Json::parse(line, nullptr, false);
      if (!in.is_object()) raise(ErrorCode::invalid_argument, "line {}: not a JSON object", number + 1);
      out = answer(in, number);
    } catch (const std::exception& error) {
      out = {{"error", error.what()}};
      all_good = false;
    }
    std::cout << out.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
    ++number;
  }
  return all_good ? 0 : 1;
}

std::vector<int32_t> ids_of(const Json& in, int32_t vocab_size) {
  if (!in.contains("ids") || !in["ids"].is_array() || in["ids"].empty()) raise(ErrorCode::invalid_argument, "wanted 'ids', a non-empty array of token ids");
  std::vector<int32_t> ids;
  for (const Json& id : in["ids"]) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size) raise(ErrorCode::invalid_argument, "'ids' holds {}, wanted 0 to {}", id.dump(), vocab_size - 1);
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

MarkedText render(const ChatTemplate& chat_template, const Json& in) {
  Json messages = in.contains("messages") ? in["messages"] : Json(nullptr);
  value_or_raise(normalize_messages(messages));
  const Json kwargs = in.value("chat_template_kwargs", Json::object());
  const Json tools = in.contains("tools") && in["tools"].is_array() && !in["tools"].empty() ? in["tools"] : Json(nullptr);
  return value_or_raise(chat_template.render(messages, {.tools = tools.is_null() ? nullptr : &tools, .kwargs = &kwargs, .add_generation_prompt = in.value("add_generation_prompt", true),
                                                        .continue_final_message = in.value("continue_final_message", false)}));
}

Json delta_json(const OutputDelta& d) {
  switch (d.kind) {
    case OutputDelta::Kind::content: return {{"content", d.text}};
    case OutputDelta::Kind::reasoning: return {{"reasoning_content", d.text}};
    case OutputDelta::Kind::call_begin: return {{"tool_calls", Json::array({{{"index", d.call}, {"function", {{"name", d.text}, {"arguments", ""}}}}})}};
    case OutputDelta::Kind::call_arguments: return {{"tool_calls", Json::array({{{"index", d.call}, {"function", {{"arguments", d.text}}}}})}};
  }
  return {};
}

Json message_json(const std::vector<OutputDelta>& deltas, const OutputParser& parser) {
  std::string content, reasoning;
  for (const OutputDelta& d : deltas) {
    if (d.kind == OutputDelta::Kind::content) content += d.text;
    if (d.kind == OutputDelta::Kind::reasoning) reasoning += d.text;
  }
  Json calls = Json::array();
  for (const ParsedCall& call : parser.calls()) calls.push_back({{"name", call.name}, {"arguments", call.arguments}});
  return {{"content", content.empty() ? Json(nullptr) : Json(content)}, {"reasoning_content", reasoning.empty() ? Json(nullptr) : Json(reasoning)}, {"tool_calls", calls}};
}
}  // namespace

int inspect_tokens(const ModelFlags& flags) {
  const auto loaded = load_configs(flags);
  const Tokenizer tokenizer = Tokenizer::load(loaded->tokenizer_folder);
  return for_each_line([&](const Json& in, int64_t) -> Json {
    if (in.contains("ids")) {
      std::vector<int32_t> ids;
      for (const Json& id : in["ids"]) ids.push_back(id.get<int32_t>());
      return {{"ids", ids}, {"text", tokenizer.decode(ids, in.value("skip_special_tokens", false))}};
    }
    if (!in.contains("text") || !in["text"].is_string()) raise(ErrorCode::invalid_argument, "wanted 'text' or 'ids'");
    std::vector<int32_t> ids = tokenizer.encode(in["text"].get<std::string>());
    if (in.value("add_special_tokens", false) && (ids.empty() || ids[0] != loaded->config.bos_token_id)) ids.insert(ids.begin(), loaded->config.bos_token_id);
    return {{"ids", ids}, {"text", tokenizer.decode(ids, false)}};
  });
}

int inspect_prompt(const ModelFlags& flags, const std::string& override_template) {
  const auto loaded = load_configs(flags);
  const Tokenizer tokenizer = Tokenizer::load(loaded->tokenizer_folder);
  const ChatTemplate chat_template = value_or_raise(ChatTemplate::load({loaded->tokenizer_folder, override_template, {}}));
  return for_each_line([&](const Json& in, int64_t) -> Json {
    const MarkedText prompt = render(chat_template, in);
    return {{"prompt", prompt.text}, {"ids", tokenizer.encode_marked(prompt.text, prompt.trusted)}};
  });
}

int inspect_message(const ModelFlags&) {
  return for_each_line([&](const Json& in, int64_t) -> Json {
    OutputParser parser({.reasoning = true, .tools = !in.contains("tools") || !in["tools"].is_array() || !in["tools"].empty(), .starts_thinking = in.value("prompt_opens_thinking", false)});
    std::vector<OutputDelta> deltas;
    const bool chunked = in.contains("chunks");
    if (chunked) {
      for (const Json& piece : in["chunks"]) {
        std::vector<OutputDelta> step;
        parser.push_text(piece.get<std::string>(), step);
        deltas.insert(deltas.end(), step.begin(), step.end());
      }
    } else {
      parser.push_text(in.at("text").get<std::string>(), deltas);
    }
    std::vector<OutputDelta> last;
    parser.finish(last);
    deltas.insert(deltas.end(), last.begin(), last.end());
    Json out = message_json(deltas, parser);
    if (chunked) {
      out["deltas"] = Json::array();
      for (const OutputDelta& d : deltas) out["deltas"].push_back(delta_json(d));
    }
    return out;
  });
}

int inspect_logits(const ModelFlags& flags, const std::string& out_file, bool step_by_step, int chunk) {
  ModelFlags own = flags;
  own.max_rows = 1024;
  const auto loaded = load_model(own);
  Gemma4Model& model = *loaded->model;
  const auto vocab = static_cast<size_t>(model.vocab_size());
  std::map<std::string, std::vector<float>> kept;
  std::map<std::string, Tensor> tensors;
  const int code = for_each_line([&](const Json& in, int64_t number) -> Json {
    for (const char* media : {"images", "audio", "video"}) {
      if (in.contains(media) && !in[media].empty()) raise(ErrorCode::unsupported, "'{}': this build computes text only", media);
    }
    const std::vector<int32_t> ids = ids_of(in, model.vocab_size());
    const bool all = in.value("rows", "last") == "all";
    const size_t pages = (ids.size() + kPageTokens - 1) / kPageTokens;
    if (pages > static_cast<size_t>(model.kv_geometry().num_full_pages)) raise(ErrorCode::invalid_argument, "{} ids do not fit the KV cache", ids.size());
    std::vector<int32_t> table(pages);
    std::iota(table.begin(), table.end(), 0);
    std::vector<float>& out = kept[fmt::format("logits.{}", number)];
    const size_t size = step_by_step ? 1 : chunk > 0 ? std::min(static_cast<size_t>(chunk), static_cast<size_t>(model.max_rows())) : static_cast<size_t>(model.max_rows());
    for (size_t at = 0; at < ids.size(); at += size) {
      const size_t n = std::min(size, ids.size() - at);
      const SequenceSlice slice{0, static_cast<int32_t>(n), static_cast<int32_t>(at), table, table};
      std::vector<int32_t> rows;
      for (size_t i = 0; i < n; ++i) {
        if (all || at + i + 1 == ids.size()) rows.push_back(static_cast<int32_t>(i));
      }
      const size_t before = out.size();
      out.resize(before + rows.size() * vocab);
      model.forward({std::span(ids).subspan(at, n), {&slice, 1}, rows}, out.data() + before);
    }
    const int64_t rows = static_cast<int64_t>(out.size() / vocab);
    tensors[fmt::format("logits.{}", number)] = {out.data(), DType::f32, {rows, static_cast<int64_t>(vocab)}};
    return {{"line", number}, {"rows", rows}};
  });
  write_safetensors(out_file, tensors);
  return code;
}

int inspect_generate(const ModelFlags& given) {
  ModelFlags flags = given;
  check_speculative_flags(flags.speculative);
  const auto loaded = load_model(flags);
  std::optional<Tokenizer> tokenizer;
  if (std::filesystem::exists(loaded->tokenizer_folder / "tokenizer.json")) tokenizer = Tokenizer::load(loaded->tokenizer_folder);
  // Lines with and without speculation: an engine each, and never both at work on the pages.
  bool speculating = false;
  auto engine = std::make_unique<Engine>(*loaded->model, EngineOptions{.suppress_tokens = loaded->generation.suppress_tokens, .decode_log_interval = 0});
  const auto need_tokenizer = [&]() -> const Tokenizer& {
    if (!tokenizer) raise(ErrorCode::invalid_argument, "{} has no tokenizer.json: give 'ids'", loaded->tokenizer_folder.string());
    return *tokenizer;
  };
  return for_each_line([&](const Json& in, int64_t number) -> Json {
    const bool speculative = in.value("speculative", false);
    if (speculative && !loaded->assistant) raise(ErrorCode::invalid_argument, "'speculative': start with --speculative-algorithm NEXTN --speculative-draft-model-path DIR");
    if (speculative != speculating) {
      engine.reset();
      EngineOptions options = loaded->engine_options({.decode_log_interval = 0});
      if (!speculative) options.drafter = nullptr;
      engine = std::make_unique<Engine>(*loaded->model, options);
      speculating = speculative;
    }
    auto request = std::make_unique<Request>();
    if (in.contains("messages")) {
      const ChatTemplate chat_template = value_or_raise(ChatTemplate::load({loaded->tokenizer_folder, {}, {}}));
      const MarkedText prompt = render(chat_template, in);
      request->prompt = need_tokenizer().encode_marked(prompt.text, prompt.trusted);
    } else if (in.contains("prompt")) {
      request->prompt = need_tokenizer().encode(in["prompt"].get<std::string>());
      if (request->prompt.empty() || request->prompt[0] != loaded->config.bos_token_id) request->prompt.insert(request->prompt.begin(), loaded->config.bos_token_id);
    } else {
      request->prompt = ids_of(in, loaded->model->vocab_size());
    }
    request->id = std::to_string(number);
    request->max_tokens = in.value("max_new_tokens", 128);
    if (request->max_tokens < 1) raise(ErrorCode::invalid_argument, "'max_new_tokens' is {}, wanted at least 1", request->max_tokens);
    SamplingParams& s = request->sampling;
    s.temperature = in.value("temperature", 0.0f);
    s.top_p = in.value("top_p", 1.0f);
    s.top_k = in.value("top_k", -1);
    s.min_p = in.value("min_p", 0.0f);
    s.repetition_penalty = in.value("repetition_penalty", 1.0f);
    s.frequency_penalty = in.value("frequency_penalty", 0.0f);
    s.presence_penalty = in.value("presence_penalty", 0.0f);
    s.seed = in.value("seed", uint64_t{0});
    request->stop_ids = loaded->generation.eos_token_ids;
    request->ignore_eos = in.value("ignore_eos", false);

    std::mutex mutex;
    std::condition_variable done;
    std::vector<int32_t> ids;
    Json rounds = Json::array();
    TokenEvent last;
    bool finished = false;
    request->on_token = [&](TokenEvent&& event) {
      const std::lock_guard lock(mutex);
      if (event.id >= 0) ids.push_back(event.id);
      if (event.round.drafted > 0) rounds.push_back({{"drafted", event.round.drafted}, {"accepted", event.round.accepted}});
      if (event.finish == FinishReason::none) return;
      last = std::move(event);
      finished = true;
      done.notify_all();
    };
    value_or_raise(engine->submit(std::move(request)));
    std::unique_lock lock(mutex);
    done.wait(lock, [&] { return finished; });
    if (last.error) throw *last.error;
    Json out = {{"ids", ids}, {"text", tokenizer ? Json(tokenizer->decode(ids, true)) : Json(nullptr)}, {"finish_reason", last.finish == FinishReason::length ? "length" : "stop"}};
    if (speculative) out["rounds"] = std::move(rounds);
    return out;
  });
}
}  // namespace nibble
