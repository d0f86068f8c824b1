#include "app/chat.h"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "app/chat_lines.h"
#include "app/local_server.h"
#include "app/markdown_view.h"
#include "base/clock.h"
#include "base/file_io.h"
#include "base/nearest.h"
#include "engine/engine.h"
#include "engine/reply.h"
#include "server/media_parts.h"
#include "text/chat_template.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

volatile std::sig_atomic_t g_interrupted = 0;
void on_interrupt(int) { g_interrupted = 1; }

constexpr const char* kHelp =
    "  /think on|off     let the model think first\n"
    "  /system [TEXT]    start over with a system message; without TEXT: show it\n"
    "  /image FILE       show a picture with the next message\n"
    "  /audio FILE       play a sound with it; /video FILE\n"
    "  /save FILE        write the conversation: .json as messages of the API, else Markdown\n"
    "  /reset            start over\n"
    "  /help             this\n"
    "  /quit             leave (or Ctrl-D)\n"
    "Ctrl-C stops a reply, or drops the line. Alt-Enter, or a backslash at its end, continues a line.\n";

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

// As a shell would take it: ~ is the home folder, the rest from where the program runs.
fs::path path_of(std::string_view text) {
  const char* home = std::getenv("HOME");
  if (text.starts_with("~/") && home) return fs::path(home) / text.substr(2);
  return fs::absolute(fs::path(text));
}

class Chat {
 public:
  explicit Chat(const ChatFlags& flags)
      : flags_(flags), loaded_(load_model(flags.model)), tokenizer_(Tokenizer::load(loaded_->tokenizer_folder)), markers_(tokenizer_),
        template_(value_or_raise(ChatTemplate::load({loaded_->tokenizer_folder, {}, {}}))), engine_(*loaded_->model, loaded_->engine_options({.decode_log_interval = 0})) {
    reset(flags.system);
  }

  int run() {
    ChatLines lines;
    styles_ = isatty(STDOUT_FILENO) && !std::getenv("NO_COLOR");
    if (lines.terminal()) std::printf("%s. /help lists the commands.\n", loaded_->folder.filename().c_str());
    // At a terminal Ctrl-C never ends the program: it stops a reply, drops a line, or comes between the two and means nothing.
    if (lines.terminal()) std::signal(SIGINT, on_interrupt);
    std::string line;
    while (true) {
      std::fflush(stdout);
      const ChatLines::Kind kind = lines.next(line);
      if (kind == ChatLines::Kind::end) break;
      if (kind == ChatLines::Kind::stopped || trimmed(line).empty()) continue;
      if (line == "/quit" || line == "/exit") return 0;
      if (line[0] == '/') {
        command(line);
      } else {
        answer(line);
      }
    }
    if (lines.terminal()) std::puts("");
    return 0;
  }

 private:
  void reset(const std::string& system) {
    messages_ = Json::array();
    media_.clear();
    attached_ = Json::array();
    if (!system.empty()) messages_.push_back({{"role", "system"}, {"content", system}});
  }

  void command(const std::string& line) {
    const size_t blank = std::min(line.find(' '), line.size());
    const std::string name = line.substr(0, blank), argument(trimmed(std::string_view(line).substr(blank)));
    const auto wants = [&](const char* what) {
      if (argument.empty()) std::printf("%s wants %s\n", name.c_str(), what);
      return !argument.empty();
    };
    if (name == "/think") {
      if (argument == "on" || argument == "off") flags_.thinking = argument == "on";
      const bool good = argument.empty() || argument == "on" || argument == "off";
      std::puts(!good ? "/think wants on or off" : flags_.thinking ? "thinking is on" : "thinking is off");
    } else if (name == "/reset") {
      reset(flags_.system);
    } else if (name == "/image") {
      if (wants("a file")) attach(MediaKind::image, "image", argument);
    } else if (name == "/audio") {
      if (wants("a file")) attach(MediaKind::audio, "audio", argument);
    } else if (name == "/video") {
      if (wants("a file")) attach(MediaKind::video, "video", argument);
    } else if (name == "/system") {
      if (argument.empty()) {
        std::printf("%s\n", flags_.system.empty() ? "no system message" : flags_.system.c_str());
      } else {
        flags_.system = argument;
        reset(flags_.system);
      }
    } else if (name == "/save") {
      if (wants("a file")) save(argument);
    } else if (name == "/help") {
      std::fputs(kHelp, stdout);
    } else {
      static const std::vector<std::string> kNames{"/think", "/system", "/image", "/audio", "/video", "/save", "/reset", "/help", "/quit"};
      const auto near = nearest_names(name, kNames, 2);
      std::printf("%s: unknown command; %s\n", name.c_str(), near.empty() ? "/help lists them" : ("did you mean " + near.front() + "?").c_str());
    }
  }

