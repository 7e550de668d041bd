#include "core/luo/registry.h"

namespace perdure::luo {

Registry::~Registry() {
  MutexGuard guard(lock_);
  while (HandlerEntry* entry = handlers_.pop_front()) Owned<HandlerEntry>(heap_, entry).reset();
  while (FlbEntry* entry = flbs_.pop_front()) Owned<FlbEntry>(heap_, entry).reset();
}

// --- handlers ---------------------------------------------------------------------------------------------------

HandlerEntry* Registry::find_locked(std::string_view compatible) {
  for (HandlerEntry& e : handlers_) {
    if (e.handler.compatible() == compatible) return &e;
  }
  return nullptr;
}

Result<void> Registry::add(FileHandler& handler) {
  if (!is_name(handler.compatible(), kCompatibleSize)) return fail(Errno::Einval);
  auto entry = TRY(heap_.make<HandlerEntry>(heap_, handler));
  MutexGuard guard(lock_);
  if (find_locked(handler.compatible()) != nullptr) return fail(Errno::Eexist);
  handlers_.push_back(*entry.release());
  return {};
}

Result<void> Registry::remove(FileHandler& handler) {
  MutexGuard guard(lock_);
  HandlerEntry* entry = find_locked(handler.compatible());
  if (entry == nullptr || &entry->handler != &handler) return fail(Errno::Enoent);
  if (entry->users != 0) return fail(Errno::Ebusy);
  // An FLB whose last link goes is unknown again; its outgoing references went with the files.
  for (FlbEntry* flb : entry->flbs) {
    if (--flb->links != 0) continue;
    PERDURE_ASSERT(flb->refs == 0);
    flbs_.remove(*flb);
    Owned<FlbEntry>(heap_, flb).reset();
  }
  handlers_.remove(*entry);
  Owned<HandlerEntry>(heap_, entry).reset();
  return {};
}

HandlerEntry* Registry::get_for(File& file) {
  MutexGuard guard(lock_);
  for (HandlerEntry& e : handlers_) {
    if (!e.handler.can_preserve(file)) continue;
    ++e.users;
    return &e;
  }
  return nullptr;
}

HandlerEntry* Registry::get_named(std::string_view compatible) {
  MutexGuard guard(lock_);
  HandlerEntry* entry = find_locked(compatible);
  if (entry != nullptr) ++entry->users;
  return entry;
}

void Registry::put(HandlerEntry& entry) {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(entry.users > 0);
  --entry.users;
}

// --- shared state, outgoing -------------------------------------------------------------------------------------

FlbEntry* Registry::find_flb_locked(const Flb& flb) {
  for (FlbEntry& e : flbs_) {
    if (&e.flb == &flb) return &e;
  }
  return nullptr;
}

Result<void> Registry::link(FileHandler& handler, Flb& flb) {
  if (!is_name(flb.compatible(), kCompatibleSize)) return fail(Errno::Einval);
  MutexGuard guard(lock_);
  HandlerEntry* entry = find_locked(handler.compatible());
  if (entry == nullptr || &entry->handler != &handler) return fail(Errno::Enoent);
  for (FlbEntry* linked : entry->flbs) {
    if (&linked->flb == &flb) return fail(Errno::Eexist);
  }
  TRY(entry->flbs.reserve(entry->flbs.size() + 1));
  FlbEntry* known = find_flb_locked(flb);
  if (known == nullptr) {
    for (FlbEntry& e : flbs_) {
      if (e.flb.compatible() == flb.compatible()) return fail(Errno::Eexist);
    }
    if (flbs_.size() == kMaxFlbs) return fail(Errno::Enospc);
    known = TRY(heap_.make<FlbEntry>(flb))
    .release();
    flbs_.push_back(*known);
  }
  ++known->links;
  (void)entry->flbs.push_back(known);  // reserved
  return {};
}

Result<void> Registry::preserve(HandlerEntry& entry) {
  MutexGuard guard(lock_);
  MutexGuard flb_guard(flb_lock_);
  for (usize i = 0; i < entry.flbs.size(); ++i) {
    FlbEntry& e = *entry.flbs[i];
    if (e.refs == 0) {
      const auto data = e.flb.preserve();
      if (!data) {
        while (i > 0) drop_outgoing_locked(*entry.flbs[--i]);
        return fail(data.error());
      }
      e.data = *data;
    }
    ++e.refs;
  }
  return {};
}

void Registry::drop_outgoing_locked(FlbEntry& entry) {
  PERDURE_ASSERT(entry.refs > 0);
  if (--entry.refs != 0) return;
  entry.flb.unpreserve(entry.data);
  entry.data = 0;
}

void Registry::unpreserve(HandlerEntry& entry) {
  MutexGuard guard(lock_);
  MutexGuard flb_guard(flb_lock_);
  for (usize i = entry.flbs.size(); i > 0; --i) drop_outgoing_locked(*entry.flbs[i - 1]);
}

Result<void> Registry::get_outgoing(Flb& flb) {
  MutexGuard guard(lock_);
  MutexGuard flb_guard(flb_lock_);
  FlbEntry* entry = find_flb_locked(flb);
  if (entry == nullptr || entry->refs == 0) return fail(Errno::Enoent);
  ++entry->refs;
  return {};
}

void Registry::put_outgoing(Flb& flb) {
  MutexGuard guard(lock_);
  MutexGuard flb_guard(flb_lock_);
  FlbEntry* entry = find_flb_locked(flb);
  PERDURE_ASSERT(entry != nullptr);
  drop_outgoing_locked(*entry);
}

Result<void> Registry::serialize(FlbHeader& page) {
  MutexGuard guard(lock_);
  MutexGuard flb_guard(flb_lock_);
  for (FlbEntry& e : flbs_) {
    if (e.refs != 0) e.data = TRY(e.flb.freeze(e.data));
  }
  auto* slots = reinterpret_cast<FlbSer*>(&page + 1);
  u64 count = 0;
  for (const FlbEntry& e : flbs_) {
    if (e.refs == 0) continue;
    FlbSer& slot = slots[count++];
    set_text(slot.compatible, e.flb.compatible());
    slot.data = e.data;
    slot.count = e.refs;
  }
  page.count = count;
  return {};
}

// --- what the former kernel left --------------------------------------------------------------------------------

Result<void> Registry::received(const FlbSer& entry) {
  return received_.push_back(entry);
}

const FlbSer* Registry::received_entry(std::string_view compatible) const {
  for (const FlbSer& e : received_) {
    if (text_of(e.compatible) == compatible) return &e;
  }
  return nullptr;
}

Result<u64> Registry::received_data(std::string_view compatible) const {
  if (received_broken_) return fail(Errno::Eproto);
  const FlbSer* entry = received_entry(compatible);
  if (entry == nullptr) return fail(Errno::Enoent);
  return entry->data;
}

Result<void> Registry::arrived(std::string_view compatible) {
  MutexGuard guard(lock_);
  for (Dependents& d : dependents_) {
    if (text_of(d.compatible) != compatible) continue;
    ++d.files;
    return {};
  }
  Dependents d;
  set_text(d.compatible, compatible);
  d.files = 1;
  return dependents_.push_back(d);
}

// Counted from the files that arrived, not taken from the image: neither a count that includes outstanding references
// nor a forged one can finish a state too early or make a counter run below 0 (kho-luo §2.8, trap).
u64 Registry::dependents_locked(const FlbEntry& entry) {
  u64 files = 0;
  for (const HandlerEntry& h : handlers_) {
    bool linked = false;
    for (const FlbEntry* e : h.flbs) linked = linked || e == &entry;
    if (!linked) continue;
    for (const Dependents& d : dependents_) {
      if (text_of(d.compatible) == h.handler.compatible()) files += d.files;
    }
  }
  return files;
}

void Registry::finish_if_last_locked(FlbEntry& entry) {
  const FlbSer* record = received_entry(entry.flb.compatible());
  if (record == nullptr || entry.state == FlbEntry::State::Finished || entry.gets != 0) return;
  if (dependents_locked(entry) != 0) return;
  // A state that could not be retrieved is not ours to give up.
  if (entry.state != FlbEntry::State::Failed) entry.flb.finish(record->data);
  entry.state = FlbEntry::State::Finished;
}

void Registry::finished(std::string_view compatible) {
  MutexGuard guard(lock_);
  MutexGuard flb_guard(flb_lock_);
  for (Dependents& d : dependents_) {
    if (text_of(d.compatible) != compatible) continue;
    PERDURE_ASSERT(d.files > 0);
    --d.files;
  }
  HandlerEntry* entry = find_locked(compatible);
  if (entry == nullptr) return;
  for (usize i = entry->flbs.size(); i > 0; --i) finish_if_last_locked(*entry->flbs[i - 1]);
}

Result<void> Registry::get_incoming(Flb& flb) {
  MutexGuard guard(lock_);
  MutexGuard flb_guard(flb_lock_);
  if (received_broken_) return fail(Errno::Eproto);
  FlbEntry* entry = find_flb_locked(flb);
  const FlbSer* record = received_entry(flb.compatible());
  if (entry == nullptr || record == nullptr) return fail(Errno::Enoent);
  switch (entry->state) {
    case FlbEntry::State::Finished: return fail(Errno::Enodata);
    case FlbEntry::State::Failed: return fail(entry->error);
    case FlbEntry::State::Unknown:
      if (const auto r = flb.retrieve(record->data); !r) {
        entry->state = FlbEntry::State::Failed;
        entry->error = r.error();
        return r;
      }
      entry->state = FlbEntry::State::Live;
      break;
    case FlbEntry::State::Live: break;
  }
  ++entry->gets;
  return {};
}

void Registry::put_incoming(Flb& flb) {
  MutexGuard guard(lock_);
  MutexGuard flb_guard(flb_lock_);
  FlbEntry* entry = find_flb_locked(flb);
  PERDURE_ASSERT(entry != nullptr && entry->gets > 0);
  if (--entry->gets == 0) finish_if_last_locked(*entry);
}

}  // namespace perdure::luo
