#include "core/mem/heap.h"

#include "core/base/asan.h"

namespace perdure {

// In front of the objects, in the slots that it takes up. Objects are found by the slab's natural alignment.
struct Heap::Slab {
  Heap* heap;
  Slab* prev;
  Slab* next;
  u16 free;
  u16 slots;
  u8 size_class;
  bool linked;
  u64 free_slots[4];  // a bit for each slot

  static constexpr u64 bytes(unsigned c) { return kPageSize << slab_order(c); }
  static constexpr unsigned slot_bytes(unsigned c) { return 1u << (c + kMinShift); }
  // Slots under this header.
  static constexpr unsigned header_slots(unsigned c) { return (sizeof(Slab) + slot_bytes(c) - 1) / slot_bytes(c); }
  std::byte* slot(unsigned i) { return reinterpret_cast<std::byte*>(this) + (usize{i} << (size_class + kMinShift)); }
};

constexpr unsigned Heap::class_of(usize bytes) {
  return bytes <= (1u << kMinShift) ? 0 : 64 - static_cast<unsigned>(__builtin_clzll(bytes - 1)) - kMinShift;
}

// At least 16 slots in every slab: the header takes one.
constexpr unsigned Heap::slab_order(unsigned c) {
  const unsigned shift = c + kMinShift;
  return shift + 4 <= kPageShift ? 0 : shift + 4 - kPageShift;
}

constexpr unsigned Heap::frame_order(usize bytes) {
  return bytes <= kPageSize ? 0 : 64 - static_cast<unsigned>(__builtin_clzll(bytes - 1)) - kPageShift;
}

Heap::~Heap() {
  trim();
  const MutexGuard guard(lock_);
  PERDURE_ASSERT(in_use_ == 0);
}

Result<void*> Heap::allocate(usize bytes) {
  if (bytes == 0) return fail(Errno::Einval);
  if (bytes > kMaxBytes) return fail(Errno::Enomem);
  if (machine().steps != nullptr && !machine().steps->may_allocate()) return fail(Errno::Enomem);
  if (bytes <= (usize{1} << kMaxShift)) return allocate_small(bytes);
  const unsigned order = frame_order(bytes);
  std::byte* at = machine().virt(TRY(frames_.alloc_unasked(order)));
  asan::poison(at + bytes, (kPageSize << order) - bytes);
  const MutexGuard guard(lock_);
  in_use_ += bytes;
  return at;
}

void Heap::release(void* at, usize bytes) {
  PERDURE_ASSERT(at != nullptr && bytes != 0);
  if (bytes <= (usize{1} << kMaxShift)) {
    release_small(at, bytes);
    return;
  }
  const unsigned order = frame_order(bytes);
  {
    const MutexGuard guard(lock_);
    in_use_ -= bytes;
  }
  asan::unpoison(at, kPageSize << order);
  frames_.free(machine().phys(at), order);
}

Result<void*> Heap::allocate_small(usize bytes) {
  const unsigned c = class_of(bytes);
  const MutexGuard guard(lock_);
  Class& list = classes_[c];
  Slab* slab = list.partial;
  if (slab == nullptr) {
    slab = list.empty != nullptr ? std::exchange(list.empty, nullptr) : TRY(grow(c));
    push(list, slab);
  }
  unsigned word = 0;
  while (slab->free_slots[word] == 0) ++word;
  const unsigned slot = word * 64 + static_cast<unsigned>(__builtin_ctzll(slab->free_slots[word]));
  slab->free_slots[word] &= slab->free_slots[word] - 1;
  if (--slab->free == 0) remove(list, slab);
  in_use_ += bytes;
  std::byte* at = slab->slot(slot);
  asan::unpoison(at, bytes);
  return at;
}

void Heap::release_small(void* at, usize bytes) {
  const unsigned c = class_of(bytes);
  // Slabs are naturally aligned in physical memory, not necessarily in the direct map.
  const u64 phys = machine().phys(at).value;
  const u64 start = align_down(phys, Slab::bytes(c));
  Slab* slab = machine().virt<Slab>(Phys(start));
  const unsigned slot = static_cast<unsigned>((phys - start) >> (c + kMinShift));
  const u64 bit = u64{1} << (slot % 64);
  const MutexGuard guard(lock_);
  PERDURE_ASSERT(slab->heap == this && slab->size_class == c && slab->slot(slot) == at);
  PERDURE_ASSERT(slot >= Slab::header_slots(c) && (slab->free_slots[slot / 64] & bit) == 0);
  asan::poison(at, Slab::slot_bytes(c));
  slab->free_slots[slot / 64] |= bit;
  in_use_ -= bytes;
  Class& list = classes_[c];
  if (++slab->free == slab->slots) {
    remove(list, slab);  // it was partial: a slab has many slots
    if (list.empty == nullptr) {
      list.empty = slab;
    } else {
      give_back(slab);
    }
  } else if (!slab->linked) {
    push(list, slab);
  }
}

Result<Heap::Slab*> Heap::grow(unsigned c) {
  const Phys at = TRY(frames_.alloc_unasked(slab_order(c)));
  auto* slab = new (machine().virt(at)) Slab{};
  slab->heap = this;
  slab_frames_ += u64{1} << slab_order(c);
  slab->size_class = static_cast<u8>(c);
  const unsigned total = static_cast<unsigned>(Slab::bytes(c) / Slab::slot_bytes(c));
  const unsigned first = Slab::header_slots(c);
  for (unsigned i = first; i < total; ++i) slab->free_slots[i / 64] |= u64{1} << (i % 64);
  slab->slots = slab->free = static_cast<u16>(total - first);
  asan::poison(slab->slot(first), Slab::bytes(c) - (usize{first} << (c + kMinShift)));
  return slab;
}

void Heap::give_back(Slab* slab) {
  const unsigned order = slab_order(slab->size_class);
  asan::unpoison(slab, kPageSize << order);
  slab->heap = nullptr;
  slab_frames_ -= u64{1} << order;
  frames_.free(machine().phys(slab), order);
}

void Heap::push(Class& list, Slab* slab) {
  slab->prev = nullptr;
  slab->next = list.partial;
  if (list.partial != nullptr) list.partial->prev = slab;
  list.partial = slab;
  slab->linked = true;
}

void Heap::remove(Class& list, Slab* slab) {
  if (slab->next != nullptr) slab->next->prev = slab->prev;
  if (slab->prev != nullptr) {
    slab->prev->next = slab->next;
  } else {
    list.partial = slab->next;
  }
  slab->linked = false;
}

u64 Heap::slab_frames() const {
  const MutexGuard guard(lock_);
  return slab_frames_;
}

u64 Heap::bytes_in_use() const {
  const MutexGuard guard(lock_);
  return in_use_;
}

void Heap::trim() {
  const MutexGuard guard(lock_);
  for (Class& list : classes_) {
    if (Slab* slab = std::exchange(list.empty, nullptr)) give_back(slab);
  }
}

}  // namespace perdure
