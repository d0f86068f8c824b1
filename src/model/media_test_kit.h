// The tiny model that sees and hears, and where its goldens have their media.
#pragma once

#include <cstring>
#include <numeric>
#include <numeric>

#include "base/test_paths.h"
#include "formats/safetensors.h"
#include "model/model.h"
#include "model/test_devices.h"

namespace nibble {
template <typename T>
std::vector<T> values_of(const TensorFiles& files, const std::string& name) {
  const Tensor& t = files.find(name)->tensor;
  std::vector<T> out(static_cast<size_t>(t.count()));
  std::memcpy(out.data(), t.data, out.size() * sizeof(T));
  return out;
}

struct TinyWithMedia {
  std::filesystem::path folder = test_data("model/tiny");
  ModelConfig config = parse_model_config(read_config_json(folder), "tiny");
  ModelWeights weights = ModelWeights::load(folder, config, {});
  std::unique_ptr<Backend> backend;
  Gemma4Model model;

  explicit TinyWithMedia(ModelOptions options, const std::string& device = "cpu") : backend(backend_on(device)), model(config, weights, with_pages(options), *backend) {}
  static ModelOptions with_pages(ModelOptions options) {
    options.num_full_pages = options.num_sliding_pages = 32;
    return options;
  }

  // All logits of a prompt in chunks that end at `cuts` and at the prompt's end.
  std::vector<float> run(const std::vector<int32_t>& ids, const std::vector<SoftTokens>& media, std::vector<int32_t> cuts = {}) {
    std::vector<int32_t> pages(32);
    std::iota(pages.begin(), pages.end(), 0);
    std::vector<float> logits;
    cuts.push_back(static_cast<int32_t>(ids.size()));
    int32_t at = 0;
    for (const int32_t end : cuts) {
      const SequenceSlice slice{0, end - at, at, pages, pages};
      std::vector<int32_t> rows(static_cast<size_t>(end - at));
      std::iota(rows.begin(), rows.end(), 0);
      std::vector<SoftRows> soft;
      for (const SoftTokens& m : media) {
        const int32_t begin = std::max(m.first_position, at), last = std::min(m.end(), end);
        if (begin < last) soft.push_back({&m, begin - at, last - begin, begin - m.first_position});
      }
      std::vector<float> part(rows.size() * static_cast<size_t>(config.vocab_size));
      model.forward({std::span(ids).subspan(static_cast<size_t>(at), rows.size()), std::span(&slice, 1), rows, soft}, part.data());
      logits.insert(logits.end(), part.begin(), part.end());
      at = end;
    }
    return logits;
  }
};

// Runs of equal types are media; video frames are told apart by the text between them.
inline std::vector<SoftTokens> media_of(const TensorFiles& golden) {
  const auto types = values_of<uint8_t>(golden, "token_types");
  std::vector<SoftTokens> media;
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] == 0) continue;
    if (i == 0 || types[i - 1] != types[i]) media.push_back({.kind = types[i] == 1 ? SoftTokens::Kind::image : types[i] == 2 ? SoftTokens::Kind::video : SoftTokens::Kind::audio, .first_position = static_cast<int32_t>(i)});
    ++media.back().count;
  }
  return media;
}
}  // namespace nibble
