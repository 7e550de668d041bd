// What benchmarks measure with: processor time, so that a busy machine does not count.
#pragma once
#include <time.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace perdure::bench {

inline double now(clockid_t clock = CLOCK_THREAD_CPUTIME_ID) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class Work>
double seconds(Work&& work) {
  const double start = now();
  work();
  return now() - start;
}

inline double median(std::vector<double> of) {
  if (of.empty()) return 0;
  std::sort(of.begin(), of.end());
  return of[of.size() / 2];
}

// A benchmark of something that failed says nothing.
inline void need(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(what);
}

}  // namespace perdure::bench
