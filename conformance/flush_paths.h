// How a flush is asked for, and what behaviours of flushes have in common (hardware.md §6). A unit may forget what it
// has cached at any time, so "still the old page" is asked only of one that keeps all it may (kKeeps): the board's
// model under its sticky policy, and QEMU, as far as its caches go.
#pragma once
#include "conformance/bench.h"

namespace perdure::conformance {

enum class Path : u8 { Registers, Queue };

inline void start(Bench& b, Mode mode, Path path) {
  b.start(mode);
  if (path == Path::Queue && mode == Mode::Legacy) b.start_queue();
}

// Target 0 is cached for kIova of requester 0; the leaf says target 1 now.
template <Mode kMode, Path kPath>
Table remapped(Bench& b, u64 iova = Bench::kIova) {
  start(b, kMode, kPath);
  const Table table = b.simple();
  b.map(table, iova, b.target(0));
  b.require(b.write(0, iova) == lands(0), "DMA through the table");
  b.map(table, iova, b.target(1));
  return table;
}

inline constexpr Seen kOld{lands(0)};
inline constexpr Seen kNew{lands(1)};
inline constexpr Seen kOldThenNew{lands(0), lands(1)};

template <Mode M, Path P>
inline constexpr std::string_view kPrefix = M == Mode::Scalable ? "scalable."
                                            : P == Path::Queue  ? "queue."
                                                                : "registers.";
template <Mode M, Path P>
inline constexpr u64 kNeeded = M == Mode::Scalable ? kScalable
                               : P == Path::Queue  ? kQueued
                                                   : kNothing;
template <Mode M>
inline constexpr u8 kNotPermitted = M == Mode::Scalable ? vtd::reason::kSecondPermission : vtd::reason::kNoWrite;

inline constexpr std::string_view kBySource =
    "translations are the requester's, not the domain's: what shares a domain id wrongly does not show";
inline constexpr std::string_view kNoNotPresent =
    "what is not present is not cached even with caching mode: a forgotten flush "
    "does not show";

}  // namespace perdure::conformance