  // The file goes with the next message.
  void attach(MediaKind kind, const char* type, const std::string& file) {
    MediaOptions options = api_options_of(*loaded_, tokenizer_).media;
    options.local_path = "/";
    const MediaReference reference{kind, "file://" + path_of(file).string(), {}, {}};
    try {
      media_.push_back(std::move(prepare_media(std::span(&reference, 1), options, 0)[0]));
    } catch (const Error& error) {
      std::printf("%s: %s\n", file.c_str(), error.message.c_str());
      return;
    }
    attached_.push_back({{"type", type}, {"name", fs::path(file).filename().string()}});
    int64_t tokens = 0;
    for (const SoftTokens& block : media_.back().blocks) tokens += block.count;
    std::printf("%s: %lld soft tokens\n", file.c_str(), static_cast<long long>(tokens));
  }

  // Never over a file that this conversation did not write.
  void save(const std::string& file) {
    const fs::path path = path_of(file);
    if (fs::exists(path) && !saved_.contains(path)) {
      std::printf("%s: exists; choose another name\n", file.c_str());
      return;
    }
    std::string text;
    if (path.extension() == ".json") {
      text = Json{{"messages", messages_}}.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
    } else {
      for (const Json& message : messages_) text += "## " + message["role"].get<std::string>() + "\n\n" + plain_text(message["content"]) + "\n\n";
    }
    try {
      write_file(path, text);
      saved_.insert(path);
      std::printf("%s: %zu messages\n", file.c_str(), messages_.size());
    } catch (const Error& error) {
      std::printf("%s\n", error.message.c_str());
    }
  }

  static std::string plain_text(const Json& content) {
    if (content.is_string()) return content.get<std::string>();
    std::string text;
    for (const Json& part : content) text += part["type"] == "text" ? part["text"].get<std::string>() : "(" + part["type"].get<std::string>() + ": " + part.value("name", "") + ")\n";
    return text;
  }

  void dim(bool on) const {
    if (styles_) std::fputs(on ? "\033[2m" : "\033[22m", stdout);
  }

