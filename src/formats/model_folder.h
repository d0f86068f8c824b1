// From what a user writes to a model folder: a path, the word `demo`, or a repository id in the local Hugging Face cache. Nothing is downloaded.
#pragma once

#include <filesystem>
#include <string>

namespace nibble {
struct ModelLocation {
  std::string name;          // a folder, `demo`, or ORG/NAME
  std::string revision;      // branch or commit in the cache; empty: main
  std::string download_dir;  // the cache; empty: $HF_HOME/hub, else ~/.cache/huggingface/hub
};

// Raises not_found with the exact path that was looked for and the command that would fetch the model.
std::filesystem::path find_model_folder(const ModelLocation& location);

// The demo model that ships with the program: $NIBBLE_DEMO_DIR, share/nibble/demo beside the executable's bin/, or models/demo of the source tree.
std::filesystem::path demo_model_folder();
}  // namespace nibble
