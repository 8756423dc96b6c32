#include "src/cli/interrupt.h"

#include <signal.h>

#include <csignal>
#include <cstdlib>
#include <initializer_list>

namespace nibble {
namespace {

volatile std::sig_atomic_t received = 0;

void remember(int signal) { received = signal; }

}  // namespace

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  for (const int signal : {SIGINT, SIGTERM}) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);  // as nohup asks
  }
}

void throw_if_interrupted() {
  if (received != 0) throw Interrupted{received};
}

void end_by(const Interrupted& interrupted) {
  std::signal(interrupted.signal, SIG_DFL);
  std::raise(interrupted.signal);
  std::abort();  // not reached: the signal is not blocked
}

}  // namespace nibble
