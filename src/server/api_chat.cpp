// POST /v1/chat/completions.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "media/resize.h"
#include "server/api_impl.h"
#include "server/chat_reply.h"
#include "server/http_text.h"
#include "text/chat_messages.h"

namespace nibble {
namespace {
// What chat templates walk through, at every depth: `properties` of schemas, and `items`.
void check_parameters(const Json& schema, const std::string& path) {
  const Fields fields(schema, path);
  if (const Json* properties = fields.find("properties")) {
    if (!properties->is_object()) fields.reject("properties", "'properties' must be an object");
    for (const auto& [name, value] : properties->items()) {
      if (!value.is_boolean()) check_parameters(value, fmt::format("{}.{}", fields.path("properties"), name));
    }
  }
  if (const Json* items = fields.find("items"); items && items->is_object()) check_parameters(*items, fields.path("items"));
}

// tools, checked; absent or empty: null.
Json read_tools(const Fields& fields) {
  const Json* tools = fields.find("tools");
  if (!tools) return nullptr;
  if (!tools->is_array()) fields.reject("tools", "'tools' must be an array");
  std::set<std::string> names;
  for (size_t i = 0; i < tools->size(); ++i) {
    const std::string path = fmt::format("tools[{}]", i);
    const Fields tool((*tools)[i], path);
    if (tool.string("type").value_or("") != "function") tool.reject("type", "only tools of the type function are supported");
    const Json* function = tool.find("function");
    if (!function) tool.reject("function", "a tool must have a function");
    const Fields f(*function, path + ".function");
    const std::string name = f.string("name").value_or("");
    if (name.empty() || name.size() > 128 || name.find_first_of("{}<>|\"()[], \n\t\r") != std::string::npos) {
      f.reject("name", "a function's name must have 1 to 128 characters, none of { } < > | \" ( ) [ ] , or white space");
    }
    if (!names.insert(name).second) f.reject("name", fmt::format("the function '{}' is declared twice", name));
    if (const Json* parameters = f.find("parameters")) check_parameters(*parameters, f.path("parameters"));
    f.boolean("strict");
  }
  return tools->empty() ? Json(nullptr) : *tools;
}

Json template_kwargs(const Fields& fields, const ApiOptions& options) {
  Json kwargs = options.default_template_kwargs.empty() ? Json::object() : Json::parse(options.default_template_kwargs);
  std::set<std::string> own;
  if (const Json* given = fields.find("chat_template_kwargs")) {
    if (!given->is_object()) fields.reject("chat_template_kwargs", "'chat_template_kwargs' must be an object");
    if (given->contains("chat_template")) fields.reject("chat_template_kwargs.chat_template", "a request may not bring its own chat template");
    for (const auto& [key, value] : given->items()) {
      kwargs[key] = value;
      own.insert(key);
    }
  }
  if (fields.has("chat_template")) fields.reject("chat_template", "a request may not bring its own chat template");
  std::optional<bool> thinking;
  const auto read_effort = [&](const Json& effort, const std::string& param) {
    static const std::set<std::string> kKnown{"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    if (effort.is_string() && kKnown.contains(effort.get<std::string>())) {
      thinking = effort != "none";
    } else if (effort.is_number() && effort.get<double>() >= 0 && effort.get<double>() <= 0.99) {
      thinking = true;
    } else {
      fields.reject(param, "the effort must be one of none, minimal, low, medium, high, xhigh, max, or a number from 0 to 0.99");
    }
    kwargs["reasoning_effort"] = effort;
  };
  if (const Json* effort = fields.find("reasoning_effort")) read_effort(*effort, "reasoning_effort");
  if (const Json* reasoning = fields.find("reasoning")) {
    const Fields r(*reasoning, "reasoning");
    if (const Json* effort = r.find("effort")) read_effort(*effort, "reasoning.effort");
    if (const auto budget = r.integer("max_tokens", 0, INT32_MAX)) {
      kwargs["thinking_budget"] = *budget;
      thinking = thinking.value_or(true);
    }
    if (const auto enabled = r.boolean("enabled")) thinking = *enabled;
  }
  if (thinking && !own.contains("enable_thinking")) kwargs["enable_thinking"] = *thinking;
  return kwargs;
}

// chat_template_kwargs.thinking_budget, which reasoning.max_tokens sets too.
ThinkingBudget thinking_budget(const Json& kwargs, const Tokenizer& tokenizer, bool starts_open) {
  const auto budget = Fields(kwargs, "chat_template_kwargs").integer("thinking_budget", 0, INT32_MAX);
  if (!budget) return {};
  const auto open = tokenizer.id_of(text_of(OutputMarker::channel_open)), close = tokenizer.id_of(text_of(OutputMarker::channel_close));
  if (!open || !close) throw Error(ErrorCode::invalid_argument, "this model's vocabulary has no thought markers, so a 'thinking_budget' cannot be kept", "chat_template_kwargs.thinking_budget");
  return {.max_tokens = static_cast<int32_t>(*budget), .open_id = *open, .close_id = *close, .starts_open = starts_open};
}
}  // namespace

Api::Impl::ChatPrompt Api::Impl::chat_prompt(const Json& body) const {
  const Fields fields(body);
  if (!chat_template) fields.reject("messages", "this model has no chat template; start the server with --chat-template, or use /v1/completions");
  Json messages = fields.has("messages") ? body["messages"] : Json(nullptr);
  if (messages.is_null()) throw Error(ErrorCode::invalid_argument, "'messages' is required", "messages");
  const auto media = value_or_raise(normalize_messages(messages));
  const auto budget = fields.integer("image_soft_tokens", 70, 1120);
  if (budget && !is_soft_token_budget(*budget)) fields.reject("image_soft_tokens", "'image_soft_tokens' must be 70, 140, 280, 560 or 1120");
  std::vector<PreparedMedia> prepared = prepare_media(media, options.media, static_cast<int32_t>(budget.value_or(0)));
  const Json tools = read_tools(fields);
  const bool with_tools = read_tool_use(fields, tools).parse();
  const Json kwargs = template_kwargs(fields, options);
  ChatTemplate::Options render{.tools = with_tools && !tools.is_null() ? &tools : nullptr, .kwargs = &kwargs};
  render.continue_final_message = fields.boolean("continue_final_message").value_or(false);
  render.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
  MarkedText prompt = value_or_raise(chat_template->render(messages, render));
  if (!prepared.empty()) prompt = spell_out_videos(prompt, prepared);
  ChatPrompt out;
  const TextSpan everything{0, prompt.text.size()};
  out.ids = tokenizer.encode_marked(prompt.text, options.trust_special_tokens_in_text ? std::span(&everything, 1) : std::span<const TextSpan>(prompt.trusted));
  if (fields.has("input_ids")) out.ids = fields.ids("input_ids", tokenizer.vocab_size());
  out.opens_thinking = prompt_opens_thinking(prompt.text);
  out.media = expand_media(out.ids, std::move(prepared), options.media);
  return out;
}

namespace {
bool has_media(const Json& body) {
  const auto messages = body.find("messages");
  if (messages == body.end() || !messages->is_array()) return false;
  for (const Json& message : *messages) {
    if (!message.is_object() || !message.contains("content") || !message["content"].is_array()) continue;
    for (const Json& part : message["content"]) {
      if (part.is_object() && part.contains("type") && part["type"] != "text") return true;
    }
  }
  return false;
}
}  // namespace

std::shared_ptr<const Grammar> Api::Impl::chat_grammar(const Json& body, const ChatPrompt& prompt) {
  const Fields fields(body);
  const Json tools = read_tools(fields);
  ToolUse use = read_tool_use(fields, tools);
  if (!options.tool_parser && use.choice == ToolUse::Choice::automatic) use.choice = ToolUse::Choice::none;
  const bool thinks = template_kwargs(fields, options).value("enable_thinking", Json()) == true;
  return structured.of_chat(read_output_format(fields), use, tools, prompt.opens_thinking ? ThoughtFirst::open : thinks ? ThoughtFirst::allowed : ThoughtFirst::none);
}

void Api::Impl::chat(const Json& body, const HttpRequest& http, const ExchangePtr& exchange, std::shared_ptr<ChatWriter> writer) {
  if (http.body.size() < kLargeBodyBytes && !has_media(body) && !may_want_grammar(body)) return start_chat(body, http.id, exchange, chat_prompt(body), std::move(writer));
  media_threads.post([self = shared_from_this(), body, id = http.id, exchange, writer = std::move(writer)] {
    self->answering(exchange, [&] {
      auto prompt = std::make_shared<ChatPrompt>(self->chat_prompt(body));
      prompt->grammar = self->chat_grammar(body, *prompt);
      exchange->post([=] { self->answering(exchange, [&] { self->start_chat(body, id, exchange, std::move(*prompt), writer); }); });
    });
  });
}

void Api::Impl::start_chat(const Json& body, const std::string& http_id, const ExchangePtr& exchange, ChatPrompt prompt, std::shared_ptr<ChatWriter> writer) {
  const Fields fields(body);
  GenerationFields generation = read_generation_fields(fields, options.chat_defaults, tokenizer.vocab_size());
  if (options.usage_in_streams && !fields.has("stream_options")) generation.include_usage = true;
  const bool logprobs = fields.boolean("logprobs").value_or(false);
  const auto top_logprobs = fields.integer("top_logprobs", 0, 20);
  if (top_logprobs && !logprobs) fields.reject("top_logprobs", "'top_logprobs' needs 'logprobs' to be true");
  const bool with_tools = read_tool_use(fields, read_tools(fields)).parse();

  ChatReplyOptions reply;
  reply.logprobs = logprobs;
  reply.single_call = !fields.boolean("parallel_tool_calls").value_or(true);
  reply.reply.skip_special_tokens = generation.skip_special_tokens;
  reply.reply.stop = generation.stop;
  reply.reply.keep_stop = generation.no_stop_trim;
  reply.reply.parser = {.reasoning = options.reasoning_parser && fields.boolean("separate_reasoning").value_or(true), .tools = options.tool_parser && with_tools,
                        .starts_thinking = prompt.opens_thinking};
  if (prompt.media.empty()) fit_prompt(prompt.ids);
  reply.num_prompt = static_cast<int32_t>(prompt.ids.size());
  auto request = engine_request(std::move(prompt.ids), generation, generation.rid.empty() ? http_id + "-" + random_hex(8) : generation.rid, std::nullopt);
  for (const SoftTokens& m : prompt.media) {
    (m.kind == SoftTokens::Kind::image ? reply.media.image : m.kind == SoftTokens::Kind::video ? reply.media.video : reply.media.audio) += m.count;
  }
  request->media = std::move(prompt.media);
  request->thinking = thinking_budget(template_kwargs(fields, options), tokenizer, reply.reply.parser.starts_thinking);
  request->stops_at_loops = options.repetition_guard && !request->ignore_eos && fields.boolean("repetition_guard").value_or(true);
  structured.constrain(*request, std::move(prompt.grammar));
  if (logprobs) request->top_logprobs = static_cast<int32_t>(top_logprobs.value_or(0));
  if (!writer) writer = openai_chat_writer(fields.boolean("stream_reasoning").value_or(true));
  const auto state = std::make_shared<ChatReply>(shared_from_this(), exchange, std::move(generation), std::move(reply), std::move(writer));
  request->on_token = [exchange, state](TokenEvent&& event) {
    exchange->post([state, event = std::move(event)]() mutable { state->on_token(std::move(event)); });
  };
  const uint64_t handle = value_or_raise(engine.submit(std::move(request)));
  exchange->on_disconnect([self = shared_from_this(), handle] { self->engine.cancel(handle, /*silent=*/true); });
  state->begin(handle);  // before any token: they are taken on this thread, later
}
}  // namespace nibble
