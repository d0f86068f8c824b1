// Texts on the wire: what the short ways write is what the long ones would.
#include "server/http_text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "server/json_body.h"

namespace nibble {
namespace {
TEST(AppendString, WritesWhatAJsonTreeWrites) {
  const auto same = [](const std::string& text) {
    std::string out = "before";
    append_string(out, text);
    EXPECT_EQ(out, "before" + dump(text));
  };
  for (int byte = 0; byte < 256; ++byte) {
    same(std::string(1, static_cast<char>(byte)));
    same("a" + std::string(1, static_cast<char>(byte)) + "z");
  }
  same("");
  same("\u00e9\u4e2d\U0001f600 and \u2028");
  same("cut \xf0\x9f\x98");
  std::mt19937 random(3);
  for (int i = 0; i < 2000; ++i) {
    std::string text(random() % 12, ' ');
    for (char& c : text) c = static_cast<char>(random() % 256);
    same(text);
  }
}

TEST(AccessLine, ShowsWhoAskedAndHidesWhatTheyForged) {
  HttpRequest request;
  request.method = "GET", request.path = "/v1/models/a\n[2026-01-01] ERROR \x1b[31m\xff\"", request.peer = "10.0.0.7", request.peer_port = 5123;
  EXPECT_EQ(access_line(request, 404), "10.0.0.7:5123 - \"GET /v1/models/a%0A[2026-01-01]%20ERROR%20%1B[31m%FF%22 HTTP/1.1\" 404 Not Found");
  request.path = "/health", request.peer = "::1";
  EXPECT_EQ(access_line(request, 200), "[::1]:5123 - \"GET /health HTTP/1.1\" 200 OK");
}

TEST(EventChunk, IsTheChunkOfItsEventsAndCanBeUsedAgain) {
  EventChunk events;
  for (const size_t size : {0, 1, 7, 250, 4096, 100000, 3}) {
    EXPECT_TRUE(events.empty());
    const std::string data(size, 'x');
    events.add(data);
    EXPECT_EQ(events.finish(), chunk("data: " + data + "\n\n"));
    events.clear();
    events.add(data, "token");
    events.add("second");
    EXPECT_FALSE(events.empty());
    EXPECT_EQ(events.finish(), chunk("event: token\ndata: " + data + "\n\ndata: second\n\n"));
    events.clear();
  }
}
}  // namespace
}  // namespace nibble
