// The live update orchestrator: sessions of preserved files, outgoing and incoming, in the luo-v5 format
// (kho-luo §2). /dev/liveupdate is luo/device.h.
//
// Locks: the gate (L1), then the list of sessions (L2), then one session (L3), then the registry's. Handlers' and FLBs'
// callbacks run under them, so everything they take ranks below.
#pragma once
#include <string_view>

#include "core/luo/file_handler.h"
#include "core/luo/gate.h"
#include "core/luo/incoming_session.h"
#include "core/luo/outgoing_session.h"
#include "core/luo/session.h"
#include "core/luo/status.h"

namespace perdure::luo {

class Luo {
 public:
  explicit Luo(Kho& kho);
  // Every session file must have been closed. What was not retrieved stays reserved.
  ~Luo();
  // For an orderly end: what incoming sessions still hold, as one does that was closed and could not be finished, ends
  // while the subsystems behind the files are there.
  void drop_all_incoming();
  Luo(const Luo&) = delete;
  Luo& operator=(const Luo&) = delete;

  // --- boot -------------------------------------------------------------------------------------------------------
  // Reads what the former kernel left; nothing is there: fine. What is wrong with one session or file stays its own
  // problem. Eproto: the whole is of an unknown version or unreadable, Enomem: could not be read; then the memory
  // stays reserved, the device opens with Eio, and the log says why. Once, before init().
  Result<void> load_incoming();
  // The outgoing side. On failure nothing is left.
  Result<void> init();
  // What an FLB of this name left, whether or not somebody registered for it. Enoent; Eproto: unreadable.
  Result<u64> incoming_flb_data(std::string_view compatible) const;
  // False: load_incoming() failed.
  bool readable() const { return readable_; }

  // --- registration, any time
  // -----------------------------------------------------------------------------------------
  Result<void> register_handler(FileHandler& handler) { return registry_.add(handler); }
  Result<void> unregister_handler(FileHandler& handler) { return registry_.remove(handler); }
  Result<void> link_flb(FileHandler& handler, Flb& flb) { return registry_.link(handler, flb); }
  // See Registry.
  Result<void> get_outgoing(Flb& flb) { return registry_.get_outgoing(flb); }
  void put_outgoing(Flb& flb) { registry_.put_outgoing(flb); }
  Result<void> get_incoming(Flb& flb) { return registry_.get_incoming(flb); }
  void put_incoming(Flb& flb) { registry_.put_incoming(flb); }

  // --- sessions -----------------------------------------------------------------------------------------------------
  // Einval: name of no or too many bytes, or with a NUL; Eexist; Enospc, Enomem; Ekilled. The caller closes it in the
  // end.
  Result<Ref<OutgoingSession>> create_session(std::string_view name);
  // Enoent; Einval: retrieved already; Ekilled. The caller closes it in the end.
  Result<Ref<IncomingSession>> retrieve_session(std::string_view name);
  // For reports: sessions of the former kernel first, then this kernel's, each oldest first, with their files.
  void describe(SessionVisitor& visitor) const;
  // The same without files. Must not enter LUO.
  void each_incoming(FunctionRef<void(const IncomingSession& session)> visit) const;
  void each_outgoing(FunctionRef<void(const OutgoingSession& session)> visit) const;

  // --- the jump -----------------------------------------------------------------------------------------------------
  // Hands on what was never retrieved, freezes everything and writes it down; then every call answers Ekilled. On
  // failure all is as before: Ebusy with the session's name logged when one is in the middle of a transfer or cannot be
  // handed on; Eexist when a new session has the name of one that waits; else a handler's error.
  Result<void> serialize();
  // The jump failed: undoes serialize(), and closes the sessions that were closed meanwhile.
  void unfreeze_all();

  // Number of this update: 1 for the first after a cold boot.
  u64 incoming_number() const { return incoming_number_; }
  Heap& heap() const { return kho_.heap(); }
  Machine& machine() const { return kho_.machine(); }
  Kho& kho() const { return kho_; }

  // --- for sessions
  // ---------------------------------------------------------------------------------------------------
  Gate& gate() { return gate_; }
  Registry& registry() { return registry_; }
  ObjectIndex& objects() { return objects_; }
  void remove(OutgoingSession& session);
  void remove(IncomingSession& session);
  // Closed while frozen: unfreeze_all() will close it. False: not frozen any more.
  bool orphan(OutgoingSession& session);
  bool orphan(IncomingSession& session);

 private:
  Result<void> load_sessions(Phys head);
  Result<void> load_flbs(Phys page);
  Result<void> serialize_shut(Finished& finished, List<IncomingSession, &IncomingSession::node>& settled);
  Result<void> check_incoming_locked(Finished& finished, List<IncomingSession, &IncomingSession::node>& settled)
      REQUIRES(lock_);
  Result<void> write_locked() REQUIRES(lock_);
  void undo_locked() REQUIRES(lock_);
  LuoSer& ser() const { return *machine().virt<LuoSer>(ser_); }

  Kho& kho_;
  Gate gate_;
  Registry registry_;
  ObjectIndex objects_;
  bool loaded_ = false;
  bool readable_ = true;
  u64 incoming_number_ = 0;
  Phys ser_;
  Phys flb_page_;
  mutable Mutex lock_{LockRank::LuoSessions};
  List<OutgoingSession, &OutgoingSession::node> outgoing_ GUARDED_BY(lock_);
  List<IncomingSession, &IncomingSession::node> incoming_ GUARDED_BY(lock_);
  HashIndex<OutgoingSession, &OutgoingSession::by_name> outgoing_names_ GUARDED_BY(lock_);
  u64 outgoing_count_ GUARDED_BY(lock_) = 0;
  kho::BlockSet sessions_ GUARDED_BY(lock_);
};

}  // namespace perdure::luo
