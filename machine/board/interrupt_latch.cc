#include "machine/board/interrupt_latch.h"

#include <vector>

#include "core/base/bits.h"

namespace perdure::board {

namespace {

constexpr u64 kMessageBase = 0xFEE0'0000;
using Destination = Field<19, 12>;
using Remainder = Field<11, 0>;  // format, redirection, mode: fixed delivery to one processor has none of them
using Vector = Field<7, 0, u32>;
using Delivery = Field<31, 8, u32>;  // mode, level: a fixed edge has none of them

}  // namespace

void InterruptLatch::take(u64 address, u32 data) {
  const u64 processor = Destination::get(address);
  const u64 vector = Vector::get(data);
  if ((address & ~Destination::kMask & ~Remainder::kMask) != kMessageBase || Remainder::get(address) != 0 ||
      processor >= kProcessors || Delivery::get(data) != 0 || vector < kFirstVector) {
    ++counts_.dropped;
    return;
  }
  auto bit = pending_[processor * kVectors + vector];
  ++(bit ? counts_.coalesced : counts_.latched);
  bit = true;
}

void InterruptLatch::hand_over(FunctionRef<void(u64 address, u32 data)> deliver) {
  for (u64 i = 0; i < pending_.size(); ++i) {
    if (!pending_[i]) continue;
    pending_[i] = false;
    deliver(kMessageBase | Destination::make(i / kVectors), static_cast<u32>(i % kVectors));
  }
}

void InterruptLatch::save(StateWriter& out) const {
  out.put(counts_);
  std::vector<u16> list;
  for (u64 i = 0; i < pending_.size(); ++i) {
    if (pending_[i]) list.push_back(static_cast<u16>(i));
  }
  out.blob(std::as_bytes(std::span(list)));
}

void InterruptLatch::load(StateReader& in) {
  counts_ = in.get<InterruptCounts>();
  pending_.reset();
  const std::span<const std::byte> list = in.blob();
  for (usize at = 0; at + sizeof(u16) <= list.size(); at += sizeof(u16)) {
    u16 i = 0;
    std::memcpy(&i, &list[at], sizeof i);
    if (i >= pending_.size()) throw StateError("saved machine: a pending interrupt of no vector");
    pending_[i] = true;
  }
}

}  // namespace perdure::board
