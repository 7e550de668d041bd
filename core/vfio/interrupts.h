// A device's message-signalled interrupts, each to an eventfd (uapi §3.5).
#pragma once
#include "core/file/shared_memory.h"
#include "core/iommu/device.h"
#include "core/iommu/interrupts.h"
#include "core/pci/function.h"

namespace perdure::vfio {

// How a former kernel's device was set up to interrupt, and goes on: entries of its unit's remapping table, in a row.
struct CarriedInterrupts {
  u32 mode = 0;        // abi::VfioPciIrqMode
  u32 usable = 0;      // MSI: vectors that were asked for
  u32 irte_first = 0;  // of vector 0
  u32 irte_count = 0;  // 0: not remapped
};

// Behind a unit that remaps interrupts a device is given entries of the unit's table, in a row, one for each of its
// vectors, and its messages name them; which of this machine's vectors an entry leads to does not concern it.
//
// Serialised by the device's lock. References to eventfds that are given up are collected in `dropped`, which has to
// have room for them, and die with it, when no lock is held any more.
class Interrupts {
 public:
  enum class Mode : u8 { None, Msi, Msix };
  // One eventfd of a call; null: the vector is to be removed.
  using Events = std::span<const Result<Ref<EventFd>>>;

  Interrupts(Heap& heap, pci::Function& function, IommuDevice& device)
      : heap_(heap), function_(function), device_(device), vectors_(heap) {}
  ~Interrupts();

  Mode mode() const { return mode_; }
  unsigned vectors() const;  // that messages can come from
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

  // --- live update ----------------------------------------------------------------------------------------------
  // Nothing is on, or all of it goes through the remapping table and can outlive this kernel.
  bool can_be_carried() const { return mode_ == Mode::None || irte_count_ != 0; }
  CarriedInterrupts state() const;
  // A device that works for its former kernel's user: nothing is written to it. Each vector keeps what comes, once,
  // until it is connected. Enoent: its entries are not there any more, so that its messages are blocked; Enomem.
  Result<void> take_over(const CarriedInterrupts& carried);
  // Undoes take_over(), with nothing connected since.
  void hand_back();

 private:
  struct Vector {
    Owned<IrqLink> link;  // null: never used
    MsiTarget target;
    bool allocated = false;   // the target is ours
    bool programmed = false;  // MSI-X: the device's table says so
    Ref<EventFd> event;
  };
  Result<void> enable(Mode mode, unsigned count);
  Result<void> install(unsigned vector, const Ref<EventFd>& event, Vec<Ref<EventFd>>& dropped);
  void remove(unsigned vector, Vec<Ref<EventFd>>& dropped);
  Result<void> make_vectors(unsigned count);
  InterruptRemapper* remapper() const { return device_.unit().interrupt_remapper(); }
  // Entries of the remapping table, when there is one.
  Result<void> reserve_entries(unsigned count);
  Result<void> allocate(unsigned vector);
  void release(unsigned vector);
  void free_targets();
  // What the device has to send.
  MsiTarget message(unsigned vector) const;

  Heap& heap_;
  pci::Function& function_;
  IommuDevice& device_;
  Mode mode_ = Mode::None;
  Vec<Vector> vectors_;
  unsigned msi_usable_ = 0;  // asked for; vectors_ holds the next power of two
  u32 irte_first_ = 0;
  u32 irte_count_ = 0;
  bool taken_over_ = false;
};

}  // namespace perdure::vfio
