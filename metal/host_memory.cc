#include "metal/host_memory.h"

#include <cstring>
#include <new>

#include "core/file/shared_memory.h"

namespace perdure::metal {

Result<void> ShareMemory::add_seals(u32 seals) {
  if ((seals & ~seal::kKnown) != 0) return fail(Errno::Einval);
  if ((seals_ & seal::kSeal) != 0) return fail(Errno::Eperm);
  seals_ |= seals;
  return {};
}

// Memory comes with the banks; one that shrinks keeps what it has until it ends, and no program can reach it.
Result<void> ShareMemory::resize(u64 bytes) {
  if ((bytes < size_ && (seals_ & seal::kShrink) != 0) || (bytes > size_ && (seals_ & seal::kGrow) != 0)) {
    return fail(Errno::Eperm);
  }
  size_ = bytes;
  return {};
}

void ShareMemory::dispose() {
  HostShare& home = home_;
  this->~ShareMemory();
  home.memories_.give_back(this);
}

void ShareEvent::dispose() {
  HostShare& home = home_;
  this->~ShareEvent();
  home.events_.give_back(this);
}

void HostShare::init(const Machine& machine, Phys base, u64 bytes, std::span<const abi::MemoryMapEntry> map) {
  machine_ = &machine;
  base_ = base;
  bytes_ = bytes;
  for (const abi::MemoryMapEntry& e : map) {
    if (e.type != static_cast<u32>(abi::MemoryType::Bank) || e.base < base.value || e.length > bytes ||
        e.base - base.value > bytes - e.length || count_ == kMostBanks) {
      continue;
    }
    insert({.base = Phys(e.base), .length = e.length, .offset = e.host_offset, .host_id = e.host_id});
    if (e.host_id >= next_id_) next_id_ = e.host_id + 1;
  }
}

Result<Ref<HostMemory>> HostShare::create(u64 bytes) {
  std::byte* const place = memories_.take();
  if (!place) return fail(Errno::Enfile);
  return Ref<HostMemory>(Ref<ShareMemory>::adopt(new (place) ShareMemory(*this, next_id_++, bytes)));
}

Result<Ref<HostMemory>> HostShare::find(u64 id) {
  for (usize i = 0; i < kMostMemories; ++i) {
    if (memories_.used[i] && memories_.at(i)->id() == id) return Ref<HostMemory>(Ref<ShareMemory>(memories_.at(i)));
  }
  u64 size = 0;
  for (const Bank& bank : banks()) {
    if (bank.host_id == id && bank.offset + bank.length > size) size = bank.offset + bank.length;
  }
  if (size == 0) return fail(Errno::Enoent);
  std::byte* const place = memories_.take();
  if (!place) return fail(Errno::Enfile);
  return Ref<HostMemory>(Ref<ShareMemory>::adopt(new (place) ShareMemory(*this, id, size)));
}

Result<Ref<HostEvent>> HostShare::create_event() {
  std::byte* const place = events_.take();
  if (!place) return fail(Errno::Enfile);
  return Ref<HostEvent>(Ref<ShareEvent>::adopt(new (place) ShareEvent(*this, next_id_++)));
}

// Aligned as leaves of page tables want it or, where the share is too small for that, as well as it goes.
Result<Bank> HostShare::attach(u64 memory, u64 offset, u64 length) {
  if (length == 0 || offset % kPageSize != 0 || length % kPageSize != 0) return fail(Errno::Einval);
  if (count_ == kMostBanks) return fail(Errno::Enospc);
  u64 alignment = kPageSize;
  while (alignment < length && alignment < kGiantPageSize) alignment *= 2;
  u64 at = 0;
  for (; at == 0 && alignment >= kPageSize; alignment /= 2) at = free_place(length, alignment);
  if (at == 0) return fail(Errno::Enomem);
  const Bank bank{.base = Phys(at), .length = length, .offset = offset, .host_id = memory};
  std::memset(machine_->virt(bank.base), 0, length);
  insert(bank);
  return bank;
}

void HostShare::detach(const Bank& bank) {
  for (usize i = 0; i < count_; ++i) {
    if (banks_[i].base != bank.base) continue;
    for (--count_; i < count_; ++i) banks_[i] = banks_[i + 1];
    return;
  }
}

u64 HostShare::bytes_in_use() const {
  u64 sum = 0;
  for (const Bank& bank : banks()) sum += bank.length;
  return sum;
}

u64 HostShare::free_place(u64 length, u64 alignment) const {
  u64 at = align_up(base_.value, alignment);
  for (const Bank& bank : banks()) {
    if (ranges_overlap(at, length, bank.base.value, bank.length)) {
      at = align_up(bank.base.value + bank.length, alignment);
    }
  }
  const u64 end = base_.value + bytes_;
  return at <= end && length <= end - at ? at : 0;
}

void HostShare::insert(const Bank& bank) {
  usize at = count_++;
  for (; at > 0 && banks_[at - 1].base > bank.base; --at) banks_[at] = banks_[at - 1];
  banks_[at] = bank;
}

}  // namespace perdure::metal
