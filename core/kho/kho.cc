#include "core/kho/kho.h"

#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/kho/fdt.h"

namespace perdure {

using namespace kho;

namespace {

// A block that has a key, before anything else is asked of it.
bool is_block(const Machine& machine, Phys base, unsigned order) {
  return order <= kMaxKeyOrder && base.aligned(kPageSize << order) && machine.in_window(base, kPageSize << order);
}

bool is_page_range(const Machine& machine, Phys base, u64 length) {
  return length != 0 && length % kPageSize == 0 && base.aligned(kPageSize) && machine.in_window(base, length);
}

}  // namespace

Kho::Kho(Heap& heap) : heap_(heap), outgoing_(heap.frames()), banks_(heap.frames()) {}

Kho::~Kho() {
  if (outgoing_fdt_) frames().free(outgoing_fdt_, 0);
  close_incoming();
}

void Kho::close_incoming() {
  incoming().each_node([&](Phys node) { frames().free(node, 0); });
  incoming_root_ = Phys(0);
  incoming_orders_ = 0;
  incoming_fdt_ = Phys(0);
}

std::span<std::byte, kPageSize> Kho::fdt_page() const {
  return std::span<std::byte, kPageSize>(machine().virt(outgoing_fdt_), kPageSize);
}

Result<void> Kho::init(Phys incoming_fdt, unsigned max_order) {
  PERDURE_ASSERT(!outgoing_fdt_);
  MutexGuard guard(lock_);
  max_order_ = max_order < kMaxKeyOrder ? max_order : kMaxKeyOrder;

  Phys incoming_root;
  if (incoming_fdt) {
    FdtProblem problem;
    const FdtReader reader = TRY(FdtReader::open({machine().virt<const std::byte>(incoming_fdt), kPageSize}, problem));
    incoming_root = Phys(TRY(reader.word(reader.root(), kMapProperty)));
  }

  TRY(outgoing_.init());
  ScopeGuard undo_outgoing([&]() NO_THREAD_SAFETY_ANALYSIS { outgoing_.clear(); });
  TRY(banks_.init());
  ScopeGuard undo_banks([&]() NO_THREAD_SAFETY_ANALYSIS { banks_.clear(); });
  const Phys fdt = TRY(frames().alloc_zeroed(0));
  ScopeGuard undo_fdt([&] { frames().free(fdt, 0); });
  TRY(preserve_locked(fdt, 0));

  if (incoming_root) {
    const RadixView tree(machine(), incoming_root);
    u64 orders = 0;
    const auto note = [&](u64 key) NO_THREAD_SAFETY_ANALYSIS -> Result<void> {
      const Block block = block_of(key);
      orders |= u64{1} << block.order;
      if (!frames().is_kept(block.base, block.order)) TRY(banks_.insert(key));
      return {};
    };
    TRY(tree.each(note));
    // Nothing can fail any more: carve() kept every one of these pages, and nobody else knows of them. From here
    // they are ordinary allocated pages of this object.
    tree.each_node([&](Phys node) { PERDURE_ASSERT(frames().restore(node, 0).has_value()); });
    incoming_orders_ = orders;
  }
  incoming_fdt_ = incoming_fdt;
  incoming_root_ = incoming_root;
  outgoing_fdt_ = fdt;
  FdtPage::create(fdt_page(), outgoing_.root());
  undo_fdt.dismiss();
  undo_banks.dismiss();
  undo_outgoing.dismiss();
  return {};
}

// --- outgoing ---------------------------------------------------------------------------------------------------

bool Kho::overlaps_outgoing(Phys base, unsigned order) const {
  const RadixView& tree = outgoing_.view();
  for (unsigned each = 0; each < kOrders; ++each) {
    if (keys_of_order_[each] == 0) continue;
    if (each >= order) {
      if (tree.contains(key_of(Phys(align_down(base.value, kPageSize << each)), each))) return true;
    } else {
      const u64 first = key_of(base, each);
      if (tree.find(first, first + (u64{1} << (order - each)) - 1) != RadixView::kNone) return true;
    }
  }
  return false;
}

Result<void> Kho::preserve_locked(Phys base, unsigned order) {
  if (!outgoing_.root()) return fail(Errno::Einval);
  if (!is_block(machine(), base, order) || frames().in_scratch(base, kPageSize << order)) return fail(Errno::Einval);
  if (overlaps_outgoing(base, order)) return fail(Errno::Eexist);
  TRY(outgoing_.insert(key_of(base, order)));
  ++keys_of_order_[order];
  return {};
}

void Kho::unpreserve_locked(Phys base, unsigned order) {
  PERDURE_ASSERT(is_block(machine(), base, order) && outgoing_.erase(key_of(base, order)));
  --keys_of_order_[order];
}

Result<void> Kho::preserve(Phys base, unsigned order) {
  MutexGuard guard(lock_);
  return preserve_locked(base, order);
}

void Kho::unpreserve(Phys base, unsigned order) {
  MutexGuard guard(lock_);
  unpreserve_locked(base, order);
}

Result<void> Kho::preserve_range(Phys base, u64 length) {
  if (!is_page_range(machine(), base, length)) return fail(Errno::Einval);
  MutexGuard guard(lock_);
  for (u64 done = 0; done < length;) {
    const unsigned order = largest_order(base + done, length - done, max_order_);
    if (const auto r = preserve_locked(base + done, order); !r) {
      // The same split again, as far as it went.
      for (u64 undone = 0; undone < done;) {
        const unsigned made = largest_order(base + undone, length - undone, max_order_);
        unpreserve_locked(base + undone, made);
        undone += kPageSize << made;
      }
      return r;
    }
    done += kPageSize << order;
  }
  return {};
}

void Kho::unpreserve_range(Phys base, u64 length) {
  PERDURE_ASSERT(is_page_range(machine(), base, length));
  MutexGuard guard(lock_);
  for (u64 done = 0; done < length;) {
    const unsigned order = largest_order(base + done, length - done, max_order_);
    unpreserve_locked(base + done, order);
    done += kPageSize << order;
  }
}

namespace {
// The order of the smallest block that holds `bytes` > 0.
unsigned order_for(u64 bytes) {
  return static_cast<unsigned>(std::bit_width((bytes - 1) >> kPageShift));
}
}  // namespace

Result<Phys> Kho::alloc_preserved(u64 bytes) {
  if (bytes == 0) return fail(Errno::Einval);
  const unsigned order = order_for(bytes);
  if (order > FrameAllocator::kMaxOrder) return fail(Errno::E2big);
  const Phys at = TRY(frames().alloc_zeroed(order));
  if (const auto r = preserve(at, order); !r) {
    frames().free(at, order);
    return fail(r.error());
  }
  return at;
}

void Kho::unpreserve_free(Phys at, u64 bytes) {
  const unsigned order = order_for(bytes);
  unpreserve(at, order);
  frames().free(at, order);
}

Result<void> Kho::add_subtree(std::string_view name, KhoBlob blob) {
  MutexGuard guard(lock_);
  if (!outgoing_fdt_) return fail(Errno::Einval);
  return FdtPage(fdt_page()).add_blob(name, blob.at, blob.size);
}

void Kho::remove_subtree(std::string_view name) {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(outgoing_fdt_ && FdtPage(fdt_page()).remove_blob(name));
}

Result<KhoBlob> Kho::outgoing_subtree(std::string_view name) const {
  MutexGuard guard(lock_);
  if (!outgoing_fdt_) return fail(Errno::Enoent);
  FdtProblem problem;
  const FdtReader reader = TRY(FdtReader::open(fdt_page(), problem));
  const FdtReader::Node node = TRY(reader.child(name));
  return KhoBlob {
    Phys(TRY(reader.word(node, kDataProperty))), TRY(reader.word(node, kSizeProperty))
  };
}

bool Kho::is_preserved(Phys base, unsigned order) const {
  MutexGuard guard(lock_);
  return is_block(machine(), base, order) && outgoing_.view().contains(key_of(base, order));
}

Kho::Extent Kho::outgoing_extent() const {
  MutexGuard guard(lock_);
  Extent extent;
  if (!outgoing_.root()) return extent;
  static_cast<void>(outgoing_.view().each([&](u64 key) -> Result<void> {
    ++extent.blocks;
    extent.bytes += block_of(key).bytes();
    return {};
  }));
  outgoing_.view().each_node([&](Phys) { ++extent.tree_pages; });
  return extent;
}

Result<void> Kho::check_outgoing() const {
  MutexGuard guard(lock_);
  if (!outgoing_.root()) return {};
  return outgoing_.view().each([&](u64 key) -> Result<void> {
    const Block block = block_of(key);
    if (!frames().any_free(block.base, block.bytes())) return {};
    perdure::log(machine(), LogLevel::Error,
                 Line() << "kho: block " << block.base << " of order " << block.order
                        << " is preserved, but its memory was freed; this is a defect of this kernel, the update is "
                           "refused");
    return fail(Errno::Efault);
  });
}

// --- incoming ---------------------------------------------------------------------------------------------------
// The incoming tree and FDT do not change: only what is handed out needs the lock.

Result<KhoBlob> Kho::retrieve_subtree(std::string_view name) const {
  if (!incoming_fdt_) return fail(Errno::Enoent);
  FdtProblem problem;
  const FdtReader reader = TRY(FdtReader::open({machine().virt<const std::byte>(incoming_fdt_), kPageSize}, problem));
  const FdtReader::Node node = TRY(reader.child(name));
  const auto at = reader.word(node, kDataProperty);
  const auto size = reader.word(node, kSizeProperty);
  if (!at || !size || *size == 0 || !incoming_covers(Phys(*at), *size)) {
    perdure::log(machine(), LogLevel::Error,
                 Line() << "kho: blob \"" << name << "\" of the incoming FDT at " << incoming_fdt_
                        << " has no address and size within preserved memory");
    return fail(Errno::Einval);
  }
  return KhoBlob{Phys(*at), *size};
}

bool Kho::restorable_locked(Phys base, unsigned order) const {
  if (!is_block(machine(), base, order) || !incoming().contains(key_of(base, order))) return false;
  return frames().is_kept(base, order) || banks_.view().contains(key_of(base, order));
}

bool Kho::restorable(Phys base, unsigned order) const {
  MutexGuard guard(lock_);
  return restorable_locked(base, order);
}

bool Kho::restorable_ram(Phys base, unsigned order) const {
  MutexGuard guard(lock_);
  return restorable_locked(base, order) && frames().is_kept(base, order);
}

Result<void> Kho::restore_locked(Phys base, unsigned order) {
  if (!restorable_locked(base, order)) return fail(Errno::Enoent);
  if (!banks_.erase(key_of(base, order))) return frames().restore(base, order);
  return {};
}

Result<void> Kho::restore(Phys base, unsigned order) {
  MutexGuard guard(lock_);
  return restore_locked(base, order);
}

Result<void> Kho::restore_range(Phys base, u64 length) {
  if (!is_page_range(machine(), base, length)) return fail(Errno::Enoent);
  MutexGuard guard(lock_);
  for (u64 done = 0; done < length;) {
    const unsigned order = TRY(incoming_order(base + done));
    if (kPageSize << order > length - done || !restorable_locked(base + done, order)) return fail(Errno::Enoent);
    done += kPageSize << order;
  }
  for (u64 done = 0; done < length;) {
    const unsigned order = *incoming_order(base + done);
    PERDURE_ASSERT(restore_locked(base + done, order).has_value());
    done += kPageSize << order;
  }
  return {};
}

Result<unsigned> Kho::incoming_order(Phys base) const {
  if (!incoming_root_) return fail(Errno::Enoent);
  for (u64 orders = incoming_orders_; orders != 0; orders &= orders - 1) {
    const unsigned order = static_cast<unsigned>(std::countr_zero(orders));
    if (!is_block(machine(), base, order)) break;  // nor any bigger one
    if (incoming().contains(key_of(base, order))) return order;
  }
  return fail(Errno::Enoent);
}

bool Kho::incoming_covers(Phys base, u64 length) const {
  if (!incoming_root_ || !machine().in_window(base, length)) return false;
  u64 at = align_down(base.value, kPageSize);
  while (at < base.value + length) {
    bool found = false;
    for (u64 orders = incoming_orders_; orders != 0 && !found; orders &= orders - 1) {
      const unsigned order = static_cast<unsigned>(std::countr_zero(orders));
      const u64 start = align_down(at, kPageSize << order);
      if (!incoming().contains(key_of(Phys(start), order))) continue;
      found = true;
      at = start + (kPageSize << order);
    }
    if (!found) return false;
  }
  return true;
}

}  // namespace perdure
