// IOMMU_TEST_CMD (uapi §6), by which Linux's own tests look at a context from the kernel's side. What it says about
// devices that exist for tests alone is not there: such objects cannot be found, and cannot be made (Eopnotsupp).
#include <algorithm>

#include "core/base/scope_guard.h"
#include "core/iommufd/access_file.h"
#include "core/iommufd/iommufd.h"
#include "core/uapi/iommufd_test.h"

namespace perdure::iommufd {

namespace test = uapi::iommu_test;

namespace {

Result<Ref<AccessFile>> find_access(Task& task, u32 fd) {
  const Result<Ref<File>> file = task.file(static_cast<s32>(fd));
  AccessFile* const access = file ? file_cast<AccessFile>(file->get()) : nullptr;
  if (!access) return fail(Errno::Ebadfd);
  return Ref<AccessFile>(access);
}

// Each page of [at, at + length), whole pages, as the program has it now. Efault.
Result<void> each_page(Task& task, u64 at, u64 length, FunctionRef<Result<void>(const PageIdentity&)> visit) {
  const Ref<Process> process = TRY(task.process());
  return task.resolve(UserAddr(at), length, Access::Read,
                      [&](Ref<SharedMemory> found, u64 offset, u64 bytes) -> Result<void> {
                        const Ref<SharedMemory> memory = std::move(found);
                        for (u64 done = 0; done < bytes; done += kPageSize, at += kPageSize)
                          TRY(visit(PageIdentity::of(*memory, offset + done, process.get(), at)));
                        return {};
                      });
}

Access wanted_by(u32 flags) {
  return (flags & test::kAccessWrite) != 0 ? Access::Write : Access::Read;
}

// As programs that make calls up at random say an address: the area by its number from below, and an offset in it.
u64 iova_of_area(const Ioas& ioas, u64 said) {
  u32 number = static_cast<u32>(said);
  u64 found = 0;
  static_cast<void>(ioas.each_area([&](const Area& area) -> Result<void> {
    if (number-- != 0) return {};
    found = area.iova.value + (said >> 32);
    return fail(Errno::Eexist);  // no need to look further
  }));
  return found;
}

// The program's bytes while they are on their way; more than the heap gives out in one piece.
class Bytes {
 public:
  explicit Bytes(Heap& heap) : heap_(heap), chunks_(heap) {}
  Result<void> make(u64 length) {
    length_ = length;
    for (u64 at = 0; at < length; at += kChunk) TRY(chunks_.push_back(TRY(heap_.make<Chunk>())));
    return {};
  }
  Result<void> each(FunctionRef<Result<void>(u64 at, std::span<std::byte> part)> visit) {
    for (u64 at = 0; at < length_; at += kChunk)
      TRY(visit(at, std::span(chunks_[at / kChunk]->bytes).first(std::min(kChunk, length_ - at))));
    return {};
  }

