#include "app/chat.h"

#include <histedit.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>

#include "app/local_server.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/reply.h"
#include "server/media_parts.h"
#include "text/chat_template.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

volatile std::sig_atomic_t g_interrupted = 0;

constexpr const char* kHelp =
    "  /think on|off     let the model think first\n"
    "  /system TEXT      start over with a system message\n"
    "  /image FILE       show a picture with the next message\n"
    "  /audio FILE       play a sound with it; /video FILE\n"
    "  /reset            start over\n"
    "  /help             this\n"
    "  /quit             leave (or Ctrl-D); Ctrl-C stops a reply\n";

// Lines from a terminal with history and editing, else from the pipe.
class Lines {
 public:
  Lines() : terminal_(isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) {
    if (!terminal_) return;
    editor_ = el_init("nibble", stdin, stdout, stderr);
    history_ = history_init();
    HistEvent event;
    history(history_, &event, H_SETSIZE, 500);
    el_set(editor_, EL_PROMPT, +[](EditLine*) -> char* {
      static char prompt[] = "> ";
      return prompt;
    });
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_HIST, history, history_);
  }
  ~Lines() {
    if (!terminal_) return;
    history_end(history_);
    el_end(editor_);
  }
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;

  bool next(std::string& line) {
    if (!terminal_) return static_cast<bool>(std::getline(std::cin, line));
    int count = 0;
    const char* text = el_gets(editor_, &count);
    if (!text || count <= 0) return false;
    line.assign(text, static_cast<size_t>(count));
    while (line.ends_with('\n')) line.pop_back();
    HistEvent event;
    if (!line.empty()) history(history_, &event, H_ENTER, line.c_str());
    return true;
  }
  bool terminal() const { return terminal_; }

 private:
  bool terminal_;
  EditLine* editor_ = nullptr;
  History* history_ = nullptr;
};

class Chat {
 public:
  explicit Chat(const ChatFlags& flags)
      : flags_(flags), loaded_(load_model(flags.model)), tokenizer_(Tokenizer::load(loaded_->tokenizer_folder)), markers_(tokenizer_),
        template_(value_or_raise(ChatTemplate::load({loaded_->tokenizer_folder, {}, {}}))), engine_(*loaded_->model, {.suppress_tokens = loaded_->generation.suppress_tokens, .decode_log_interval = 0}) {
    reset(flags.system);
  }

  int run() {
    Lines lines;
    colours_ = isatty(STDOUT_FILENO) && !std::getenv("NO_COLOR");
    if (lines.terminal()) std::printf("%s. /help lists the commands.\n", loaded_->folder.filename().c_str());
    std::string line;
    while (lines.next(line)) {
      if (line.empty()) continue;
      if (line == "/quit" || line == "/exit") break;
      if (line[0] == '/') {
        command(line);
      } else {
        answer(line);
      }
    }
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
    if (line == "/think on" || line == "/think off") {
      flags_.thinking = line == "/think on";
    } else if (line == "/reset") {
      reset(flags_.system);
    } else if (line.starts_with("/image ")) {
      attach(MediaKind::image, "image", line.substr(7));
    } else if (line.starts_with("/audio ")) {
      attach(MediaKind::audio, "audio", line.substr(7));
    } else if (line.starts_with("/video ")) {
      attach(MediaKind::video, "video", line.substr(7));
    } else if (line.starts_with("/system ")) {
      flags_.system = line.substr(8);
      reset(flags_.system);
    } else {
      std::fputs(line == "/help" ? kHelp : "unknown command; /help lists them\n", stdout);
    }
  }

  // The file goes with the next message.
  void attach(MediaKind kind, const char* type, const std::string& file) {
    MediaOptions options = api_options_of(*loaded_, tokenizer_).media;
    options.local_path = "/";
    const MediaReference reference{kind, "file://" + file, {}, {}};
    try {
      media_.push_back(std::move(prepare_media(std::span(&reference, 1), options, 0)[0]));
    } catch (const Error& error) {
      std::printf("%s: %s\n", file.c_str(), error.message.c_str());
      return;
    }
    attached_.push_back({{"type", type}});
    int64_t tokens = 0;
    for (const SoftTokens& block : media_.back().blocks) tokens += block.count;
    std::printf("%s: %lld soft tokens\n", file.c_str(), static_cast<long long>(tokens));
  }

  void dim(bool on) const {
    if (colours_) std::fputs(on ? "\033[2m" : "\033[0m", stdout);
  }

  void answer(const std::string& text) {
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
    const auto previous = std::signal(SIGINT, +[](int) { g_interrupted = 1; });
    const double began = monotonic_seconds();
    const std::string id = request->id;
    value_or_raise(engine_.submit(std::move(request)));
    std::string content;
    int tokens = 0;
    for (bool done = false; !done;) {
      std::vector<TokenEvent> batch;
      {
        std::unique_lock lock(mutex);
        changed.wait_for(lock, std::chrono::milliseconds(50), [&] { return !arrived.empty(); });
        batch.swap(arrived);
      }
      if (g_interrupted == 1) {
        engine_.cancel(id);
        g_interrupted = 2;
      }
      for (const TokenEvent& event : batch) {
        std::vector<OutputDelta> deltas;
        if (event.id >= 0) ++tokens;
        if (event.id >= 0 && event.finish != FinishReason::stop_token) reply.push(event.id, deltas);
        if (event.finish != FinishReason::none) {
          reply.finish(deltas);
          done = true;
        }
        for (const OutputDelta& d : deltas) show(d, content);
      }
      std::fflush(stdout);
    }
    std::signal(SIGINT, previous);
    dim(true);
    const double seconds = monotonic_seconds() - began;
    if (colours_) std::printf("\n[%d tokens, %.0f tok/s]", tokens, tokens / std::max(seconds, 1e-9));
    dim(false);
    std::puts("");
    messages_.push_back({{"role", "assistant"}, {"content", content}});
  }

  void show(const OutputDelta& d, std::string& content) {
    const bool thought = d.kind == OutputDelta::Kind::reasoning;
    if (thought || d.kind == OutputDelta::Kind::call_begin || d.kind == OutputDelta::Kind::call_arguments) dim(true);
    if (d.kind == OutputDelta::Kind::content) content += d.text;
    std::fwrite(d.text.data(), 1, d.text.size(), stdout);
    if (d.kind != OutputDelta::Kind::content) dim(false);
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
  int turn_ = 0;
  bool colours_ = false;
};
}  // namespace

int run_chat(const ChatFlags& flags) { return Chat(flags).run(); }
}  // namespace nibble
