// Entry of the interrupt remapping table (hardware.md §3.5) and the message that leads to it, as this driver uses them:
// fixed, edge-triggered delivery to one processor, of messages from one function.
#pragma once
#include <algorithm>

#include "core/base/bits.h"
#include "core/base/machine.h"
#include "core/pci/source_id.h"

namespace perdure::vtd {

struct Irta {
  using Base = Field<63, 12>;
  using Extended = Bit<11>;  // destinations of 32 bits: not used
  using Size = Field<3, 0>;  // 2^(size + 1) entries
};

struct InterruptEntry {
  static constexpr u64 kBytes = 16;
  using Present = Bit<0>;
  using Vector = Field<23, 16>;
  using Destination = Field<47, 40>;
  using Sid = Field<15, 0>;  // of word 1, with its two companions
  using Svt = Field<19, 18>;
  static constexpr u64 kCheckSource = 1;
  static constexpr u64 kCheckBuses = 2;

  // Word 1: who may use the entry. Requester ids of a function behind a conventional bridge are told by their buses.
  static u64 source_of(std::span<const SourceId> requesters) {
    u8 first = requesters[0].bus();
    u8 last = first;
    for (const SourceId& id : requesters) {
      first = std::min(first, id.bus());
      last = std::max(last, id.bus());
    }
    if (requesters.size() == 1) return Svt::make(kCheckSource) | Sid::make(requesters[0].bdf);
    return Svt::make(kCheckBuses) | Sid::make(u64{first} << 8 | last);
  }

  // Word 0, not present when the target is none that an entry can name.
  static constexpr u64 target_word(const MsiTarget& target) {
    if (!reachable(target)) return 0;
    return Present::value() | Vector::make(target.data) | Destination::make(MessageDestination::get(target.address));
  }
  static constexpr MsiTarget target_of(u64 word) {
    return {kMessages | MessageDestination::make(Destination::get(word)), static_cast<u32>(Vector::get(word))};
  }
  static constexpr bool reachable(const MsiTarget& target) {
    return (target.address & ~MessageDestination::kMask) == kMessages && target.data >= 16 &&
           target.data <= Vector::kMax;
  }

  // In remappable format, handle plus sub-handle: the data is the number of the vector within the run.
  static constexpr MsiTarget message(u32 first) {
    return {kMessages | Remappable::value() | SubhandleValid::value() | HandleLow::make(first) |
                HandleHigh::make(first >> 15),
            0};
  }

 private:
  static constexpr u64 kMessages = 0xfee0'0000;
  using MessageDestination = Field<19, 12>;
  using Remappable = Bit<4>;
  using SubhandleValid = Bit<3>;
  using HandleLow = Field<19, 5>;
  using HandleHigh = Bit<2>;
};

static_assert(InterruptEntry::target_word({0xfee0'3000, 0x41}) == (u64{3} << 40 | 0x41 << 16 | 1));
static_assert(InterruptEntry::target_of(u64{3} << 40 | 0x41 << 16 | 1) == MsiTarget{0xfee0'3000, 0x41});
static_assert(InterruptEntry::message(0x8001).address == 0xfee0'003c);

}  // namespace perdure::vtd