 private:
  static constexpr u64 kChunk = u64{64} << 10;
  struct Chunk {
    std::byte bytes[kChunk];
  };
  Heap& heap_;
  u64 length_ = 0;
  Vec<Owned<Chunk>> chunks_;
};

}  // namespace

Result<void> IommufdFile::test_cmd(Call<uapi::IommuTestCmd>& call) {
  switch (call.cmd.op) {
    case test::kAddReserved: return test_add_reserved(call);
    case test::kMdCheckMap: return test_check_map(call);
    case test::kMdCheckRefs: return test_check_refs(call);
    case test::kCreateAccess: return test_create_access(call);
    case test::kDestroyAccessPages: return test_destroy_access_pages(call);
    case test::kAccessPages: return test_access_pages(call);
    case test::kAccessRw: return test_access_rw(call);
    case test::kAccessReplaceIoas: return test_access_replace(call);
    // How much of a large mapping is handled at once: nothing here goes by it.
    case test::kSetTempMemoryLimit:
      if (call.cmd.get<test::MemoryLimit>().limit < test::kLeastMemoryLimit) return fail(Errno::Einval);
      return {};
    default: return test_without_device(call);
  }
}

// What names an object that a test's device would have made finds none. What would make one, or look into a real device
// as if it were one, is not supported.
Result<void> IommufdFile::test_without_device(Call<uapi::IommuTestCmd>& call) {
  const uapi::IommuTestCmd& cmd = call.cmd;
  MutexGuard guard(lock_);
  const auto found = [](const Object* object) { return fail(object ? Errno::Eopnotsupp : Errno::Enoent); };
  switch (cmd.op) {
    case test::kMockDomain:
    case test::kMockDomainFlags: return found(objects_.find(cmd.id));  // where the device is to be attached
    case test::kMockDomainReplace:
    case test::kPasidAttach:
    case test::kPasidReplace:
    case test::kPasidDetach:
    case test::kPasidCheckHwpt:
    case test::kMdCheckIotlb: return fail(Errno::Enoent);
    case test::kDirty: return found(objects_.find_as<HwptPaging>(cmd.id));
    case test::kDevCheckCache: return found(objects_.find_as<Device>(cmd.id));
    case test::kTriggerIopf:
    case test::kTriggerVevent: return found(objects_.find_as<Device>(cmd.get<test::TestDevice>().dev_id));
    default: return fail(Errno::Eopnotsupp);
  }
}

Result<void> IommufdFile::test_add_reserved(Call<uapi::IommuTestCmd>& call) {
  const auto args = call.cmd.get<test::AddReserved>();
  if (args.length == 0) return fail(Errno::Einval);
  if (range_overflows(args.start, args.length)) return fail(Errno::Eoverflow);
  const Ref<Ioas> ioas = TRY(find_ioas(call.cmd.id));
  return ioas->reserve_for_good({args.start, args.start + (args.length - 1)});
}

// --- what is pinned, and where it leads -------------------------------------------------------------------------

// Of any page table that has an IOAS: hardware reaches at the address what was pinned for it, and that is what the
// program has in its memory.
Result<void> IommufdFile::test_check_map(Call<uapi::IommuTestCmd>& call) {
  const auto args = call.cmd.get<test::CheckMap>();
  Ref<HwptPaging> hwpt;
  {
    MutexGuard guard(lock_);
    hwpt = Ref<HwptPaging>(objects_.find_as<HwptPaging>(call.cmd.id));
  }
  if (!hwpt) return fail(Errno::Enoent);
  if (!hwpt->ioas() || (args.iova | args.length | args.uptr) % kPageSize != 0) return fail(Errno::Einval);
  if (args.length == 0) return {};
  if (range_overflows(args.iova, args.length) || range_overflows(args.uptr, args.length)) return fail(Errno::Einval);
  Vec<Ioas::Slice> slices(heap_);
  if (!hwpt->ioas()->slices_of(args.iova, args.length, slices)) return fail(Errno::Einval);
  usize slice = 0;
  u64 into = 0;
  Iova iova(args.iova);
  return each_page(call.task, args.uptr, args.length, [&](const PageIdentity& page) -> Result<void> {
    if (into == slices[slice].length) {
      ++slice;
      into = 0;
    }
    const Ioas::Slice& part = slices[slice];
    const Result<PageIdentity> pinned = part.pages->pinned_at(part.offset + into);
    Phys place;
    const auto take = [&](const Pages::Piece& piece) -> Result<void> {
      if (!piece.memory) return fail(Errno::Efault);
      return piece.memory->extents(piece.offset, piece.length, [&](const FileExtent& extent) -> Result<void> {
        place = extent.base;
        return {};
      });
    };
    const Result<void> located = part.pages->each_piece(part.offset + into, kPageSize, take);
    const Result<pt::Leaf> leaf = hwpt->domain().leaf_at(iova);
    if (!pinned || !located || !leaf) return fail(Errno::Einval);
    if (*pinned != page || leaf->phys + (iova - leaf->iova) != place) return fail(Errno::Einval);
    into += kPageSize;
    iova += kPageSize;
    return {};
  });
}

// Everybody's pages: a page may be pinned through any context.
Result<void> IommufdFile::collect_pages(Vec<Ref<Pages>>& pages) const {
  MutexGuard guard(lock_);
  for (const Object* object = objects_.next(0); object; object = objects_.next(object->id())) {
    if (object->type() != ObjectType::Ioas) continue;
    TRY(static_cast<const Ioas*>(object)->each_area([&](const Area& area) {
      const bool copied = std::find(pages.begin(), pages.end(), area.pages) != pages.end();
      return copied ? Result<void>() : pages.push_back(area.pages);
    }));
  }
  return {};
}

Result<void> IommufdFile::test_check_refs(Call<uapi::IommuTestCmd>& call) {
  const auto args = call.cmd.get<test::CheckRefs>();
  if ((args.length | args.uptr) % kPageSize != 0 || args.uptr + args.length < args.uptr) return fail(Errno::Einval);
  Vec<Ref<Pages>> all(heap_);
  Result<void> collected;
  module_.each_context([&](const IommufdFile& context) {
    if (collected) collected = context.collect_pages(all);
  });
  TRY(std::move(collected));
  if (args.length == 0) return {};
  return each_page(call.task, args.uptr, args.length, [&](const PageIdentity& page) -> Result<void> {
    u32 refs = 0;
    for (const Ref<Pages>& pages : all) refs += pages->pins_of(page);
    if (refs != args.refs) return fail(Errno::Eio);
    return {};
  });
}

// --- accesses ---------------------------------------------------------------------------------------------------

Result<void> IommufdFile::test_create_access(Call<uapi::IommuTestCmd>& call) {
  auto args = call.cmd.get<test::CreateAccess>();
  if ((args.flags & ~test::kCreateNeedsPin) != 0) return fail(Errno::Eopnotsupp);
  Ref<IoasAccess> access = TRY(heap_.make_ref<IoasAccess>(heap_, (args.flags & test::kCreateNeedsPin) != 0));
  FdSlot slot = TRY(FdSlot::reserve(call.task));
  Ref<AccessFile> file = TRY(heap_.make_ref<AccessFile>(Ref<IommufdFile>(this), access));
  {
    MutexGuard guard(lock_);
    const u32 id = TRY(objects_.reserve());
    const Result<void> attached = [&]() -> Result<void> {
      lock_.assert_held();
      Ioas* const ioas = objects_.find_as<Ioas>(call.cmd.id);
      if (!ioas) return fail(Errno::Enoent);
      return attach_access_locked(*access, *ioas);
    }();
    if (!attached) {
      objects_.release(id);
      return attached;
    }
    access->users = 1;  // the file's
    objects_.finalize(id, access);
  }
  args.out_access_fd = slot.number();
  call.cmd.set(args);
  TRY(call.respond());
  slot.install(std::move(file));
  return {};
}

Result<void> IommufdFile::attach_access_locked(IoasAccess& access, Ioas& ioas) {
  TRY(ioas.admit_access(access));
  if (access.ioas) {
    access.ioas->leave_access(access);
    --access.ioas->users;
  }
  ioas.join_access(access);
  ++ioas.users;
  access.ioas = Ref<Ioas>(&ioas);
  return {};
}

// The object goes with its file, or with the call that failed to make one.
void IommufdFile::end_access(IoasAccess& access) {
  Ref<Object> drop;
  Ref<Ioas> ioas;
  MutexGuard guard(lock_);
  if (access.id() == 0) return;
  access.ioas->leave_access(access);
  --access.ioas->users;
  ioas = std::move(access.ioas);
  drop = objects_.remove(access.id());
}

Result<void> IommufdFile::test_access_replace(Call<uapi::IommuTestCmd>& call) {
  const Ref<AccessFile> file = TRY(find_access(call.task, call.cmd.id));
  return file->context().replace_access(file->access(), call.cmd.get<test::ReplaceIoas>().ioas_id);
}

Result<void> IommufdFile::replace_access(IoasAccess& access, u32 ioas_id) {
  Ref<Ioas> former;
  MutexGuard guard(lock_);
  Ioas* const ioas = objects_.find_as<Ioas>(ioas_id);
  if (!ioas) return fail(Errno::Enoent);
  former = access.ioas;
  if (former.get() == ioas) return {};
  return attach_access_locked(access, *ioas);
}

Result<Ref<Ioas>> IommufdFile::ioas_of(const IoasAccess& access) const {
  MutexGuard guard(lock_);
  return Ref<Ioas>(access.ioas);
}

Result<u32> IommufdFile::pin(Task& task, IoasAccess& access, u64 iova, u64 length, Access wanted) {
  MutexGuard guard(lock_);
  return access.ioas->pin(task, access, iova, length, wanted);
}

Result<void> IommufdFile::unpin(IoasAccess& access, u32 number) {
  MutexGuard guard(lock_);
  return access.ioas->unpin(access, number);
}

Result<void> IommufdFile::test_access_pages(Call<uapi::IommuTestCmd>& call) {
  auto args = call.cmd.get<test::AccessPages>();
  if (args.length > test::kMostAccessed) return fail(Errno::Enomem);
  if ((args.flags & ~(test::kAccessWrite | test::kAccessByArea)) != 0) return fail(Errno::Eopnotsupp);
  const Ref<AccessFile> file = TRY(find_access(call.task, call.cmd.id));
  IommufdFile& context = file->context();
  if (!file->access().pins()) return fail(Errno::Eopnotsupp);
  const Ref<Ioas> ioas = TRY(context.ioas_of(file->access()));
  const u64 iova = (args.flags & test::kAccessByArea) != 0 ? iova_of_area(*ioas, args.iova) : args.iova;
  const u32 number = TRY(context.pin(call.task, file->access(), iova, args.length, wanted_by(args.flags)));
  // Enoent: somebody unmapped it since.
  ScopeGuard undo([&] { static_cast<void>(context.unpin(file->access(), number)); });
  if (args.uptr != 0) {
    Vec<Ioas::Slice> slices(heap_);
    TRY(ioas->slices_of(iova, args.length, slices));
    usize slice = 0;
    u64 into = 0;
    const u64 from = args.uptr - args.uptr % kPageSize;
    TRY(each_page(call.task, from, align_up(args.length, kPageSize), [&](const PageIdentity& page) -> Result<void> {
      if (into >= slices[slice].length) {
        ++slice;
        into = 0;
      }
      const Result<PageIdentity> pinned = slices[slice].pages->pinned_at(slices[slice].offset + into);
      into += kPageSize;
      return pinned && *pinned == page ? Result<void>() : fail(Errno::Ebade);
    }));
  }
  args.out_access_pages_id = number;
  call.cmd.set(args);
  TRY(call.respond());
  undo.dismiss();
  return {};
}

Result<void> IommufdFile::test_destroy_access_pages(Call<uapi::IommuTestCmd>& call) {
  const Ref<AccessFile> file = TRY(find_access(call.task, call.cmd.id));
  return file->context().unpin(file->access(), call.cmd.get<test::DestroyAccessPages>().access_pages_id);
}

// All bytes are the program's before the first one is written, and the program gets none unless all could be read.
Result<void> IommufdFile::test_access_rw(Call<uapi::IommuTestCmd>& call) {
  const auto args = call.cmd.get<test::AccessRw>();
  if (args.length > test::kMostAccessed) return fail(Errno::Enomem);
  // The slow way differs from the fast one in nothing that can be seen.
  constexpr u32 kKnown = test::kAccessWrite | test::kAccessRwSlow | test::kAccessByArea;
  if ((args.flags & ~kKnown) != 0) return fail(Errno::Eopnotsupp);
  const Ref<AccessFile> file = TRY(find_access(call.task, call.cmd.id));
  const Ref<Ioas> ioas = TRY(file->context().ioas_of(file->access()));
  const bool write = (args.flags & test::kAccessWrite) != 0;
  const UserAddr user(args.uptr);
  Bytes bytes(heap_);
  TRY(bytes.make(args.length));
  if (write) TRY(bytes.each([&](u64 at, std::span<std::byte> part) { return call.task.copy_in(part, user + at); }));
  const u64 iova = (args.flags & test::kAccessByArea) != 0 ? iova_of_area(*ioas, args.iova) : args.iova;
  if (args.length == 0) return fail(Errno::Einval);
  if (range_overflows(iova, args.length)) return fail(Errno::Eoverflow);
  TRY(bytes.each([&](u64 at, std::span<std::byte> part) {
    return write ? ioas->write(call.task, iova + at, part) : ioas->read(call.task, iova + at, part);
  }));
  if (write) return {};
  return bytes.each([&](u64 at, std::span<std::byte> part) { return call.task.copy_out(user + at, part); });
}

}  // namespace perdure::iommufd
