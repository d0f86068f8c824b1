// --crash-dump-folder: the requests of the last five minutes, in a file, when the process dies of an error.
//
// FOLDER/nibble-crash-UNIXSECONDS-PID.jsonl. First line: {"event": "crash", "reason", "version", "unix_seconds", "pid"}. Then one line when a request came (request.received, with
// everything in it; texts shortened where it passes 1 MiB) and one when it ended (request.finished), as --log-requests has them. What was received and not finished was running.
#pragma once

#include <string>

#include "server/recent_requests.h"

namespace nibble {
class CrashDump {
 public:
  // Makes the folder and tries whether files can be written there; raises unavailable. From here on SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT write the dump before they end the process.
  // At most one at a time in a process.
  CrashDump(const std::string& folder, const std::string& version);
  ~CrashDump();
  CrashDump(const CrashDump&) = delete;
  CrashDump& operator=(const CrashDump&) = delete;

  RecentRequests& requests() { return requests_; }
  // Writes the dump now, once in a process; its path, "" when it could not be written or has been.
  std::string write(const std::string& reason);

 private:
  RecentRequests requests_;
};
}  // namespace nibble
