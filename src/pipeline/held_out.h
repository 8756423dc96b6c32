// Which calibration windows are kept out of the statistics that codes are chosen by: every 8th.
#pragma once

#include <cstdint>

namespace nibble {

inline constexpr int64_t kHeldOutEvery = 8;

inline bool is_held_out(int64_t window) { return window % kHeldOutEvery == kHeldOutEvery - 1; }
inline int64_t held_out_windows(int64_t windows) { return windows / kHeldOutEvery; }

// visit(first, last, kept out) for runs of windows [first, last) within [begin, end) that go the
// same way.
template <typename Visit>
void for_window_runs(int64_t begin, int64_t end, bool hold_out, const Visit& visit) {
  const auto kept_out = [&](int64_t window) { return hold_out && is_held_out(window); };
  while (begin < end) {
    int64_t last = begin + 1;
    while (last < end && kept_out(last) == kept_out(begin)) ++last;
    visit(begin, last, kept_out(begin));
    begin = last;
  }
}

}  // namespace nibble
