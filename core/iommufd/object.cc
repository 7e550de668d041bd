#include "core/iommufd/object.h"

namespace perdure::iommufd {

Result<u32> ObjectTable::reserve() {
  usize at = maybe_free_;
  while (at < slots_.size() && slots_[at].taken) ++at;
  if (at == slots_.size()) TRY(slots_.push_back({}));
  slots_[at].taken = true;
  maybe_free_ = at + 1;
  return static_cast<u32>(at + 1);
}

void ObjectTable::release(u32 id) {
  Slot& slot = slots_[id - 1];
  PERDURE_ASSERT(slot.taken && !slot.object);
  slot.taken = false;
  if (id - 1 < maybe_free_) maybe_free_ = id - 1;
}

void ObjectTable::finalize(u32 id, Ref<Object> object) {
  Slot& slot = slots_[id - 1];
  PERDURE_ASSERT(slot.taken && !slot.object);
  object->id_ = id;
  slot.object = std::move(object);
}

Ref<Object> ObjectTable::remove(u32 id) {
  Ref<Object> object = std::move(slots_[id - 1].object);
  PERDURE_ASSERT(static_cast<bool>(object));
  release(id);
  return object;
}

Object* ObjectTable::find(u32 id) const {
  return id == 0 || id > slots_.size() ? nullptr : slots_[id - 1].object.get();
}

bool ObjectTable::empty() const {
  for (const Slot& slot : slots_) {
    if (slot.taken) return false;
  }
  return true;
}

Object* ObjectTable::next(u32 after) const {
  for (usize at = after; at < slots_.size(); ++at) {
    if (slots_[at].object) return slots_[at].object.get();
  }
  return nullptr;
}

}  // namespace perdure::iommufd