  void answer(const std::string& text) {
    const size_t with_this_message = attached_.size();
    if (attached_.empty()) {
      messages_.push_back({{"role", "user"}, {"content", text}});
    } else {
      attached_.push_back({{"type", "text"}, {"text", text}});
      messages_.push_back({{"role", "user"}, {"content", std::exchange(attached_, Json::array())}});
    }
    const Json kwargs = flags_.thinking ? Json{{"enable_thinking", true}} : Json::object();
    const MarkedText prompt = spell_out_videos(value_or_raise(template_.render(messages_, {.kwargs = &kwargs})), media_);
    auto request = std::make_unique<Request>();
    request->id = std::to_string(++turn_);
    request->prompt = tokenizer_.encode_marked(prompt.text, prompt.trusted);
    request->media = expand_media(request->prompt, media_, api_options_of(*loaded_, tokenizer_).media);
    const int64_t room = loaded_->context_length - static_cast<int64_t>(request->prompt.size());
    if (room < 1) {
      std::puts("The conversation has filled the context; /reset starts over.");
      messages_.erase(messages_.size() - 1);
      media_.resize(media_.size() - with_this_message);
      return;
    }
    request->max_tokens = static_cast<int32_t>(std::min<int64_t>(flags_.max_tokens, room));
    const GenerationConfig& g = loaded_->generation;
    request->sampling = {.temperature = flags_.temperature >= 0 ? flags_.temperature : g.temperature.value_or(1.0f), .top_p = g.top_p.value_or(1.0f), .top_k = g.top_k.value_or(-1),
                         .seed = std::random_device{}()};
    request->stop_ids = g.eos_token_ids;

    Reply reply(tokenizer_, markers_, {.parser = {.starts_thinking = prompt_opens_thinking(prompt.text)}});
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<TokenEvent> arrived;
    request->on_token = [&](TokenEvent&& event) {
      const std::lock_guard lock(mutex);
      arrived.push_back(std::move(event));
      changed.notify_one();
    };
    g_interrupted = 0;
    const auto previous = std::signal(SIGINT, on_interrupt);
    const double began = monotonic_seconds();
    double first = 0, last = 0;
    const uint64_t handle = value_or_raise(engine_.submit(std::move(request)));
    std::string content;
    MarkdownView view(styles_);
    int tokens = 0;
    for (bool done = false; !done;) {
      std::vector<TokenEvent> batch;
      {
        std::unique_lock lock(mutex);
        changed.wait_for(lock, std::chrono::milliseconds(50), [&] { return !arrived.empty(); });
        batch.swap(arrived);
      }
      if (g_interrupted == 1) {
        engine_.cancel(handle);
        g_interrupted = 2;
      }
      for (const TokenEvent& event : batch) {
        std::vector<OutputDelta> deltas;
        if (event.id >= 0) {
          ++tokens;
          last = monotonic_seconds();
          if (first == 0) first = last;
        }
        if (event.id >= 0 && event.finish != FinishReason::stop_token) reply.push(event.id, deltas);
        if (event.finish != FinishReason::none) {
          reply.finish(deltas);
          done = true;
        }
        for (const OutputDelta& d : deltas) show(d, content, view);
        if (event.error && !g_interrupted) std::printf("%s\n", event.error->message.c_str());
      }
      std::fflush(stdout);
    }
    std::fputs(view.finish().c_str(), stdout);
    thinking_shown_ = false;
    std::signal(SIGINT, previous);
    if (styles_ && tokens > 0) {
      std::printf("\n\033[2m[%d tokens", tokens);
      if (tokens > 1 && last > first) std::printf(", %.0f tok/s", (tokens - 1) / (last - first));
      std::printf(", first after %.0f ms%s]\033[22m", (first - began) * 1e3, g_interrupted ? ", stopped" : "");
    }
    std::puts("");
    messages_.push_back({{"role", "assistant"}, {"content", content}});
  }

  void show(const OutputDelta& d, std::string& content, MarkdownView& view) {
    if (d.kind == OutputDelta::Kind::content) {
      content += d.text;
      // An answer begins on a line of its own, under its thoughts.
      if (std::exchange(thinking_shown_, false)) std::fputs("\n\n", stdout);
      std::fputs(view.push(d.text).c_str(), stdout);
      return;
    }
    const bool faint = d.kind == OutputDelta::Kind::reasoning || d.kind == OutputDelta::Kind::call_begin || d.kind == OutputDelta::Kind::call_arguments;
    thinking_shown_ |= d.kind == OutputDelta::Kind::reasoning;
    if (faint) dim(true);
    std::fwrite(d.text.data(), 1, d.text.size(), stdout);
    if (faint) dim(false);
  }

  ChatFlags flags_;
  std::unique_ptr<LoadedModel> loaded_;
  Tokenizer tokenizer_;
  OutputMarkers markers_;
  ChatTemplate template_;
  Engine engine_;
  Json messages_;
  std::vector<PreparedMedia> media_;  // of the whole conversation, in order
  Json attached_ = Json::array();     // content parts of the next message
  std::set<fs::path> saved_;
  int turn_ = 0;
  bool styles_ = false, thinking_shown_ = false;
};
}  // namespace

int run_chat(ChatFlags flags) {
  check_speculative_flags(flags.model.speculative);
  return Chat(flags).run();
}
}  // namespace nibble
