#include "core/iommufd/handler.h"

namespace perdure::iommufd {

Result<void> IommufdHandler::preserve(luo::FileState& state) {
  IommufdFile* const file = file_cast<IommufdFile>(state.file);
  if (!file) return fail(Errno::Einval);
  const Phys record = TRY(file->preserve(state.session));
  state.data = record.value;
  MutexGuard guard(lock_);
  preserved_.push_back(*file);
  return {};
}

void IommufdHandler::unpreserve(luo::FileState& state) {
  IommufdFile* const file = file_cast<IommufdFile>(state.file);
  {
    MutexGuard guard(lock_);
    preserved_.remove(*file);
  }
  file->unpreserve(Phys(state.data));
}

Result<void> IommufdHandler::audit() {
  return each_preserved([](IommufdFile& file) { return file.check_audit(); });
}

Result<void> IommufdHandler::each_preserved(FunctionRef<Result<void>(IommufdFile&)> visit) {
  for (usize at = 0;; ++at) {
    // LUO holds each of these files until after unpreserve().
    Ref<IommufdFile> file;
    {
      MutexGuard guard(lock_);
      usize i = 0;
      for (IommufdFile& candidate : preserved_) {
        if (i++ == at) file = Ref<IommufdFile>(&candidate);
      }
    }
    if (!file) return {};
    TRY(visit(*file));
  }
}

Result<void> IommufdHandler::freeze(luo::FileState& state) {
  TRY(file_cast<IommufdFile>(state.file)->check_audit());
  RecordWriter::seal(module_.machine(), Phys(state.data));
  return {};
}

void IommufdHandler::unfreeze(luo::FileState& state) {
  RecordWriter::unseal(module_.machine(), Phys(state.data));
}

Result<IncomingRecord> IommufdHandler::read(const luo::FileState& state) const {
  return IncomingRecord::read(module_.kho, Phys(state.data), state.session.generation());
}

Result<Ref<File>> IommufdHandler::retrieve(luo::FileState& state) {
  Result<IncomingRecord> record = read(state);
  if (!record) {
    // Which memory its devices may reach cannot be known, and nobody can take them over (design §8).
    if (record.error() == Errno::Eproto && module_.live_update.quarantine_held(state.session.generation(), state.token,
                                                                               "the record of its iommufd is "
                                                                               "unreadable") != 0) {
      return fail(Errno::Eio);
    }
    return fail(record.error());
  }
  Ref<IommufdFile> file = TRY(module_.open());
  const Result<void> inherited = file->inherit(state.session, state.token, std::move(*record));
  if (inherited) return Ref<File>(std::move(file));
  // Not here, under the session's lock: this is the last reference.
  state.discard = Ref<File>(std::move(file));
  return fail(inherited.error());
}

bool IommufdHandler::can_finish(luo::FileState& state) {
  if (IommufdFile* const file = file_cast<IommufdFile>(state.file)) return file->can_finish();
  // One that came back damaged has nothing left to take over: its devices were stopped.
  if (state.retrieve_status == 0) return false;
  const Result<IncomingRecord> record = read(state);
  return !record && record.error() == Errno::Eproto;
}

void IommufdHandler::finish(luo::FileState& state) {
  // Whose own record was damaged, so that it could not be bound, is in nobody's hands when the session ends.
  module_.live_update.quarantine_held(state.session.generation(), state.token,
                                      "its session was finished without anybody taking it over");
  if (IommufdFile* file = file_cast<IommufdFile>(state.file)) {
    file->finish();
    return;
  }
  // Never retrieved: the record goes; what it names belongs to the IOMMU core. If it cannot be read, it stays.
  Result<IncomingRecord> record = read(state);
  if (record) record->discard(module_.kho);
}

namespace {

// What forward() preserved, so that taking it back needs neither memory nor the record.
struct Forwarded : public HeapObject {
  Forwarded(Heap& heap, IommuLiveUpdate& records) : live_update(records), domains(heap) {}
  // Newest first.
  ~Forwarded() override {
    for (usize i = domains.size(); i > 0; --i) live_update.unpreserve_domain(*domains[i - 1]);
  }
  IommuLiveUpdate& live_update;
  Vec<Ref<PagingDomain>> domains;
};

}  // namespace

Result<u64> IommufdHandler::forward(luo::FileState& state) {
  const IncomingRecord record = TRY(read(state));
  const u64 generation = state.session.generation();
  const u64 next = state.session.next_generation();
  Owned<Forwarded> forwarded = TRY(module_.heap().make<Forwarded>(module_.heap(), module_.live_update));
  TRY(forwarded->domains.reserve(record.hwpts().size()));
  RecordWriter writer(module_.kho, module_.config.write_version, next);
  for (const abi::IommufdAreaRecord& area : record.areas()) TRY(writer.add_area(area));
  for (abi::IommufdHwptRecord hwpt : record.hwpts()) {
    const Result<Ref<PagingDomain>> domain = module_.live_update.held_domain(hwpt.domain, generation);
    // Its devices are quarantined: there is nothing to hand on.
    if (!domain && (domain.error() == Errno::Enoent || domain.error() == Errno::Eio)) continue;
    if (!domain) return fail(domain.error());
    hwpt.domain = TRY(module_.live_update.preserve_domain(**domain, next));
    static_cast<void>(forwarded->domains.push_back(*domain));  // reserved
    TRY(writer.add_hwpt(hwpt));
  }
  const Phys outgoing = TRY(writer.release());
  RecordWriter::seal(module_.machine(), outgoing);
  state.private_data = forwarded.release();
  return outgoing.value;
}

void IommufdHandler::unforward(luo::FileState& state, u64 outgoing) {
  Owned<Forwarded>(module_.heap(), static_cast<Forwarded*>(std::exchange(state.private_data, nullptr))).reset();
  RecordWriter::give_back(module_.kho, Phys(outgoing));
}

}  // namespace perdure::iommufd
