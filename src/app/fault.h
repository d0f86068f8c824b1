// --inject-fault: a model that goes wrong on purpose, to see what a server and its supervisor do then.
#pragma once

#include <memory>
#include <string>

#include "model/step.h"

namespace nibble {
struct Fault {
  enum class Kind { none, error, lost, crash, hang } kind = Kind::none;
  int64_t step = 0;  // that goes wrong, from 1
};
// "error:50" the 50th step fails, later ones do not; "lost:50" that and all later ones; "crash:50" the process gets SIGSEGV; "hang:50" the step never ends. "": none.
// Raises invalid_argument.
Fault parse_fault(const std::string& text);

// Passes everything on until the step comes. `inner` must outlive it.
std::unique_ptr<ForwardModel> with_fault(ForwardModel& inner, Fault fault);
}  // namespace nibble
