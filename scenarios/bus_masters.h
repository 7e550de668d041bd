// Bus masters that others built, and models of such: an OHCI controller, QEMU's edu, an e1000e, an NVMe controller,
// Intel's copy engine, those of them that the machine has. A program sets them to work, preserves them, dies with its
// kernel, comes back in the next one, takes them over at work, looks at what each of them can say about a request that
// failed, and can do it again.
#pragma once
#include <optional>

#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "core/base/function_ref.h"
#include "scenarios/context.h"
#include "scenarios/drivers/e1000e.h"
#include "scenarios/drivers/edu.h"
#include "scenarios/drivers/ioat.h"
#include "scenarios/drivers/nvme.h"
#include "scenarios/drivers/ohci.h"
#include "scenarios/take.h"

namespace perdure::scenarios {

enum class Master : u8 { Ohci, Edu, E1000e, Nvme, Ioat };

struct BusMastersPlan {
  static constexpr u32 kMasters = 5;
  // By Master: to be driven if the machine has it.
  bool wanted[kMasters] = {true, true, true, true, true};
  Take take = Take::Replace;
  u32 descriptors = 8192;   // of the e1000e's ring, a multiple of 8
  u32 reads = 63;           // in the NVMe controller's queue, up to 63
  bool interrupts = false;  // of the edu's transfers; for machines that remap them
  // A device that its kernel refuses to hand out after a jump is watched: its memory must not change for so long.
  // Otherwise it is a failure of the scenario.
  bool may_lose = false;
  u64 silence_ns = 250'000'000;  // longer than a transfer of the edu is on its way
};

class BusMasters {
 public:
  static constexpr u32 kMasters = BusMastersPlan::kMasters;

  BusMasters(Context context, const BusMastersPlan& plan) : context_(context), plan_(plan) {}

  // In the first kernel (hop 0): memory, mappings, devices at work; Enodev: there is none of them. In every later one:
  // retrieve, take over, replace, finish.
  Result<void> begin(u32 hop);
  // What every device has done since the last look, without waiting for more. Eio: evidence() tells which and why.
  Result<void> verify();
  // The same, with patience: every device must do something that began after the call. Then a mapping and an attachment
  // are changed, and data must go where the new ones say.
  Result<void> settle();
  // Everything into a session; the next thing may be the jump.
  Result<void> preserve();
  // Takes the session back: as if preserve() had not been called.
  void unpreserve();
  // Of the last verify(), settle() or preserve(); by Master.
  const Evidence& evidence(u32 master) const { return evidence_[master]; }

  // For where the program does not die with its kernel: its descriptors did, there is nothing to close.
  void forget();

 private:
  // A stretch of guest memory and where devices of its domain see it.
  struct Piece {
    u32 domain;
    u64 offset;
    u64 length;
    u64 iova;
  };
  enum PieceName : u8 { kNicBuffers, kNicRing, kOhciPage, kNvmePages, kIoatPages, kEduPages, kPieces };
  static constexpr u32 kDomains = 3;
  static constexpr u64 kMemoryToken = 0x100, kStateToken = 0x1F0, kIommufdToken = 0x200, kDeviceToken = 0x300,
                       kHwptToken = 0x400;
  struct State {
    u64 magic;
    u64 hop;
    u64 leaf_changes;
    u64 table_changes;
    u32 at_work;  // bits by Master
    u32 lost;     // the same
    u32 descriptors;
    u32 unused;
    u32 vfio[kMasters];  // N of vfioN
    struct Lost {
      u64 since_ns;
      u64 sum;  // of the memory that the device wrote to
    } lost_of[kMasters];
    Ohci::State ohci;
    Edu::State edu;
    E1000e::State nic;
    Nvme::State disk;
    Ioat::State copier;
  };
  static_assert(sizeof(State) <= kPageSize);

  Result<void> set_up();
  Result<void> come_back(u32 hop);
  Result<void> find_devices();
  Result<void> open_memory();
  void make_drivers();
  Piece piece(u32 name) const;
  // Pages behind the pieces, for changes of mappings.
  static constexpr u64 kSparePages = 4;
  u64 spare_offset(u64 page) const;
  u64 memory_bytes() const;
  DmaArea area(u32 name) const;
  Result<void> map_domain(u32 domain);
  Result<void> take_over(u32 domain);
  Result<void> declare(u32 master, const Piece& piece);
  Result<void> mark(u32 domain);
  bool at_work(u32 master) const { return drivers_[master] != nullptr; }
  // Whose devices there are; none: kMasters.
  u32 first_of(u32 domain) const;
  Result<void> retrieve_device(const client::Session& session, u32 master);
  Result<void> look(bool patient);
  Result<void> each_at_work(FunctionRef<Result<void>(BusMaster&)> ask);
  bool lost(u32 master) const { return (state_->lost >> master & 1) != 0; }
  u64 sum_written(u32 master) const;
  Result<void> watch_lost(u32 master);
  Result<void> change_leaf();
  Result<void> change_table();
  Result<void> map_spare(u32 ioas, u64 page, u64 iova);
  Result<void> expect_spare(u64 word, u64 iova, u64 page, u64 other, std::string_view what);
  Result<void> wrong(u32 master, std::string_view what);
  void report(u32 master);

  Context context_;
  BusMastersPlan plan_;
  u32 hop_ = 0;
  client::Memfd memory_;
  client::Memfd state_file_;
  client::Mapping memory_map_;
  client::Mapping state_map_;
  State* state_ = nullptr;
  client::Iommufd iommufd_;
  client::VfioDevice device_[kMasters];
  u32 device_id_[kMasters] = {};
  u32 ioas_[kDomains] = {};
  u32 hwpt_[kDomains] = {};
  client::Session session_;
  std::optional<Ohci> ohci_;
  std::optional<Edu> edu_;
  std::optional<E1000e> nic_;
  std::optional<Nvme> disk_;
  std::optional<Ioat> copier_;
  BusMaster* drivers_[kMasters] = {};
  Evidence evidence_[kMasters];
};

}  // namespace perdure::scenarios
