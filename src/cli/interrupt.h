// Ctrl-C and SIGTERM: the first ends a run where it next reports its progress, so that what it has
// half written is removed; the second ends it at once. SIGKILL leaves it to the next run
// (formats/atomic_folder.h).
#pragma once

namespace nibble {

// Thrown by throw_if_interrupted. No std::exception, so that main alone catches it.
struct Interrupted {
  int signal;
};

void catch_interrupts();
void throw_if_interrupted();
// Ends the program as the signal would have, so that a shell sees it.
[[noreturn]] void end_by(const Interrupted& interrupted);

}  // namespace nibble
