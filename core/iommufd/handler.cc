#include "core/iommufd/handler.h"

namespace perdure::iommufd {

Result<void> IommufdHandler::preserve(luo::FileState& state) {
  IommufdFile* const file = file_cast<IommufdFile>(state.file);
  if (!file) return fail(Errno::Einval);
  state.data = TRY(file->preserve(state.session))
  .value;
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

Result<void> IommufdHandler::freeze(luo::FileState& state) {
  RecordWriter::seal(module_.machine(), Phys(state.data));
  return {};
}

void IommufdHandler::unfreeze(luo::FileState& state) {
  RecordWriter::unseal(module_.machine(), Phys(state.data));
}

Result<void> IommufdHandler::audit() {
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
    TRY(file->audit());
  }
}

Result<Ref<File>> IommufdHandler::retrieve(luo::FileState& state) {
  IncomingRecord record = TRY(IncomingRecord::read(module_.kho, Phys(state.data), state.session.generation()));
  Ref<IommufdFile> file = TRY(module_.open());
  TRY(file->take_record(state.session, state.token, std::move(record)));
  return Ref<File>(std::move(file));
}

bool IommufdHandler::can_finish(luo::FileState& state) {
  IommufdFile* const file = file_cast<IommufdFile>(state.file);
  return state.retrieve_status == 1 && file && file->can_finish();
}

void IommufdHandler::finish(luo::FileState& state) {
  if (IommufdFile* file = file_cast<IommufdFile>(state.file)) {
    file->finish();
    return;
  }
  // Never retrieved: the record goes; what it names belongs to the IOMMU core. If it cannot be read, it stays.
  Result<IncomingRecord> record = IncomingRecord::read(module_.kho, Phys(state.data), state.session.generation());
  if (record) record->discard(module_.kho);
}

}  // namespace perdure::iommufd
