// Prompts with an image or sound, cut where they may be cut. The goldens of media as a whole, from files to logits, are checked in engine/media_goldens_test.cpp.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "model/media_test_kit.h"

namespace nibble {
namespace {
class MediaOnDevices : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, MediaOnDevices, testing::ValuesIn(devices()));

TEST_P(MediaOnDevices, RowsOfAnImageThatIsPartlyCachedGiveTheSameBits) {
  // The first rows are computed with the whole image and then stand in the pages, as after a prefix hit that ends inside the image.
  TinyWithMedia tiny({.activations = DType::bf16, .kv_cache = DType::bf16}, GetParam());
  const TensorFiles golden = TensorFiles::open(tiny.folder / "goldens/image_rings_300x200.safetensors");
  std::vector<SoftTokens> media = media_of(golden);
  media[0].patches = values_of<uint8_t>(golden, "patches_u8");
  media[0].columns = 10;
  const auto ids = values_of<int32_t>(golden, "input_ids");
  const auto whole = tiny.run(ids, media);
  std::vector<int32_t> pages(32);
  std::iota(pages.begin(), pages.end(), 0);
  const int32_t at = media[0].first_position + 24, rows = static_cast<int32_t>(ids.size()) - at;
  const SequenceSlice slice{0, rows, at, pages, pages};
  const SoftRows soft{&media[0], 0, media[0].end() - at, 24};
  std::vector<int32_t> wanted(static_cast<size_t>(rows));
  std::iota(wanted.begin(), wanted.end(), 0);
  std::vector<float> rest(wanted.size() * static_cast<size_t>(tiny.config.vocab_size));
  tiny.model.forward({std::span(ids).subspan(static_cast<size_t>(at)), std::span(&slice, 1), wanted, std::span(&soft, 1)}, rest.data());
  EXPECT_EQ(std::memcmp(rest.data(), whole.data() + at * tiny.config.vocab_size, rest.size() * 4), 0);
}

TEST_P(MediaOnDevices, SoundMayBeCutAnywhere) {
  TinyWithMedia tiny({.activations = DType::bf16, .kv_cache = DType::bf16}, GetParam());
  const TensorFiles golden = TensorFiles::open(tiny.folder / "goldens/audio_sweep_2.3s.safetensors");
  std::vector<SoftTokens> media = media_of(golden);
  media[0].frames = values_of<float>(golden, "features");
  const auto ids = values_of<int32_t>(golden, "input_ids");
  const auto whole = tiny.run(ids, media), cut = tiny.run(ids, media, {media[0].first_position + 5, media[0].end() - 1});
  EXPECT_EQ(std::memcmp(cut.data(), whole.data(), whole.size() * 4), 0);
}
}  // namespace
}  // namespace nibble
