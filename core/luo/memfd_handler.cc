#include "core/luo/memfd_handler.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/abi/boot_info.h"
#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/luo/memfd_record.h"

namespace perdure::luo {

// What preserve() made, until unpreserve() or the jump.
struct MemfdHandler::Preserved {
  Phys record;
  u64 size = 0;
  std::optional<kho::PreservedArray> array;
};

namespace {

SharedMemory& memory_of(const FileState& state) {
  return *static_cast<SharedMemory*>(state.file);
}

// The folios that [0, bytes) of the file is split into: as large as alignment in memory and in the file allows, but not
// beyond `max_order`. The same every time while the file is preserved, since its banks do not change then.
Result<void> each_block_of(const SharedMemory& memory, u64 bytes, unsigned max_order,
                           FunctionRef<Result<void>(Phys base, unsigned order, u64 index)> visit) {
  const u64 end = align_up(bytes, kPageSize);
  const auto split = [&](const Bank& bank) -> Result<void> {
    const u64 stop = std::min(bank.offset + bank.length, end);
    for (u64 at = bank.offset; at < stop;) {
      const Phys base = bank.base + (at - bank.offset);
      const u64 index = at >> kPageShift;
      const unsigned in_file = index == 0 ? max_order : static_cast<unsigned>(std::countr_zero(index));
      const unsigned order = kho::largest_order(base, stop - at, std::min(in_file, max_order));
      TRY(visit(base, order, index));
      at += kPageSize << order;
    }
    return {};
  };
  return memory.each_bank(split);
}

// Visits the banks of this kernel's memory map.
Result<void> each_map_bank(Machine& machine, FunctionRef<Result<void>(const Bank&)> visit) {
  const abi::BootInfo& boot = machine.boot();
  const Phys map(boot.memory_map);
  if (!machine.in_window(map, boot.memory_map_count * sizeof(abi::MemoryMapEntry))) return {};
  for (u32 i = 0; i < boot.memory_map_count; ++i) {
    abi::MemoryMapEntry e;
    memcpy(&e, machine.virt(map + i * sizeof e), sizeof e);
    if (e.type != static_cast<u32>(abi::MemoryType::Bank)) continue;
    TRY(visit(Bank{Phys(e.base), e.length, e.host_offset, e.host_id}));
  }
  return {};
}

// Where the contents of a record lie.
struct Place {
  bool banks = false;  // else all in RAM, or nowhere
  u64 host_id = 0;
};

// All folios must be of one kind. Those in banks must be where the host memory has them, and without a gap: what a gap
// shows would be the host memory's, not the former kernel's.
Result<Place> place_of(Machine& machine, const MemfdRecord& record, std::string_view& problem) {
  Place place;
  bool any_ram = false, any_bank = false;
  u64 next = 0;
  Bank at;  // of the folio before: most often of this one, too
  const auto look = [&](const MemfdRecord::Folio& folio) -> Result<void> {
    (folio.in_ram ? any_ram : any_bank) = true;
    if (folio.in_ram) return {};
    const auto holds = [&](const Bank& bank) {
      return folio.base >= bank.base && folio.base - bank.base < bank.length;
    };
    if (!holds(at)) {
      at = Bank{};
      TRY(each_map_bank(machine, [&](const Bank& bank) -> Result<void> {
        if (holds(bank)) at = bank;
        return {};
      }));
    }
    const u64 into = folio.base - at.base;
    const bool fits = holds(at) && folio.bytes() <= at.length - into && at.offset + into == folio.index << kPageShift &&
                      (next == 0 || at.host_id == place.host_id);
    place.host_id = at.host_id;
    if (!fits || folio.index != next) {
      problem = "a folio is not where the memory map has the memory";
      return fail(Errno::Einval);
    }
    next = folio.index + folio.pages();
    return {};
  };
  TRY(record.each_folio(look));
  if (any_ram && any_bank) {
    problem = "its folios are partly in RAM and partly in a bank";
    return fail(Errno::Einval);
  }
  if (any_bank && next < record.pages()) {
    problem = "its folios do not reach the end of the file";
    return fail(Errno::Einval);
  }
  place.banks = any_bank;
  return place;
}

}  // namespace

std::string_view MemfdHandler::compatible() const {
  return kMemfdCompatible;
}

bool MemfdHandler::can_preserve(File& file) const {
  const auto* memory = file_cast<SharedMemory>(&file);
  return memory != nullptr && !memory->remote() && memory->host().nameless();
}

u64 MemfdHandler::id(File& file) const {
  return static_cast<SharedMemory&>(file).id();
}

// --- old kernel -------------------------------------------------------------------------------------------------

Result<void> MemfdHandler::preserve(FileState& state) {
  SharedMemory& memory = memory_of(state);
  const u32 seals = memory.seals();
  if ((seals & ~seal::kKnown) != 0) return fail(Errno::Eopnotsupp);
  const u64 size = memory.set_preserved(true);
  ScopeGuard thaw([&] { memory.set_preserved(false); });
  const u64 pages = align_up(size, kPageSize) >> kPageShift;
  if (size > kMemfdMaxPages << kPageShift) return fail(Errno::Efbig);

  auto preserved = TRY(kho_.heap().make<Preserved>());
  preserved->size = size;
  preserved->record = TRY(kho_.alloc_preserved(sizeof(MemfdSer)));
  ScopeGuard free_record([&] { kho_.unpreserve_free(preserved->record, sizeof(MemfdSer)); });
  // Gives every part of the file an address, if it has none yet.
  TRY(memory.extents(0, pages << kPageShift, [](const FileExtent&) -> Result<void> { return {}; }));
  u64 count = 0;
  TRY(each_block_of(memory, size, kho_.max_order(), [&](Phys, unsigned, u64) -> Result<void> {
    ++count;
    return {};
  }));
  if (count != 0) preserved->array.emplace(TRY(kho::PreservedArray::create(kho_, count * sizeof(FolioSer))));

  u64 done = 0;
  const auto add = [&](Phys base, unsigned order, u64 index) -> Result<void> {
    TRY(kho_.preserve(base, order));
    const FolioSer entry{FolioSer::Frame::make(base.page()) | FolioSer::Dirty::value() | FolioSer::Uptodate::value(),
                         index};
    memcpy(preserved->array->at(done++ * sizeof entry), &entry, sizeof entry);
    return {};
  };
  if (const auto r = each_block_of(memory, size, kho_.max_order(), add); !r) {
    u64 undone = 0;
    (void)each_block_of(memory, size, kho_.max_order(), [&](Phys base, unsigned order, u64) -> Result<void> {
      if (undone++ == done) return fail(Errno::Einval);  // as far as it got
      kho_.unpreserve(base, order);
      return {};
    });
    return r;
  }

  MemfdSer& record = *kho_.machine().virt<MemfdSer>(preserved->record);
  record = {};
  record.position = memory.host().position();
  record.size = size;
  record.seals = seals;
  record.folio_count = count;
  if (count != 0) record.folios = preserved->array->descriptor();
  free_record.dismiss();
  thaw.dismiss();
  state.data = preserved->record.value;
  state.private_data = preserved.release();
  return {};
}

void MemfdHandler::unpreserve(FileState& state) {
  SharedMemory& memory = memory_of(state);
  Owned<Preserved> preserved(kho_.heap(), static_cast<Preserved*>(state.private_data));
  (void)each_block_of(memory, preserved->size, kho_.max_order(), [&](Phys base, unsigned order, u64) -> Result<void> {
    kho_.unpreserve(base, order);
    return {};
  });
  kho_.unpreserve_free(preserved->record, sizeof(MemfdSer));
  memory.set_preserved(false);
  state.private_data = nullptr;
}

Result<void> MemfdHandler::freeze(FileState& state) {
  const SharedMemory& memory = memory_of(state);
  MemfdSer& record = *kho_.machine().virt<MemfdSer>(Phys(state.data));
  if (memory.size() != record.size) {
    log(kho_.machine(), LogLevel::Error,
        Line() << "memfd " << memory.id() << " (token " << Hex{state.token} << ") was preserved with " << record.size
               << " bytes and has " << memory.size() << " now; give it back its size or close the session");
    return fail(Errno::Ebusy);
  }
  const u32 seals = memory.seals();
  if ((seals & ~seal::kKnown) != 0) return fail(Errno::Eopnotsupp);
  record.position = memory.host().position();
  record.seals = seals;
  return {};
}

// --- new kernel -------------------------------------------------------------------------------------------------

Result<Ref<File>> MemfdHandler::retrieve(FileState& state) {
  Machine& machine = kho_.machine();
  std::string_view problem;
  const auto bad = [&](Errno e) {
    log(machine, LogLevel::Error,
        Line() << "memfd record at " << Hex{state.data} << " of session \"" << state.session.name() << "\" (token "
               << Hex{state.token} << "): " << problem << "; the memory stays reserved");
    return fail(e == Errno::Einval ? Errno::Eproto : e);
  };
  auto opened = MemfdRecord::open(kho_, Phys(state.data), problem);
  if (!opened) return bad(opened.error());
  MemfdRecord& record = *opened;
  const MemfdSer header = record.header();
  const auto place = place_of(machine, record, problem);
  if (!place) return bad(place.error());

  Ref<HostMemory> host;
  if (place->banks) {
    problem = "the host memory behind its banks is not there";
    const auto found = machine.bank_memory(place->host_id);
    if (!found) return bad(found.error());
    host = *found;
    problem = "the host memory has another size and cannot be given the recorded one";
    if (host->size() != header.size) {
      if (const auto r = host->resize(header.size); !r) return bad(r.error());
    }
  } else {
    problem = "no host memory for its contents";
    const auto made = copy_to_host(record);
    if (!made) return bad(made.error());
    host = *made;
  }
  problem = "its seals cannot be applied";
  if (const u32 missing = header.seals & ~host->seals(); missing != 0) {
    if (const auto r = host->add_seals(missing); !r) return bad(r.error());
  }
  host->set_position(header.position);

  problem = "no memory for the file";
  auto file = files_.memory(host);
  if (!file) return bad(file.error());
  if (place->banks) {
    problem = "its banks cannot be taken over";
    const auto adopt = [&](const Bank& bank) -> Result<void> {
      return bank.host_id == place->host_id ? (*file)->adopt_bank(bank) : Result<void>();
    };
    if (const auto r = each_map_bank(machine, adopt); !r) {
      // A device may be writing to them: they stay attached for good.
      (*file)->pin();
      state.discard = std::move(*file);
      return bad(r.error());
    }
  }
  problem = "it lists a block twice";
  if (const auto r = record.take(); !r) {
    (*file)->pin();
    state.discard = std::move(*file);
    return bad(r.error());
  }
  record.free();
  return Ref<File>(std::move(*file));
}

Result<Ref<HostMemory>> MemfdHandler::copy_to_host(const MemfdRecord& record) {
  Machine& machine = kho_.machine();
  const u64 size = record.header().size;
  Ref<HostMemory> host = TRY(machine.host_memory_create(size));
  if (record.header().folio_count == 0) return host;
  // Attached for the time of copying only: seals may forbid a writable mapping afterwards.
  const Bank bank = TRY(machine.bank_attach(*host, 0, align_up(size, kPageSize)));
  (void)record.each_folio([&](const MemfdRecord::Folio& folio) -> Result<void> {
    const u64 offset = folio.index << kPageShift;
    memcpy(machine.virt(bank.base + offset), machine.virt(folio.base), std::min(folio.bytes(), bank.length - offset));
    return {};
  });
  machine.bank_detach(bank);
  return host;
}

void MemfdHandler::finish(FileState& state) {
  // Retrieved: it belongs to the program. Failed: what was not taken over stays reserved.
  if (state.retrieve_status != 0) return;
  Machine& machine = kho_.machine();
  std::string_view problem;
  auto record = MemfdRecord::open(kho_, Phys(state.data), problem);
  if (record) {
    const auto place = place_of(machine, *record, problem);
    problem = place ? "it lists a block twice" : problem;
    if (place && record->take()) {
      record->free();
      if (!place->banks) return;
      (void)each_map_bank(machine, [&](const Bank& bank) -> Result<void> {
        if (bank.host_id == place->host_id) machine.bank_detach(bank);
        return {};
      });
      return;
    }
  }
  log(machine, LogLevel::Error,
      Line() << "memfd record at " << Hex{state.data} << " of session \"" << state.session.name() << "\" (token "
             << Hex{state.token} << ") is given up unread: " << problem << "; its memory stays reserved");
}

// --- from the former kernel to the next one -----------------------------------------------------------------------

// Everything stays where it is, so all there is to do is to preserve the same blocks once more.
Result<u64> MemfdHandler::forward(FileState& state) {
  std::string_view problem;
  auto opened = MemfdRecord::open(kho_, Phys(state.data), problem);
  if (!opened) {
    log(kho_.machine(), LogLevel::Error,
        Line() << "memfd record at " << Hex{state.data} << " cannot be handed on: " << problem);
    return fail(opened.error());
  }
  auto record = TRY(kho_.heap().make<MemfdRecord>(std::move(*opened)));
  u64 done = 0;
  if (const auto r = record->each_block([&](Phys base, unsigned order) -> Result<void> {
        TRY(kho_.preserve(base, order));
        ++done;
        return {};
      });
      !r) {
    u64 undone = 0;
    (void)record->each_block([&](Phys base, unsigned order) -> Result<void> {
      if (undone++ == done) return fail(Errno::Einval);
      kho_.unpreserve(base, order);
      return {};
    });
    return fail(r.error());
  }
  // Undoing must not need memory.
  state.private_data = record.release();
  return state.data;
}

void MemfdHandler::unforward(FileState& state, u64) {
  Owned<MemfdRecord> record(kho_.heap(), static_cast<MemfdRecord*>(state.private_data));
  state.private_data = nullptr;
  (void)record->each_block([&](Phys base, unsigned order) -> Result<void> {
    kho_.unpreserve(base, order);
    return {};
  });
}

}  // namespace perdure::luo
