// A model with the server's routes around it, in this process and without a socket: what `eval` and `bench` run when they are given a model instead of a URL.
#pragma once

#include <memory>
#include <optional>

#include "app/model_loader.h"
#include "engine/engine.h"
#include "server/api.h"
#include "text/chat_template.h"

namespace nibble {
// The options that follow from the checkpoint alone.
ApiOptions api_options_of(const LoadedModel& loaded, const Tokenizer& tokenizer);

class LocalServer {
 public:
  LocalServer(const ModelFlags& flags, EngineOptions options);

  LoadedModel& loaded() { return *loaded_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Engine& engine() { return *engine_; }
  Api& api() { return *api_; }

 private:
  std::unique_ptr<LoadedModel> loaded_;
  Tokenizer tokenizer_;
  std::optional<ChatTemplate> template_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Api> api_;
};
}  // namespace nibble
