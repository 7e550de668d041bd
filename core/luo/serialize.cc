// The reboot path of LUO (kho-luo §2.6) and its undoing.
#include <cstring>

#include "core/base/log.h"
#include "core/luo/luo.h"

namespace perdure::luo {

Result<void> Luo::serialize() {
  if (!ser_) return fail(Errno::Einval);
  // Zombies that could be finished after all; their last references go when no lock is held.
  Finished finished;
  List<IncomingSession, &IncomingSession::node> settled;
  TRY(gate_.shut());
  const auto r = serialize_shut(finished, settled);
  while (IncomingSession* session = settled.pop_front()) session->put_ref();
  if (r) {
    gate_.freeze();
  } else {
    gate_.open();
  }
  return r;
}

Result<void> Luo::serialize_shut(Finished& finished, List<IncomingSession, &IncomingSession::node>& settled) {
  MutexGuard guard(lock_);
  ser().sessions = 0;
  TRY(check_incoming_locked(finished, settled));
  const auto r = write_locked();
  if (!r) undo_locked();
  return r;
}

// What may stand in the way, before anything is touched.
Result<void> Luo::check_incoming_locked(Finished& finished, List<IncomingSession, &IncomingSession::node>& settled) {
  if (!readable_) {
    log(machine(), LogLevel::Warn, Line() << "luo: what the former kernel left could not be read and is not handed on");
  }
  const auto refuse = [&](const IncomingSession& session, std::string_view why, Errno e) {
    log(machine(), LogLevel::Error, Line() << "luo: no live update now: session \"" << session.name() << "\" " << why);
    return fail(e);
  };
  for (IncomingSession *next = nullptr, *session = incoming_.empty() ? nullptr : &incoming_.front(); session != nullptr;
       session = next) {
    next = incoming_.next(*session);
    const auto state = session->state();
    if (state == IncomingSession::State::Finished) continue;
    if (state == IncomingSession::State::Retrieved)
      return refuse(*session, "is in the middle of a transfer: retrieved and not finished", Errno::Ebusy);
    if (state == IncomingSession::State::Zombie) {
      if (!session->settle(finished))
        return refuse(*session, "was closed, but a file of it still cannot be finished", Errno::Ebusy);
      incoming_.remove(*session);
      settled.push_back(*session);
      continue;
    }
    if (session->broken())
      return refuse(*session, "arrived damaged and cannot be handed on; retrieve it and finish it", Errno::Ebusy);
    const auto same = [&](const OutgoingSession& s) { return s.name() == session->name(); };
    if (outgoing_names_.find(hash_of(session->name()), same) != nullptr)
      return refuse(*session, "waits to be retrieved, and a new one has its name; close one of them", Errno::Eexist);
    for (const OutgoingSession& other : outgoing_) {
      if (other.generation() == session->next_generation())
        return refuse(*session, "waits to be retrieved, and a new one has its generation", Errno::Eexist);
    }
  }
  return {};
}

Result<void> Luo::write_locked() {
  TRY(sessions_.grow(outgoing_count_ + incoming_.size()));
  for (IncomingSession& session : incoming_) {
    if (session.state() != IncomingSession::State::Listed) continue;
    TRY(session.forward(*reinterpret_cast<SessionSer*>(sessions_.append())));
  }
  for (OutgoingSession& session : outgoing_) TRY(session.freeze(*reinterpret_cast<SessionSer*>(sessions_.append())));
  auto& flbs = *machine().virt<FlbHeader>(flb_page_);
  TRY(registry_.serialize(flbs));
  // A block without an entry must not cross.
  sessions_.shrink(sessions_.written());
  ser().sessions = sessions_.head().value;
  return {};
}

// Sessions newest first; within one, the order is its own business.
void Luo::undo_locked() {
  ser().sessions = 0;
  memset(machine().virt(flb_page_), 0, kPageSize);
  *machine().virt<FlbHeader>(flb_page_) = FlbHeader{};
  for (OutgoingSession* s = outgoing_.empty() ? nullptr : &outgoing_.back(); s != nullptr; s = outgoing_.prev(*s)) {
    if (s->frozen()) s->unfreeze();
  }
  for (IncomingSession* s = incoming_.empty() ? nullptr : &incoming_.back(); s != nullptr; s = incoming_.prev(*s)) {
    if (s->forwarded()) s->unforward();
  }
  sessions_.clear();
  sessions_.shrink(outgoing_count_);
}

void Luo::unfreeze_all() {
  PERDURE_ASSERT(gate_.frozen());
  {
    MutexGuard guard(lock_);
    undo_locked();
  }
  gate_.open();
  // Whose file went away in between. One at a time: closing takes the lock itself.
  for (;;) {
    Ref<OutgoingSession> outgoing;
    Ref<IncomingSession> incoming;
    {
      MutexGuard guard(lock_);
      for (OutgoingSession& s : outgoing_) {
        if (std::exchange(s.orphaned_, false)) {
          outgoing = Ref<OutgoingSession>(&s);
          break;
        }
      }
      for (IncomingSession& s : incoming_) {
        if (outgoing) break;
        if (std::exchange(s.orphaned_, false)) {
          incoming = Ref<IncomingSession>(&s);
          break;
        }
      }
    }
    if (outgoing) {
      outgoing->close();
    } else if (incoming) {
      incoming->close();
    } else {
      return;
    }
  }
}

}  // namespace perdure::luo
