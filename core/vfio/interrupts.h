// A device's message-signalled interrupts, each to an eventfd (uapi §3.5).
#pragma once
#include "core/file/shared_memory.h"
#include "core/pci/function.h"

namespace perdure::vfio {

// Where one vector's messages arrive: signals whatever eventfd is there.
class IrqLink final : public IrqSink {
 public:
  void raise() override;
  void connect(Ref<HostEvent> event);  // null: nobody

 private:
  Mutex lock_{LockRank::Leaf};
  Ref<HostEvent> event_ GUARDED_BY(lock_);
};

// Serialised by the device's lock. References to eventfds that are given up are collected in `dropped`, which has to
// have room for them, and die with it, when no lock is held any more.
class Interrupts {
 public:
  enum class Mode : u8 { None, Msi, Msix };
  // One eventfd of a call; null: the vector is to be removed.
  using Events = std::span<const Result<Ref<EventFd>>>;

  Interrupts(Heap& heap, pci::Function& function) : heap_(heap), function_(function), vectors_(heap) {}
  ~Interrupts();

  Mode mode() const { return mode_; }
  unsigned vectors() const;  // connected
  unsigned size() const { return static_cast<unsigned>(vectors_.size()); }

  // Vectors [start, start + events.size()) to these eventfds. The first call of a mode enables it. An event that is an
  // error fails the call when its turn comes; the vectors of this call up to it are removed then, and everything is
  // disabled if this call had enabled it. Einval: another mode is active, or (MSI) more vectors than were enabled;
  // Enospc, Enomem.
  Result<void> connect(Mode mode, unsigned start, Events events, Vec<Ref<EventFd>>& dropped);
  // Signals the eventfds of the vectors for which `chosen` says so. Einval: not the active mode.
  Result<void> trigger(Mode mode, unsigned start, unsigned count, FunctionRef<bool(unsigned)> chosen);
  void disable(Vec<Ref<EventFd>>& dropped);
  // After a reset of the device: everything that was programmed, again.
  void reprogram();

 private:
  struct Vector {
    Owned<IrqLink> link;  // null: never used
    MsiTarget target;
    bool allocated = false;
    Ref<EventFd> event;
  };
  Result<void> enable(Mode mode, unsigned count);
  Result<void> install(unsigned vector, const Ref<EventFd>& event, Vec<Ref<EventFd>>& dropped);
  void remove(unsigned vector, Vec<Ref<EventFd>>& dropped);
  Result<void> make_vectors(unsigned count);
  Result<void> allocate(Vector& vector);
  void free_targets();

  Heap& heap_;
  pci::Function& function_;
  Mode mode_ = Mode::None;
  Vec<Vector> vectors_;
  unsigned msi_usable_ = 0;  // asked for; vectors_ holds the next power of two
};

}  // namespace perdure::vfio
