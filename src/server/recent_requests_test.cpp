#include "server/recent_requests.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <unistd.h>

namespace nibble {
namespace {
std::string written(RecentRequests& requests) {
  std::FILE* file = std::tmpfile();
  EXPECT_TRUE(requests.write_to(fileno(file)));
  std::string text(static_cast<size_t>(std::ftell(file) >= 0 ? lseek(fileno(file), 0, SEEK_END) : 0), '\0');
  EXPECT_EQ(pread(fileno(file), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  std::fclose(file);
  return text;
}

TEST(RecentRequests, AreWrittenOldestFirst) {
  RecentRequests requests;
  EXPECT_EQ(written(requests), "");
  requests.add("a");
  requests.add("b");
  EXPECT_EQ(written(requests), "a\nb\n");
  EXPECT_EQ(written(requests), "a\nb\n");
}

TEST(RecentRequests, TheOldestGoWhenThereAreTooManyBytes) {
  RecentRequests requests;
  const std::string large(10 << 20, 'x');
  requests.add("first");
  for (int i = 0; i < 20; ++i) {
    requests.add(std::to_string(i) + large);
    EXPECT_LE(requests.bytes(), RecentRequests::kMaxBytes);
  }
  const std::string text = written(requests);
  EXPECT_EQ(text.substr(0, 3), "14x");  // six of ten MiB fit
  EXPECT_EQ(static_cast<int64_t>(text.size()), requests.bytes());
}
}  // namespace
}  // namespace nibble
