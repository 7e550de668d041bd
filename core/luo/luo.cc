#include "core/luo/luo.h"

#include <cstring>

#include "core/base/log.h"
#include "core/base/scope_guard.h"

namespace perdure::luo {

Luo::Luo(Kho& kho)
    : kho_(kho),
      registry_(kho.heap()),
      objects_(kho.heap()),
      outgoing_names_(kho.heap()),
      sessions_(kho, sizeof(SessionSer)) {}

Luo::~Luo() {
  drop_all_incoming();
  {
    MutexGuard guard(lock_);
    PERDURE_ASSERT(outgoing_.empty());
    sessions_.shrink(0);
  }
  if (ser_) {
    kho_.remove_subtree(kSubtree);
    kho_.unpreserve_free(flb_page_, kPageSize);
    kho_.unpreserve_free(ser_, sizeof(LuoSer));
  }
}

// --- boot -------------------------------------------------------------------------------------------------------

Result<void> Luo::load_incoming() {
  PERDURE_ASSERT(!loaded_ && !ser_);
  loaded_ = true;
  const auto unreadable = [&](Errno e, const Line& why) {
    readable_ = false;
    drop_all_incoming();
    log(machine(), LogLevel::Error,
        Line() << "luo: what the former kernel left cannot be read: " << why.view()
               << "; its memory stays reserved, no session can be used");
    return fail(e);
  };
  const auto blob = kho_.retrieve_subtree(kSubtree);
  if (!blob && blob.error() == Errno::Enoent) return {};
  if (!blob) return unreadable(Errno::Eproto, Line() << "blob \"" << kSubtree << "\" is malformed");
  if (blob->size < sizeof(LuoSer) || !kho_.restorable_ram(blob->at, 0))
    return unreadable(Errno::Eproto,
                      Line() << "blob at " << blob->at << " of " << blob->size << " bytes is no preserved page");
  LuoSer record;
  memcpy(&record, machine().virt(blob->at), sizeof record);
  if (memcmp(record.compatible, kCompatible, sizeof kCompatible) != 0) {
    // Printed as far as it is text.
    char version[sizeof record.compatible + 1] = {};
    for (usize i = 0; i < sizeof record.compatible; ++i) {
      const char c = record.compatible[i];
      if (c == '\0') break;
      version[i] = c > ' ' && c < 0x7f ? c : '?';
    }
    return unreadable(Errno::Eproto, Line() << "it is of version \"" << text_of(version) << "\", known is \""
                                            << text_of(kCompatible) << "\"");
  }
  incoming_number_ = record.liveupdate_num;
  if (const auto r = load_sessions(Phys(record.sessions)); !r) {
    return unreadable(r.error() == Errno::Enomem ? Errno::Enomem : Errno::Eproto,
                      Line() << "the list of sessions at " << Hex{record.sessions} << ": " << r.error());
  }
  if (const auto r = load_flbs(Phys(record.flbs)); !r) {
    if (r.error() == Errno::Enomem) return unreadable(Errno::Enomem, Line() << "no memory for shared states");
    log(machine(), LogLevel::Error,
        Line() << "luo: the page of shared states at " << Hex{record.flbs}
               << " of the former kernel is unreadable; whoever needs one of them will not find it");
    registry_.received_nothing();
  }
  // All of it is copied; the record's page is the last thing to go.
  if (kho_.restore(blob->at, 0)) kho_.frames().free(blob->at, 0);
  MutexGuard guard(lock_);
  log(machine(), LogLevel::Info,
      Line() << "luo: update " << incoming_number_ << " brought " << incoming_.size() << " sessions");
  return {};
}

Result<void> Luo::load_sessions(Phys head) {
  if (!head) return {};
  const auto blocks = TRY(kho::BlockReader::open(kho_, head, sizeof(SessionSer), "the list of sessions"));
  const auto load = [&](const std::byte* at) -> Result<void> {
    SessionSer entry;
    memcpy(&entry, at, sizeof entry);
    const std::string_view name = text_of(entry.name);
    if (name.empty()) {
      log(machine(), LogLevel::Error,
          Line() << "luo: a session of the former kernel has no readable name; its memory stays reserved");
      return {};
    }
    auto session = TRY(heap().make_ref<IncomingSession>(*this, entry, generation_of(incoming_number_, name),
                                                        generation_of(incoming_number_ + 1, name)));
    TRY(session->load(entry));
    MutexGuard guard(lock_);
    for (const IncomingSession& other : incoming_) {
      if (other.name() != name) continue;
      log(machine(), LogLevel::Error,
          Line() << "luo: the former kernel left two sessions \"" << name
                 << "\"; the second one is reached when the first one is finished");
      break;
    }
    incoming_.push_back(*session.release());
    return {};
  };
  return blocks.each(load);
}

Result<void> Luo::load_flbs(Phys page) {
  if (!page) return {};
  if (!kho_.restorable_ram(page, 0)) return fail(Errno::Eproto);
  const auto& header = *machine().virt<const FlbHeader>(page);
  const u64 count = header.count;
  if (header.pages != 1 || count > kMaxFlbs) return fail(Errno::Eproto);
  for (u64 i = 0; i < count; ++i) {
    FlbSer entry;
    memcpy(&entry, machine().virt(page + sizeof(FlbHeader) + i * sizeof(FlbSer)), sizeof entry);
    if (text_of(entry.compatible).empty()) return fail(Errno::Eproto);
    TRY(registry_.received(entry));
  }
  if (kho_.restore(page, 0)) kho_.frames().free(page, 0);
  return {};
}

Result<void> Luo::init() {
  PERDURE_ASSERT(!ser_);
  const Phys record = TRY(kho_.alloc_preserved(sizeof(LuoSer)));
  ScopeGuard undo_record([&] { kho_.unpreserve_free(record, sizeof(LuoSer)); });
  const Phys flbs = TRY(kho_.alloc_preserved(kPageSize));
  ScopeGuard undo_flbs([&] { kho_.unpreserve_free(flbs, kPageSize); });
  *machine().virt<FlbHeader>(flbs) = FlbHeader{};
  auto& s = *machine().virt<LuoSer>(record);
  memcpy(s.compatible, kCompatible, sizeof kCompatible);
  s.liveupdate_num = incoming_number_ + 1;
  s.flbs = flbs.value;
  TRY(kho_.add_subtree(kSubtree, {record, sizeof(LuoSer)}));
  undo_flbs.dismiss();
  undo_record.dismiss();
  flb_page_ = flbs;
  ser_ = record;
  return {};
}

Result<u64> Luo::incoming_flb_data(std::string_view compatible) const {
  if (!readable_) return fail(Errno::Eproto);
  return registry_.received_data(compatible);
}

// --- sessions ---------------------------------------------------------------------------------------------------

Result<Ref<OutgoingSession>> Luo::create_session(std::string_view name) {
  const auto pass = TRY(Gate::Pass::enter(gate_));
  if (!is_name(name, kNameSize)) return fail(Errno::Einval);
  const u64 generation = generation_of(incoming_number_ + 1, name);
  auto session = TRY(heap().make_ref<OutgoingSession>(*this, name, generation));
  MutexGuard guard(lock_);
  // Before the list of blocks grows, so that a refusal leaves no empty block behind (kho-luo §6 row 2).
  const auto same = [&](const OutgoingSession& s) { return s.name() == name; };
  if (outgoing_names_.find(hash_of(name), same) != nullptr) return fail(Errno::Eexist);
  for (const OutgoingSession& other : outgoing_) {
    // Two names with one generation: records of one could pass for the other's.
    if (other.generation() == generation) return fail(Errno::Eexist);
  }
  TRY(sessions_.grow(outgoing_count_ + 1));
  ++outgoing_count_;
  outgoing_names_.insert(*session, hash_of(name));
  outgoing_.push_back(*Ref<OutgoingSession>(session).release());  // the list's own reference
  return session;
}

void Luo::remove(OutgoingSession& session) {
  Ref<OutgoingSession> last;  // ends after the lock
  MutexGuard guard(lock_);
  outgoing_.remove(session);
  outgoing_names_.remove(session);
  --outgoing_count_;
  sessions_.shrink(outgoing_count_);
  last = Ref<OutgoingSession>::adopt(&session);
}

Result<Ref<IncomingSession>> Luo::retrieve_session(std::string_view name) {
  const auto pass = TRY(Gate::Pass::enter(gate_));
  MutexGuard guard(lock_);
  // The oldest one of this name.
  for (IncomingSession& session : incoming_) {
    if (session.name() != name) continue;
    TRY(session.claim());
    return Ref<IncomingSession>(&session);
  }
  return fail(Errno::Enoent);
}

void Luo::remove(IncomingSession& session) {
  Ref<IncomingSession> last;  // ends after the lock
  MutexGuard guard(lock_);
  incoming_.remove(session);
  last = Ref<IncomingSession>::adopt(&session);
}

void Luo::drop_all_incoming() {
  for (;;) {
    Ref<IncomingSession> last;
    MutexGuard guard(lock_);
    if (incoming_.empty()) return;
    last = Ref<IncomingSession>::adopt(incoming_.pop_front());
  }
}

bool Luo::orphan(OutgoingSession& session) {
  MutexGuard guard(lock_);
  if (!gate_.frozen()) return false;
  session.orphaned_ = true;
  return true;
}

bool Luo::orphan(IncomingSession& session) {
  MutexGuard guard(lock_);
  if (!gate_.frozen()) return false;
  session.orphaned_ = true;
  return true;
}

void Luo::each_incoming(FunctionRef<void(const IncomingSession&)> visit) const {
  MutexGuard guard(lock_);
  for (const IncomingSession& session : incoming_) visit(session);
}

void Luo::each_outgoing(FunctionRef<void(const OutgoingSession&)> visit) const {
  MutexGuard guard(lock_);
  for (const OutgoingSession& session : outgoing_) visit(session);
}

}  // namespace perdure::luo
