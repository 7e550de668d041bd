// The old kernel's side of LiveUpdate, and its life as shared state of vfio's files. inherit.cc is the new kernel's
// side.
#include "core/pci/live_update.h"

#include "core/base/log.h"
#include "core/pci/outgoing.h"

namespace perdure::pci {

LiveUpdate::LiveUpdate(Kho& kho, u32 write_version) : kho_(kho), write_version_(write_version), at_work_(kho.heap()) {
  PERDURE_ASSERT(write_version >= abi::kPciReadMin && write_version <= abi::kPciReadMax);
}

LiveUpdate::~LiveUpdate() = default;

Result<void> LiveUpdate::preserve(Function& function) {
  if (function.is_bridge()) return fail(Errno::Einval);
  // The next kernel would have to find one through the other, without a write to either.
  if (function.physical() || function.virtual_count() != 0) return fail(Errno::Eopnotsupp);
  MutexGuard guard(lock_);
  if (!outgoing_) return fail(Errno::Enoent);
  if (outgoing_->has(function)) return fail(Errno::Ebusy);
  for (const Function* f = &function; f; f = f->parent()) {
    if (f->inherited() == Inherited::Refused) return fail(Errno::Eio);
  }
  return outgoing_->add(function);
}

void LiveUpdate::unpreserve(Function& function) {
  MutexGuard guard(lock_);
  if (outgoing_ && outgoing_->has(function)) outgoing_->remove(function);
}

bool LiveUpdate::keeps(const Function& function) const {
  MutexGuard guard(lock_);
  return outgoing_ && outgoing_->has(function);
}

Result<u64> LiveUpdate::preserve() {
  MutexGuard guard(lock_);
  if (outgoing_) return fail(Errno::Ebusy);
  Owned<OutgoingFunctions> out = TRY(kho_.heap().make<OutgoingFunctions>(kho_, write_version_));
  out->header = TRY(kho_.alloc_preserved(sizeof(abi::PciHeader)));
  // Unique per update, since the machine's clock runs on across jumps.
  const u64 now = kho_.machine().now_ns();
  out->generation = now != 0 ? now : 1;
  outgoing_ = std::move(out);
  return outgoing_->header.value;
}

void LiveUpdate::unpreserve(u64 data) {
  MutexGuard guard(lock_);
  if (!outgoing_ || outgoing_->header.value != data) return;
  PERDURE_ASSERT(outgoing_->empty());  // LUO undoes files before the state they share
  outgoing_.reset();
}

Result<u64> LiveUpdate::freeze(u64 data) {
  MutexGuard guard(lock_);
  if (!outgoing_ || outgoing_->header.value != data) return fail(Errno::Enoent);
  TRY(outgoing_->seal());
  return data;
}

void LiveUpdate::finish(u64 data) {
  Owned<IncomingRecords> done;
  {
    MutexGuard guard(lock_);
    if (!incoming_ || incoming_->data != data) return;
    done = std::move(incoming_);
    at_work_.clear();
  }
  kho::discard_pages(kho_, done->pages.span());
}

}  // namespace perdure::pci
